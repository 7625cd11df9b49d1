"""One request as it goes to a worker: its head, and a body that can be sent again or only once."""

import asyncio
import json
import re
import select
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from aiohttp import StreamReader, web
from multidict import CIMultiDict

from cahoots_vllm.core.engine_routes import MODELS
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.gateway.answers import Dialect

# A body up to this size is kept, so that the request can be sent again to the next worker.
KEPT_BYTES: Final = 1024 * 1024
# Where the model it names decides what happens to it, it has to be read for that: images and all.
NAMED_BYTES: Final = 32 * KEPT_BYTES
# All that is kept at a time; beyond it requests are passed through as they come, and only once.
_KEPT_BYTES_OF_ALL: Final = 256 * 1024 * 1024
LOOKS: Final = ("GET", "HEAD", "OPTIONS")
_CHUNK_BYTES: Final = 64 * 1024
# Where "stream" means something; elsewhere the engine ignores it, and answers as always.
_STREAMING: Final = frozenset(
    {
        "/cohere/v2/chat", "/inference/v1/generate", "/invocations", "/v1/chat/completions",
        "/v1/completions", "/v1/messages", "/v1/responses",
    }
)  # fmt: skip
REQUEST_ID: Final = "X-Request-Id"
# Set where the client's key was the gateway's own: the engine must not get it.
IS_KEYED: Final = web.RequestKey("is_keyed", bool)
_KEY_HEADERS: Final = ("Authorization", "X-Api-Key")
_SANE_ID: Final = re.compile(r"^[\x21-\x7e]{1,128}$")
# RFC 9110, 7.6.1: they belong to one connection. Content-Length goes with the body; Expect has
# been answered.
_HOP_BY_HOP: Final = frozenset(
    {
        "connection", "expect", "keep-alive", "proxy-authenticate", "proxy-authorization",
        "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip


class Body:
    """A request's body: whole, or its first bytes and the rest as the client sends it."""

    def __init__(
        self,
        head: bytes,
        rest: StreamReader | None = None,
        *,
        transport: asyncio.BaseTransport | None = None,
        is_there: bool = True,
    ) -> None:
        """`rest` is read once, from `transport`.

        Not `is_there`: a request without a body, not with an empty one.
        """
        self.head = head
        self._is_there = is_there
        self._rest = rest
        self._transport = transport
        self.is_used_up = False
        self.is_broken = False

    @property
    def is_whole(self) -> bool:
        """Whether it can be sent as often as need be."""
        return self._rest is None

    @property
    def length(self) -> int | None:
        """How many bytes it has, as far as all of them are there."""
        return len(self.head) if self.is_whole and self._is_there else None

    def data(self) -> bytes | AsyncIterator[bytes] | None:
        """Return what to send."""
        if self._rest is not None:
            return self._stream(self._rest)
        if len(self.head) > KEPT_BYTES:
            return _pieces(self.head)
        return self.head if self._is_there else None

    def notice_hang_up(self) -> None:
        """Close the connection of a client that has hung up: while it is not read, nobody sees."""
        if not isinstance(self._transport, asyncio.Transport) or self._transport.is_closing():
            return
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        if poll.poll(0):
            self._transport.abort()

    async def _stream(self, rest: StreamReader) -> AsyncIterator[bytes]:
        self.is_used_up = True
        if self.head:
            yield self.head
        try:
            while chunk := await rest.read(_CHUNK_BYTES):
                yield chunk
        except (web.PayloadAccessError, ConnectionError, ValueError):
            self.is_broken = True
            raise


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    """Return it bit by bit: others have their turn."""
    for begin in range(0, len(data), _CHUNK_BYTES):
        yield data[begin : begin + _CHUNK_BYTES]
        await asyncio.sleep(0)


@dataclass(frozen=True)
class Call:
    """What is sent to a worker. `target` is a path and query as the engine knows them."""

    id: str
    method: str
    target: str
    headers: CIMultiDict[str]
    body: Body
    dialect: Dialect = Dialect.OPENAI

    @cached_property
    def _asked(self) -> Mapping[str, object]:
        """The body's members, as far as it is one small JSON object."""
        with suppress(ValueError, RecursionError):
            parsed = json.loads(self.body.head) if self.body.is_whole else None
            if isinstance(parsed, dict):
                return parsed
        return {}

    @property
    def model(self) -> str | None:
        """The model it names, None where it names none."""
        model = self._asked.get("model")
        return model if isinstance(model, str) else None

    @property
    def is_stream(self) -> bool:
        """Whether the client expects server-sent events."""
        path = self.target.partition("?")[0]
        return path in _STREAMING and self._asked.get("stream") is True

    @property
    def is_listing(self) -> bool:
        """Whether it asks for the list of models: clients do so all day, whoever uses one."""
        return self.method == "GET" and self.target.partition("?")[0] == MODELS

    @property
    def is_use(self) -> bool:
        """Whether it uses the model: looks at the engine keep none loaded, and wake none."""
        return self.method not in LOOKS or "Sec-WebSocket-Key" in self.headers

    @property
    def is_urgent(self) -> bool:
        """Whether it costs the engine nothing and goes before those that wait."""
        return not self.is_use


class BodyReader:
    """Reads bodies, within what may be kept of all of them together."""

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        """A body up to `max_bytes` is kept. Nothing is yet."""
        self.kept_bytes = 0
        self._max_bytes = max_bytes

    async def read(
        self, request: web.Request, timeout_s: float, max_bytes: int | None = None
    ) -> Body:
        """Return the body, whole if it is small; `release` it afterwards.

        `max_bytes` takes the place of the reader's own.

        Raises CahootsError: BAD_REQUEST for one that is broken, TIMED_OUT for one that does not
        come within `timeout_s`.
        """
        if not request.body_exists:
            return Body(b"", is_there=False)
        content = request.content
        most = max_bytes or self._max_bytes
        if (request.content_length or 0) > min(most, _KEPT_BYTES_OF_ALL - self.kept_bytes):
            return Body(b"", content, transport=request.transport)
        parts: list[bytes] = []
        try:
            await self._take(content, parts, most, timeout_s)
        except BaseException:
            self.kept_bytes -= sum(map(len, parts))
            raise
        head = b"".join(parts)
        if not content.at_eof():
            return Body(head, content, transport=request.transport)
        return Body(head)

    async def _take(
        self, content: StreamReader, parts: list[bytes], most: int, timeout_s: float
    ) -> None:
        """Read into `parts`, up to what may be kept. Raises CahootsError as `read` does."""
        size = 0
        try:
            async with asyncio.timeout(timeout_s):
                while size <= most and self.kept_bytes <= _KEPT_BYTES_OF_ALL:
                    part = await content.readany()
                    if not part:
                        break
                    parts.append(part)
                    size += len(part)
                    # Now: one that stops in the middle is kept, too.
                    self.kept_bytes += len(part)
        except TimeoutError as error:
            what = f"the request's body did not come within {timeout_s:.0f} s"
            raise CahootsError(Kind.TIMED_OUT, what, "send the request again") from error
        except (web.PayloadAccessError, ConnectionError, ValueError) as error:
            raise broken_body() from error

    def release(self, body: Body) -> None:
        """Count a body as gone."""
        self.kept_bytes -= len(body.head)


def broken_body() -> CahootsError:
    """Return the error for a body that the client did not send to its end, or not well-formed."""
    return CahootsError(
        Kind.BAD_REQUEST, "cannot read the request's body: it is broken", "send it whole"
    )


def request_id(headers: Mapping[str, str]) -> str:
    """Return the client's own id for the request, else a new one."""
    given = headers.get(REQUEST_ID, "")
    return given if _SANE_ID.match(given) else uuid.uuid4().hex


def engine_headers(request: web.Request) -> CIMultiDict[str]:
    """Return the headers of a request that are for the engine."""
    headers = end_to_end(request.headers)
    if request.get(IS_KEYED):
        for name in _KEY_HEADERS:
            headers.popall(name, None)
    return headers


def end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """Return the headers that are not for one connection only."""
    connection = headers.get("Connection")
    named = {n.strip().lower() for n in connection.split(",")} if connection else frozenset()
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if (low := name.lower()) not in _HOP_BY_HOP and low not in named
    )
