"""The HTTP front at LOCAL_LLM_URL: its own health routes, everything else to the worker."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import BadHttpMessage

from cahoots_vllm.control.metrics import CONTENT_TYPE
from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.core.settings import GatewaySettings
from cahoots_vllm.gateway.call import REQUEST_ID, request_id
from cahoots_vllm.gateway.deliver import Deliverer
from cahoots_vllm.gateway.keys import Guard
from cahoots_vllm.gateway.ollama.api import OllamaApi
from cahoots_vllm.gateway.ollama.catalog import Catalog
from cahoots_vllm.gateway.proxy import RECORD, Proxy
from cahoots_vllm.gateway.record import End, Record
from cahoots_vllm.gateway.reply import LeftError
from cahoots_vllm.host.leaving import Site, fall_silent, serve, stop_accepting

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# Told of every request once it is over.
Observer = Callable[[Record], None]
# Returns the page of figures.
RenderMetrics = Callable[[], Awaitable[bytes]]
_OWN_ROUTES: Final = ("/health", "/ready", "/metrics")
_SHUTDOWN_S = 2.0
_MAX_HEADER_BYTES = 64 * 1024


class _NotBadRequests(logging.Filter):
    """What a client has garbled is answered 400, and is no error of ours to fill the log with.

    aiohttp writes it with a traceback, and with the bytes: they may be a key.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is one of the others."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, BadHttpMessage)


_HTTP_LOG: Final = logging.getLogger(f"{__name__}.http")
_HTTP_LOG.addFilter(_NotBadRequests())


class Listeners(Protocol):
    """Where listening sockets come from (host.sockets)."""

    def gateway(self, hosts: tuple[str, ...], port: int) -> list[socket.socket]:
        """Return a socket for each address. Raises CahootsError, and nothing has changed then."""
        ...

    def retire(self) -> None:
        """Let go of the addresses that were not asked for last."""
        ...


class GatewayServer:
    """The gateway on its listening sockets."""

    def __init__(
        self,
        rotation: Rotation,
        settings: GatewaySettings,
        listeners: Listeners,
        observers: tuple[Observer, ...] = (),
    ) -> None:
        """Nothing is served before `start`; connections wait from now on. Raises CahootsError.

        `render_metrics` is to be set before.
        """
        self.render_metrics: RenderMetrics | None = None
        self._rotation = rotation
        self._observers = observers
        self._deliverer = Deliverer(rotation, settings)
        self._proxy = Proxy(self._deliverer, settings, lambda: rotation.terms)
        self._ollama: OllamaApi | None = None
        self._sites: list[Site] = []
        self._busy = 0
        self._is_leaving = False
        self._guard = Guard(settings)
        app = web.Application(middlewares=[self._count, self._guard.check])
        app.on_response_prepare.append(self._finish_head)
        app.router.add_get("/health", self._health)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_route(
            "*", "/{path:.*}", self._dispatch, expect_handler=self._answer_expectation
        )
        self._runner = web.AppRunner(
            app,
            logger=_HTTP_LOG,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_S,
            auto_decompress=False,
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
        )
        self._listeners = listeners
        self._first = listeners.gateway(settings.listen, settings.port)

    def speak_ollama(self, catalog: Catalog) -> None:
        """Serve Ollama's API, too, for these models."""
        self._ollama = OllamaApi(self._deliverer, catalog)

    async def start(self) -> None:
        """Answer from now on."""
        await self._runner.setup()
        self._sites = await serve(self._runner, self._first)
        self._listeners.retire()

    async def apply(self, settings: GatewaySettings) -> None:
        """Take new settings; connections that are open stay open.

        Raises CahootsError when the new address cannot be listened on; the old one is kept then.
        """
        old = self._proxy.settings
        is_other = (settings.listen, settings.port) != (old.listen, old.port)
        if is_other and not self._is_leaving:  # the next daemon reads the settings anew
            await self._rebind(settings)
        self._guard.settings = self._proxy.settings = self._deliverer.settings = settings

    async def _rebind(self, new: GatewaySettings) -> None:
        left = self._sites
        listeners = self._listeners.gateway(new.listen, new.port)
        self._sites = await serve(self._runner, listeners)
        await stop_accepting(left)
        self._listeners.retire()

    async def leave(self, timeout_s: float) -> None:
        """Take no more connections and answer what is under way, so long at most.

        New connections wait in the listening sockets for the next daemon.
        """
        self._is_leaving = True
        await stop_accepting(self._sites)
        self._sites = []
        with suppress(TimeoutError):
            await asyncio.wait_for(fall_silent(self._runner, lambda: self._busy > 0), timeout_s)

    async def stop(self) -> None:
        """Close the sockets and what is left on them."""
        await self._runner.cleanup()

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        base_path = self._proxy.settings.base_path
        found = self._ollama.find(request, base_path) if self._ollama is not None else None
        if found is None:
            return await self._proxy.handle(request)
        record = request[RECORD]
        record.route, handle = found
        return await handle(request, record)

    @web.middleware
    async def _count(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        now = asyncio.get_running_loop().time()
        route = request.path if request.path in _OWN_ROUTES else "other"
        record = Record(request_id(request.headers), request.method, route, now)
        request[RECORD] = record
        self._busy += 1
        try:
            response = await handler(request)
        except LeftError:
            record.end = End.LEFT
            return web.Response()  # for nobody
        except web.HTTPException as error:  # aiohttp's own refusals
            record.end, record.status = End.REFUSED, error.status
            raise
        except asyncio.CancelledError:
            record.end = End.LEFT
            raise
        else:
            record.status = response.status
            if not response.prepared:
                response.headers[REQUEST_ID] = record.id
            return response
        finally:
            self._busy -= 1
            for observer in self._observers:
                observer(record)

    async def _finish_head(self, request: web.Request, response: web.StreamResponse) -> None:
        self._guard.let_read(request, response)
        if self._is_leaving:
            response.force_close()  # the next request is for the next daemon

    async def _answer_expectation(self, request: web.Request) -> None:
        """Ask for the body where a client waits to be asked (RFC 9110, 10.1.1), and may send it.

        Anything else is ignored: aiohttp's own fails where the header is no text.
        """
        is_asked = request.headers.get("Expect", "").lower() == "100-continue"
        if is_asked and request.version >= HttpVersion11 and self._guard.refusal(request) is None:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # or the answer would take itself for begun

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

    async def _metrics(self, _request: web.Request) -> web.Response:
        """One page for the daemon, the gateway and the worker."""
        page = await self.render_metrics() if self.render_metrics is not None else b""
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE})
