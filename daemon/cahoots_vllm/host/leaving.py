"""How an HTTP server lets go of its listening sockets and cuts off nobody who got through."""

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import Final

from aiohttp import web

Site = tuple[web.SockSite, socket.socket]
_LOOK_S: Final = 0.02
# A connection just accepted takes turns of the event loop until it counts as one.
_SETTLING_LOOKS: Final = 4
# Who has just connected has half a second to ask, and would find the connection cut else.
# Looks, not time: on a busy host a single turn of the event loop may take as long.
_ASKING_LOOKS: Final = 25


async def serve(runner: web.AppRunner, listeners: Iterable[socket.socket]) -> list[Site]:
    """Accept on these sockets from now on; they are the server's own, which closes them."""
    sites = [(web.SockSite(runner, listener), listener) for listener in listeners]
    for site, _ in sites:
        await site.start()
    return sites


async def stop_accepting(sites: Iterable[Site]) -> None:
    """Accept no more; who has been accepted is served. The others wait in the sockets' copies."""
    left = list(sites)
    for _, listener in left:
        asyncio.get_running_loop().remove_reader(listener)
    # asyncio drops a connection whose server closes within the turn that accepted it.
    await asyncio.sleep(0)
    for site, _ in left:
        await site.stop()


async def fall_silent(runner: web.AppRunner, is_busy: Callable[[], bool]) -> None:
    """Wait until nobody is being answered (`is_busy`) or may be about to ask."""
    silent = 0
    while silent < (_ASKING_LOOKS if _has_connections(runner) else _SETTLING_LOOKS):
        await asyncio.sleep(_LOOK_S)
        silent = 0 if is_busy() else silent + 1


def _has_connections(runner: web.AppRunner) -> bool:
    return runner.server is not None and bool(runner.server.connections)
