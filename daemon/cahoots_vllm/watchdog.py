"""Feeds systemd's watchdog, but only while the daemon really works.

A sign of life is given when, within half a period, the supervisor's loop has taken an event and
the control socket has answered a real request. A hung daemon is killed by systemd and started
again; its worker goes on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

_ASK = b"GET /v1/health?level=alive HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_ANSWER = b"HTTP/1.1 200 "
_LOG = logging.getLogger("cahoots_vllm")


async def feed_watchdog(
    period_s: float,
    beat: Callable[[], Awaitable[None]],
    control_socket: Path,
    alive: Callable[[], None],
) -> None:
    """Call `alive` about four times a period (seconds), until cancelled."""
    while True:
        try:
            async with asyncio.timeout(period_s / 2):
                await beat()
                await _ask(control_socket)
        except (TimeoutError, OSError, EOFError) as error:
            # Not fed: if that stays so, systemd ends this process.
            _LOG.error("the daemon does not answer itself: %s", repr(error))
        else:
            alive()
        await asyncio.sleep(period_s / 4)


async def _ask(control_socket: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(str(control_socket))
    try:
        writer.write(_ASK)
        answer = await reader.readexactly(len(_ANSWER))
    finally:
        writer.close()
    if answer != _ANSWER:
        message = f"the control socket says {answer.decode(errors='replace')}"
        raise OSError(message)
