"""Runs the hub on a free port of loopback, in a thread with a loop of its own."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from .hub import FakeHub


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """Serve until the end of the block."""
    hub, loop = FakeHub(), asyncio.new_event_loop()
    runner = loop.run_until_complete(_start(hub))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield hub
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(_stop(runner))
        loop.close()


async def _start(hub: FakeHub) -> web.AppRunner:
    runner = web.AppRunner(hub.app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    await web.TCPSite(runner, "127.0.0.2", port).start()
    hub.endpoint, hub.cdn = f"http://127.0.0.1:{port}", f"http://127.0.0.2:{port}"
    return runner


async def _stop(runner: web.AppRunner) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()  # a stalled answer would keep the end waiting
    await asyncio.gather(*others, return_exceptions=True)
    await runner.cleanup()
