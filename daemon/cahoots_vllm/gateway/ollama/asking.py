"""Handles the routes that need the engine: chats, prompts, embeddings."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.ollama.answer import loaded, not_found
from cahoots_vllm.core.ollama.fields import wrong
from cahoots_vllm.core.ollama.request import (
    CHAT_TARGET,
    Asked,
    Route,
    Served,
    needs_length,
    read_request,
)
from cahoots_vllm.gateway.answers import Dialect, error_response
from cahoots_vllm.gateway.call import Body, BodyReader, Call
from cahoots_vllm.gateway.deliver import Deliverer
from cahoots_vllm.gateway.ollama.catalog import Catalog
from cahoots_vllm.gateway.ollama.reply import OllamaReply
from cahoots_vllm.gateway.record import End, Record

# Images come within the body, which has to be whole to be translated.
_MAX_BYTES: Final = 32 * 1024 * 1024
_HEADERS: Final = CIMultiDict({"Content-Type": "application/json"})
_SHOWN: Final = 200


class Asking:
    """From the client's request to the engine's answer, each in its own API."""

    def __init__(self, deliverer: Deliverer, catalog: Catalog) -> None:
        """`deliverer` brings requests to the worker; `catalog` knows its names."""
        self._deliverer = deliverer
        self._catalog = catalog
        self._bodies = BodyReader(_MAX_BYTES)

    async def handle(
        self, request: web.Request, route: Route, record: Record
    ) -> web.StreamResponse:
        """Answer one request. A client that hangs up cancels this."""
        try:
            async with self._body(request) as raw:
                return await self._handle(request, route, record, raw)
        except CahootsError as error:
            return refused(error, record)

    async def members(self, request: web.Request) -> dict[str, object]:
        """Return the members of a request's body. Raises CahootsError."""
        async with self._body(request) as raw:
            return parse(raw)

    @asynccontextmanager
    async def _body(self, request: web.Request) -> AsyncIterator[bytes]:
        body = await self._bodies.read(request, self._deliverer.settings.hold_timeout_s)
        try:
            if not body.is_whole:
                what = f"the request is larger than {_MAX_BYTES >> 20} MiB, or too many are"
                raise CahootsError(Kind.BUSY, what, "send smaller images, or try again later")
            yield body.head
        finally:
            self._bodies.release(body)

    async def _handle(
        self, request: web.Request, route: Route, record: Record, raw: bytes
    ) -> web.StreamResponse:
        members = parse(raw)
        asked = read_request(route, members, self._served(members))
        reply = OllamaReply(request, asked, record)
        try:
            await self._answer(asked, members, reply, record)
        except CahootsError as error:
            record.end, record.problem = End.REFUSED, str(error)
            await reply.fail(error)  # a sign of life may be with the client already
        if reply.response is None:
            message = "deliver answers every request"
            raise AssertionError(message)
        return reply.response

    async def _answer(
        self, asked: Asked, members: dict[str, object], reply: OllamaReply, record: Record
    ) -> None:
        if asked.target is None:
            if not asked.is_unload:  # that is only said: it is there for others, too
                await self._wait(asked, reply, record)
            await reply.whole(loaded(asked))
            return
        if needs_length(asked.route, members):
            await self._wait(asked, reply, record)
            asked = read_request(asked.route, members, self._served(members))
        if asked.target is not None:
            call = _call(record, asked.target, asked.body)
            await self._deliverer.deliver(call, reply, record)

    def _served(self, members: dict[str, object]) -> Served:
        model = model_name(members)
        served = self._catalog.served(model)
        if served is None:
            raise unknown(model)
        return served

    async def _wait(self, asked: Asked, reply: OllamaReply, record: Record) -> None:
        """Wait for a worker that serves the model. Raises CahootsError."""
        served = self._catalog.served(asked.model)
        model = served.name if served is not None else asked.model
        # As a stream where it is one, for the signs of life.
        body = json.dumps({"model": model, "stream": asked.is_stream}).encode()
        call = _call(record, CHAT_TARGET, body)
        await self._deliverer.worker(call, reply, record)


def parse(raw: bytes) -> dict[str, object]:
    """Return a body's members. Raises CahootsError (BAD_REQUEST)."""
    if not raw:
        raise wrong(what="missing request body")
    try:
        # NaN and Infinity are no JSON, and the engine's parser would refuse them later.
        members = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise wrong(what=f"the request's body is no JSON: {str(error)[:_SHOWN]}") from error
    if not isinstance(members, dict):
        raise wrong(what="the request's body is no JSON object")
    return members


def model_name(members: dict[str, object]) -> str:
    """Return the model that is asked for; `name` is its older member. Raises CahootsError."""
    model = members.get("model") or members.get("name")
    if not isinstance(model, str):
        raise wrong(what="model is required")
    return model


def unknown(model: str) -> CahootsError:
    """Return the error for a model that nobody serves."""
    return CahootsError(Kind.NOT_FOUND, not_found(model[:_SHOWN]), "")


def refused(error: CahootsError, record: Record) -> web.Response:
    """Return the answer to a request that goes no further."""
    record.end, record.problem = End.REFUSED, str(error)
    return error_response(error, Dialect.OLLAMA)


def _no_constant(name: str) -> float:
    message = f"{name} is no number"
    raise ValueError(message)


def _call(record: Record, target: str, body: bytes) -> Call:
    return Call(record.id, "POST", target, _HEADERS, Body(body), Dialect.OLLAMA)
