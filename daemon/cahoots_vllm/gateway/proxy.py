"""Passes requests through to the worker, those on routes that clients have a right to."""

from collections.abc import Callable, Sequence
from typing import Final

from aiohttp import web

from cahoots_vllm.control.terms import Terms
from cahoots_vllm.core.engine_routes import MODELS, below_base, find_route, route_label
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.settings import GatewaySettings
from cahoots_vllm.gateway.answers import Dialect, error_response
from cahoots_vllm.gateway.call import LOOKS, NAMED_BYTES, BodyReader, Call, engine_headers
from cahoots_vllm.gateway.deliver import Deliverer
from cahoots_vllm.gateway.listing import ListReply, list_response
from cahoots_vllm.gateway.record import End, Record
from cahoots_vllm.gateway.reply import PassReply
from cahoots_vllm.gateway.websocket import is_websocket, pass_websocket

RECORD: Final = web.RequestKey("record", Record)
_ANTHROPIC: Final = "/v1/messages"


class Proxy:
    """Handles every route that is not the gateway's own."""

    def __init__(
        self,
        deliverer: Deliverer,
        settings: GatewaySettings,
        terms: Callable[[], Terms],
    ) -> None:
        """`settings` may be replaced at any time; `terms` are those of now."""
        self.settings = settings
        self._terms = terms
        self._deliverer = deliverer
        self._bodies = BodyReader()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass one request on, or answer why not. A client that hangs up cancels this."""
        record = request[RECORD]
        target = below_base(request.raw_path, self.settings.base_path)
        route = find_route(target)
        if route is None:
            record.end, record.problem = End.REFUSED, "no route for clients"
            return error_response(_no_route(request))
        record.route = route_label(route)
        asleep = self._terms().asleep
        if asleep and request.method in LOOKS and not is_websocket(request):
            if route == MODELS:
                return list_response(dict.fromkeys((*asleep, *self._others())))
            record.end, record.problem = End.REFUSED, "the model is unloaded"
            return error_response(_is_unloaded(asleep[0]))
        dialect = Dialect.ANTHROPIC if route.startswith(_ANTHROPIC) else Dialect.OPENAI
        most = NAMED_BYTES if self._terms().names else None
        try:
            body = await self._bodies.read(request, self.settings.hold_timeout_s, most)
        except CahootsError as error:
            record.end, record.problem = End.REFUSED, str(error)
            return error_response(error, dialect)
        headers = engine_headers(request)
        call = Call(record.id, request.method, target, headers, body, dialect)
        try:
            if is_websocket(request):
                return await self._websocket(request, call, record)
            return await self._deliver(request, call, record)
        finally:
            self._bodies.release(body)

    async def _deliver(
        self, request: web.Request, call: Call, record: Record
    ) -> web.StreamResponse:
        reply = PassReply(request, call.dialect, record.id)
        others = self._others() if call.is_listing else ()
        passing = ListReply(reply, others) if others else reply
        await self._deliverer.deliver(call, passing, record)
        if reply.response is None:
            message = "deliver answers every request"
            raise AssertionError(message)
        return reply.response

    def _others(self) -> Sequence[str]:
        """Return the names by which a request gets another model."""
        return sorted(self._terms().names)

    async def _websocket(
        self, request: web.Request, call: Call, record: Record
    ) -> web.StreamResponse:
        reply = PassReply(request, call.dialect, record.id)
        try:
            backend = await self._deliverer.worker(call, reply, record)
            record.deliveries = 1
            return await pass_websocket(request, call, backend)
        except CahootsError as error:
            record.end, record.problem = End.REFUSED, str(error)
            return error_response(error, call.dialect)


def _is_unloaded(model: str) -> CahootsError:
    return CahootsError(
        Kind.WORKER_FAILED,
        f"{model} is unloaded, since nobody used it",
        "a request for an answer brings it back",
    )


def _no_route(request: web.Request) -> CahootsError:
    return CahootsError(
        Kind.NOT_FOUND,
        f"no such route: {request.method} {request.path[:200]}",
        "the engine's routes for clients are below /v1; those that steer it are not served",
    )
