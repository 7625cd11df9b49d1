"""Serves the route table on the control socket."""

import asyncio
import functools
import socket
from contextlib import suppress

from aiohttp import web

from cahoots_vllm.api.access import PEER, check, read_peer
from cahoots_vllm.api.openapi import build_openapi
from cahoots_vllm.api.problem import Handler, problem_middleware
from cahoots_vllm.api.routes import Route
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.host.leaving import Site, fall_silent, serve, stop_accepting

_MAX_BODY_BYTES = 64 * 1024
# So long those that ask as the daemon ends are answered. A stream lasts longer and is cut off.
_LEAVE_S = 1.0
_SHUTDOWN_S = 0.5


def build_app(routes: tuple[Route, ...]) -> web.Application:
    """Return the application; every route checks its access first."""
    app = web.Application(
        middlewares=[problem_middleware, _refuse_browsers], client_max_size=_MAX_BODY_BYTES
    )
    document = functools.cache(build_openapi)  # made when somebody asks

    async def openapi(_request: web.Request) -> web.Response:
        return web.json_response(document(routes))

    app.router.add_get("/v1/openapi.json", openapi)
    for route in routes:
        app.router.add_route(route.method, route.path, functools.partial(_guarded, route))
    return app


async def _guarded(route: Route, request: web.Request) -> web.StreamResponse:
    transport = request.transport
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is None:
        raise CahootsError(Kind.NOT_PERMITTED, "the connection is gone", "connect again")
    peer = read_peer(connection)
    check(peer, route.access)
    request[PEER] = peer
    return await route.handler(request)


@web.middleware
async def _refuse_browsers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what a browser was talked into sending through some bridge to the socket."""
    host = request.headers.get("Host", "")
    is_foreign = host.partition(":")[0] not in ("localhost", "cahoots-vllm", "")
    if is_foreign or "Origin" in request.headers or "Referer" in request.headers:
        raise CahootsError(
            Kind.NOT_PERMITTED, "requests of web pages are refused", "use cahootsctl"
        )
    return await handler(request)


class ApiServer:
    """The control API on its listening socket."""

    def __init__(self, routes: tuple[Route, ...], listener: socket.socket) -> None:
        """Nothing is served before `start`."""
        app = build_app(routes)
        app.middlewares.insert(0, self._count)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_S
        )
        self._listener = listener
        self._sites: list[Site] = []
        self._busy = 0

    async def start(self) -> None:
        """Answer from now on."""
        await self._runner.setup()
        self._sites = await serve(self._runner, [self._listener])

    async def leave(self) -> None:
        """Take no more connections, and answer who has one, if that is soon done."""
        await stop_accepting(self._sites)
        self._sites = []
        with suppress(TimeoutError):
            await asyncio.wait_for(fall_silent(self._runner, lambda: self._busy > 0), _LEAVE_S)

    async def stop(self) -> None:
        """Close the socket; streams still open end."""
        await self._runner.cleanup()

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._busy += 1
        try:
            return await handler(request)
        finally:
            self._busy -= 1
