"""The HTTP front at LOCAL_LLM_URL: its own health routes, everything else to the worker."""

import socket

from aiohttp import web

from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.core.settings import GatewaySettings
from cahoots_vllm.gateway.proxy import Proxy

_SHUTDOWN_S = 2.0
_MAX_HEADER_BYTES = 64 * 1024


class GatewayServer:
    """The gateway on its listening sockets."""

    def __init__(
        self, rotation: Rotation, settings: GatewaySettings, listeners: list[socket.socket]
    ) -> None:
        """Nothing is served before `start`."""
        self._rotation = rotation
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/ready", self._ready)
        app.router.add_route("*", "/{path:.*}", Proxy(rotation, settings).handle)
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
        for listener in self._listeners:
            await web.SockSite(self._runner, listener).start()

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
