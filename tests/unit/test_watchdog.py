"""The watchdog is fed by work that was done, not by a timer."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from cahoots_vllm.host.notify import watchdog_period_s
from cahoots_vllm.watchdog import feed_watchdog

_PERIOD_S = 0.2


async def moves() -> None:
    return


async def hangs() -> None:
    await asyncio.sleep(60)


@asynccontextmanager
async def control_socket(path: Path, answer: bytes | None) -> AsyncIterator[Path]:
    """A control socket that says this; None: it accepts and is silent."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is not None:
            writer.write(answer)
        else:
            await reader.read()  # until the client gives up
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_unix_server(serve, path)
    yield path
    await asyncio.sleep(0.05)  # until the last client is gone
    server.close()


async def signs_of_life(
    beat: Callable[[], Awaitable[None]], place: Path, *, for_s: float = 1.0
) -> int:
    """Return how often it was fed in that time."""
    fed = 0

    def feed() -> None:
        nonlocal fed
        fed += 1

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(for_s):
            await feed_watchdog(_PERIOD_S, beat, place, feed)
    return fed


_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


async def test_daemon_that_works_feeds_it_several_times_a_period(tmp_path: Path) -> None:
    async with control_socket(tmp_path / "s", _OK) as place:
        assert await signs_of_life(moves, place) >= 1.0 / _PERIOD_S * 2


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 503 Unavailable\r\n\r\n", b""])
async def test_control_socket_that_does_not_answer_starves_it(
    tmp_path: Path, answer: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    async with control_socket(tmp_path / "s", answer) as place:
        assert await signs_of_life(moves, place, for_s=0.4) == 0
    assert "does not answer itself" in caplog.text


async def test_loop_that_hangs_starves_it(tmp_path: Path) -> None:
    async with control_socket(tmp_path / "s", _OK) as place:
        assert await signs_of_life(hangs, place, for_s=0.4) == 0


async def test_missing_control_socket_starves_it(tmp_path: Path) -> None:
    assert await signs_of_life(moves, tmp_path / "gone", for_s=0.4) == 0


@pytest.mark.parametrize(
    ("environ", "period_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_period_is_systemds(environ: dict[str, str], period_s: float | None) -> None:
    assert watchdog_period_s(environ, 7) == period_s
