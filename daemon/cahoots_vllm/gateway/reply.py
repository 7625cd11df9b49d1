"""How an answer reaches the client: passed through, or as the error or sign of life of our own."""

from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Final, Protocol

from aiohttp import web
from aiohttp.http import StreamWriter

from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.gateway.answers import Dialect, error_event, error_response
from cahoots_vllm.gateway.call import REQUEST_ID, end_to_end

_ALIVE: Final = b": waiting for the model\n\n"
_EVENT_STREAM: Final = "text/event-stream"
_KEPT_ERROR_BYTES: Final = 64 * 1024


class LeftError(Exception):
    """The client has hung up."""


class Reply(Protocol):
    """Takes one answer. `is_begun`: a part of it is with the client; comments do not count."""

    is_begun: bool
    # Every method but `fail` raises LeftError.

    async def keep_alive(self) -> None:
        """Give a sign of life, where the client can take one before its answer."""
        ...

    async def begin(self, status: int, reason: str | None, headers: Mapping[str, str]) -> None:
        """Send the head; `headers` are the engine's."""
        ...

    async def write(self, data: bytes) -> None:
        """Send a part of the body, and wait while the client is slow."""
        ...

    def write_now(self, data: bytes) -> bool:
        """Send a part of the body at once; False: not sent, use `write`."""
        ...

    async def end(self) -> None:
        """Send what is left."""
        ...

    async def fail(self, error: CahootsError) -> None:
        """Send an error in place of the answer or of its rest: it must not pass for whole."""
        ...


class _Answer(web.StreamResponse):
    """Its head goes out with the first part of its body: one segment before the first token."""

    # aiohttp's own, as in its web.Response: without it a head is sent by itself, at once.
    _send_headers_immediately = False


class PassReply:
    """Passes the engine's answer through, byte for byte."""

    def __init__(self, request: web.Request, dialect: Dialect, id_: str) -> None:
        """`id_` is given back as X-Request-Id."""
        self.is_begun = False
        # What the handler returns; prepared or not.
        self.response: web.StreamResponse | None = None
        self._request = request
        self._dialect = dialect
        self._id = id_
        self._error: list[bytes] | None = None
        self._writer: StreamWriter | None = None

    async def keep_alive(self) -> None:
        """Begin a stream of events with a comment; the answer's own events follow."""
        if self.is_begun:
            return
        if self.response is None:
            headers = {"Content-Type": _EVENT_STREAM, "Cache-Control": "no-cache"}
            await self._prepare(web.StreamResponse(headers=headers))
        await self._write(_ALIVE)

    async def begin(self, status: int, reason: str | None, headers: Mapping[str, str]) -> None:
        """Send the head; after a sign of life a refusal of the engine becomes an event."""
        self.is_begun = True
        if self.response is not None:
            self._error = [] if status >= HTTPStatus.BAD_REQUEST else None
            return
        passed = end_to_end(headers)
        await self._prepare(_Answer(status=status, reason=reason, headers=passed))

    async def _prepare(self, response: web.StreamResponse) -> None:
        response.headers[REQUEST_ID] = self._id
        self.response = response
        try:
            writer = await response.prepare(self._request)
        except ConnectionResetError as error:
            raise LeftError from error
        self._writer = writer if isinstance(writer, StreamWriter) else None

    async def write(self, data: bytes) -> None:
        """Send a part of the body, and wait while the client is slow."""
        if self._error is None:
            await self._write(data)
        elif sum(map(len, self._error)) < _KEPT_ERROR_BYTES:
            self._error.append(data)

    def write_now(self, data: bytes) -> bool:
        """Send a part of the body at once, unless the client is slow or the part is kept."""
        protocol = self._request.protocol
        if self._error is not None or self._writer is None or protocol.writing_paused:
            return False
        # Without a drain nothing in it waits, so one step is all of it. A wait begun here and
        # given up would break the next one: asyncio takes a future's wait for taken.
        writing = self._writer.write(data, drain=False)
        try:
            writing.send(None)
        except StopIteration:
            return True
        except ConnectionResetError:
            return False  # `write` meets it again
        message = "aiohttp waits in a write without a drain"
        raise AssertionError(message)

    async def _write(self, data: bytes) -> None:
        if self.response is not None:
            try:
                await self.response.write(data)
            except ConnectionResetError as error:  # aiohttp's is a ClientConnectionError, too
                raise LeftError from error

    async def end(self) -> None:
        """Send what is left; aiohttp ends the body."""
        if self._error is not None:
            name = b"event: error\n" if self._dialect is Dialect.ANTHROPIC else b""
            await self._write(name + b"data: " + b"".join(self._error).strip() + b"\n\n")

    async def fail(self, error: CahootsError) -> None:
        """Send an error in place of the answer, or of its rest."""
        if self.response is None:
            self.response = error_response(error, self._dialect)
            self.response.headers[REQUEST_ID] = self._id
        elif self.response.content_type == _EVENT_STREAM:
            with suppress(LeftError):  # the client may be gone too
                await self._write(error_event(error, self._dialect))
        elif self._request.transport is not None:
            self._request.transport.abort()
