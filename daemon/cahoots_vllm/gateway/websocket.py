"""WebSockets, passed on message by message (vLLM: `/v1/realtime`, where a model has speech)."""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Final

import aiohttp
from aiohttp import WSCloseCode, WSMsgType, web
from yarl import URL

from cahoots_vllm.control.backend import Backend
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.gateway.call import Call
from cahoots_vllm.host.engine_client import UnreachableError

_MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
_HEARTBEAT_S: Final = 30.0
# Those of the handshake are made anew for each of the two connections.
_HANDSHAKE: Final = (
    "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Extensions",
    "Sec-WebSocket-Protocol", "Content-Length",
)  # fmt: skip
_Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


def is_websocket(request: web.Request) -> bool:
    """Whether the client wants to change over to a WebSocket (RFC 6455, 4.1)."""
    upgrade = request.headers.get("Upgrade", "").lower()
    return request.method == "GET" and upgrade == "websocket"


async def pass_websocket(request: web.Request, call: Call, backend: Backend) -> web.StreamResponse:
    """Connect the two ends until one closes; a worker that is lost closes with 1012.

    Raises CahootsError where the worker is lost before it began.
    """
    client: web.WebSocketResponse | None = None
    code: int = WSCloseCode.SERVICE_RESTART
    try:
        connector = aiohttp.UnixConnector(str(backend.uds))
        async with (
            backend.request(),
            aiohttp.ClientSession(connector=connector) as session,
            _connect(session, request, call) as upstream,
        ):
            chosen = (upstream.protocol,) if upstream.protocol else ()
            client = web.WebSocketResponse(
                protocols=chosen, max_msg_size=_MAX_MESSAGE_BYTES, heartbeat=_HEARTBEAT_S
            )
            await client.prepare(request)
            await _pump_both(client, upstream)
            # 1006 is never sent: the connection broke (RFC 6455, 7.4.1).
            if upstream.close_code not in (None, WSCloseCode.ABNORMAL_CLOSURE):
                code = upstream.close_code or WSCloseCode.OK
    except aiohttp.WSServerHandshakeError as error:
        return web.Response(status=error.status)  # the engine's own refusal
    except (aiohttp.ClientError, UnreachableError, TimeoutError) as error:
        if client is None:
            what = f"the worker was lost: {error}"
            raise CahootsError(Kind.WORKER_LOST, what, "connect again") from error
    if client is not None:
        await client.close(code=code)
        return client
    message = "a connection that was made has a client"
    raise AssertionError(message)


def _connect(
    session: aiohttp.ClientSession, request: web.Request, call: Call
) -> AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]:
    headers = call.headers.copy()
    for name in _HANDSHAKE:
        headers.popall(name, None)
    asked = request.headers.get("Sec-WebSocket-Protocol", "")
    return session.ws_connect(
        URL(f"http://worker{call.target}", encoded=True),
        headers=headers,
        protocols=[name.strip() for name in asked.split(",") if name.strip()],
        max_msg_size=_MAX_MESSAGE_BYTES,
    )


async def _pump_both(
    client: web.WebSocketResponse, upstream: aiohttp.ClientWebSocketResponse
) -> None:
    """Pass messages both ways until one end closes."""
    pumps = [
        asyncio.ensure_future(_pump(client, upstream)),
        asyncio.ensure_future(_pump(upstream, client)),
    ]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(source: _Socket, sink: _Socket) -> None:
    async for message in source:
        if message.type is WSMsgType.TEXT:
            await sink.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await sink.send_bytes(message.data)
