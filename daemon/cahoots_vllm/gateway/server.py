"""The HTTP front at LOCAL_LLM_URL: its own health routes, everything else to the worker."""

import socket

from aiohttp import web

from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.core.settings import GatewaySettings
from cahoots_vllm.gateway.proxy import Proxy
from cahoots_vllm.host import sockets

_SHUTDOWN_S = 2.0
_MAX_HEADER_BYTES = 64 * 1024


class GatewayServer:
    """The gateway on its listening sockets."""

    def __init__(
        self, rotation: Rotation, settings: GatewaySettings, listeners: list[socket.socket]
    ) -> None:
        """Nothing is served before `start`."""
        self._rotation = rotation
        self._proxy = Proxy(rotation, settings)
        self._sites: list[web.SockSite] = []
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/ready", self._ready)
        app.router.add_route("*", "/{path:.*}", self._proxy.handle)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_S,
            auto_decompress=False,
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
        )
        self._listeners = listeners

    async def start(self) -> None:
        """Answer from now on."""
        await self._runner.setup()
        self._sites = await self._serve(self._listeners)

    async def apply(self, settings: GatewaySettings) -> None:
        """Take new settings; connections that are open stay open.

        Raises CahootsError when the new address cannot be listened on; the old one is kept then.
        """
        old = self._proxy.settings
        if (settings.listen, settings.port) != (old.listen, old.port):
            await self._rebind(old, settings)
        self._proxy.settings = settings

    async def _rebind(self, old: GatewaySettings, new: GatewaySettings) -> None:
        left = self._sites
        if new.port == old.port:
            # An address is given to one socket only: what both have must be left first.
            await _leave(left)
        try:
            listeners = sockets.listen_tcp(new.listen, new.port)
        except CahootsError:
            if new.port == old.port:
                self._sites = await self._serve(sockets.listen_tcp(old.listen, old.port))
            raise
        self._sites = await self._serve(listeners)
        if new.port != old.port:
            await _leave(left)

    async def _serve(self, listeners: list[socket.socket]) -> list[web.SockSite]:
        sites = [web.SockSite(self._runner, listener) for listener in listeners]
        for site in sites:
            await site.start()
        return sites

    async def stop(self) -> None:
        """Close the sockets and what is left on them."""
        await self._runner.cleanup()

    async def _health(self, _request: web.Request) -> web.Response:
        """200: a request sent now would be served or held."""
        refusal = self._rotation.refusal
        if refusal is None:
            return web.json_response({"status": "ok", "held": self._rotation.held})
        return web.json_response({"status": "unavailable", "reason": refusal.message}, status=503)

    async def _ready(self, _request: web.Request) -> web.Response:
        """200: by a ready worker."""
        is_open = self._rotation.is_open
        return web.json_response({"ready": is_open}, status=200 if is_open else 503)


async def _leave(sites: list[web.SockSite]) -> None:
    for site in sites:
        await site.stop()
