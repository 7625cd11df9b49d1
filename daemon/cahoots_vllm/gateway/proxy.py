"""Passes requests through to the worker byte for byte; holds them while there is none."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from cahoots_vllm.control.rotation import Backend, Rotation
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.settings import GatewaySettings
from cahoots_vllm.gateway.answers import error_event, error_response

_LOG = logging.getLogger(__name__)
# RFC 9110, 7.6.1: they belong to one connection. Content-Length goes with the body.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# A request up to this size can be sent again to the next worker.
_REPLAYABLE_BYTES = 1024 * 1024
_TRIES = 3
_DELIVERIES = 2  # sent again once at most (DESIGN: replay)
_NOTICE_S = 5.0
_LOOK_S = 0.5


class Proxy:
    """Handles every route that is not the gateway's own."""

    def __init__(self, rotation: Rotation, settings: GatewaySettings) -> None:
        """`rotation` says which worker to ask."""
        self._rotation = rotation
        self.settings = settings

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass one request on, or answer why not. A client that hangs up cancels this."""
        try:
            return await self._pass_on(request)
        except CahootsError as error:
            return error_response(error)

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        body: bytes | None = None
        failure: Exception | None = None
        sent = 0
        for attempt in range(_TRIES):
            backend = await self._rotation.backend(
                timeout_s=self.settings.hold_timeout_s, hold_max=self.settings.hold_max
            )
            if attempt == 0:
                body = await _read_if_small(request)  # not before: held requests keep none
            try:
                return await _exchange(request, backend, body)
            except (aiohttp.ClientConnectionError, TimeoutError) as error:
                failure = error
            sent += not _is_unsent(failure)
            if sent == _DELIVERIES or (sent and body is None and request.body_exists):
                break  # it may be what kills workers, or its body is gone
            # A worker that is gone is noticed within moments; one that only closed a kept-alive
            # connection stays.
            with suppress(TimeoutError):
                await asyncio.wait_for(
                    backend.closed.wait(), _NOTICE_S if _is_unsent(failure) else _LOOK_S
                )
        raise CahootsError(
            Kind.UNREACHABLE, f"the worker was lost: {failure}", "send the request again"
        )


def _is_unsent(failure: Exception | None) -> bool:
    """Whether nothing reached the worker."""
    return isinstance(failure, aiohttp.ClientConnectorError)


async def _read_if_small(request: web.Request) -> bytes | None:
    """Return the body if it can be kept for another try, else None: it is streamed."""
    length = request.content_length
    if not request.body_exists or length is None or length > _REPLAYABLE_BYTES:
        return None
    return await request.content.read(-1) if length else b""


async def _exchange(
    request: web.Request, backend: Backend, body: bytes | None
) -> web.StreamResponse:
    """Send the request and stream the answer.

    Raises aiohttp.ClientConnectionError, or TimeoutError when the worker is retired, only while
    nothing was answered to the client.
    """
    data = body if body is not None else (request.content if request.body_exists else None)
    url = URL(f"http://worker{request.raw_path}", encoded=True)
    response: web.StreamResponse | None = None
    try:
        async with backend.request() as session, session.request(
            request.method, url, headers=_end_to_end(request.headers), data=data,
            allow_redirects=False,
        ) as upstream:  # fmt: skip
            response = web.StreamResponse(
                status=upstream.status,
                reason=upstream.reason,
                headers=_end_to_end(upstream.headers),
            )
            await response.prepare(request)
            async for chunk in upstream.content.iter_any():
                await response.write(chunk)
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
        if response is None:
            raise
        await _end_broken(request, response, error)
    return response


async def _end_broken(request: web.Request, response: web.StreamResponse, error: Exception) -> None:
    """End an answer that had begun when the worker was lost, so that it cannot pass for whole."""
    _LOG.debug("%s %s: lost the worker: %s", request.method, request.path, error)
    if response.content_type == "text/event-stream":
        with suppress(ConnectionResetError):  # the client may be gone too
            await response.write(error_event("the worker was lost in the middle of the answer"))
    elif request.transport is not None:
        request.transport.abort()


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """Return the headers that are not for one connection only."""
    named = {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if name.lower() not in _HOP_BY_HOP and name.lower() not in named
    )
