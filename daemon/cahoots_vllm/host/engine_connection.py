"""One connection to the engine: HTTP/1.1 (RFC 9112), one request at a time.

Every part of every answer comes through here, thousands a second. The protocol is left to
httptools, what uvicorn itself parses with.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from multidict import CIMultiDict

from cahoots_vllm.host.engine_answer import Answer, BrokenOffError

# httptools knows no bounds.
_HEAD_BYTES: Final = 256 * 1024
_INFORMATIONAL: Final = range(100, 200)
# What is sent as a body: whole, or in parts as they come.
Body = bytes | AsyncIterator[bytes] | None


@dataclass(frozen=True, slots=True)
class Head:
    """What a request begins with.

    `length` is that of the body, in bytes; None: what `headers` say, else it is sent in chunks.
    """

    method: str
    target: str
    headers: CIMultiDict[str]
    length: int | None = None

    @property
    def is_chunked(self) -> bool:
        """Whether a body is sent in chunks (RFC 9112, 7.1)."""
        return self.length is None and "Content-Length" not in self.headers

    def encode(self, *, has_body: bool) -> bytes:
        """Return it as it is sent. Raises ValueError for one that is more than one head."""
        lines = [f"{self.method} {self.target} HTTP/1.1\r\n"]
        lines += [
            f"{name}: {value}\r\n"
            for name, value in self.headers.items()
            if self.length is None or name.lower() != "content-length"
        ]
        if self.length is not None:
            lines.append(f"Content-Length: {self.length}\r\n")
        elif has_body and self.is_chunked:
            lines.append("Transfer-Encoding: chunked\r\n")
        if "Host" not in self.headers:
            lines.append("Host: worker\r\n")
        text = "".join(lines)
        if text.count("\n") != len(lines) or text.count("\r") != len(lines) or "\0" in text:
            what = "a line break within a header"
            raise ValueError(what)
        return text.encode("utf-8", "surrogateescape") + b"\r\n"


class Connection(asyncio.Protocol):
    """One connection: one request at a time."""

    _transport: asyncio.Transport  # from the moment that asyncio hands it out

    def __init__(self) -> None:
        """Not connected."""
        self.answer: Answer | None = None
        self.idle_since = 0.0
        self._parser = HttpResponseParser(self)
        # None: nothing was asked.
        self._begun: asyncio.Future[Answer] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._is_kept_alive = False
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._reason = ""
        self._headers: CIMultiDict[str] = CIMultiDict()
        self._chunks: list[bytes] = []
        self._head_bytes = 0
        self._is_paused = self._has_no_body = False

    @property
    def is_open(self) -> bool:
        """Whether the engine has not closed it."""
        return not self._transport.is_closing()

    @property
    def is_reusable(self) -> bool:
        """Whether its request is over, to the last byte both ways."""
        is_sent = self._sending is None or self._sending.done()
        is_whole = self.answer is not None and self.answer.is_whole
        return self.is_open and is_sent and is_whole and self._is_kept_alive

    def rest(self) -> None:
        """Be there for the next request."""
        self.resume()  # the answer may have been whole, and not read
        self.answer = self._begun = self._sending = None
        self.idle_since = asyncio.get_running_loop().time()
        self._head_bytes = 0
        self._is_kept_alive = False

    async def ask(self, head: Head, body: Body) -> Answer:
        """Send a request and return its answer, once it has begun."""
        self._begun = asyncio.get_running_loop().create_future()
        # The engine says how long a body is that it does not send (RFC 9110, 9.3.2).
        self._has_no_body = head.method == "HEAD"
        encoded = head.encode(has_body=body is not None)
        if body is None or isinstance(body, bytes):
            self._transport.write(encoded + (body or b""))
        else:
            self._transport.write(encoded)
            self._sending = asyncio.ensure_future(self._send(head, body))
            self._sending.add_done_callback(self._sent)
        return await self._begun

    async def _send(self, head: Head, body: AsyncIterator[bytes]) -> None:
        async for part in body:
            await self._can_write.wait()
            if not self.is_open:
                return  # whoever waits for the answer is told; asyncio warns of each write
            if head.is_chunked:
                self._transport.writelines((b"%x\r\n" % len(part), part, b"\r\n"))
            else:
                self._transport.write(part)
        if head.is_chunked:
            self._transport.write(b"0\r\n\r\n")

    def _sent(self, sending: asyncio.Task[None]) -> None:
        error = None if sending.cancelled() else sending.exception()
        if error is not None:
            what = f"the request was not sent to its end: {type(error).__name__}"
            self._break(BrokenOffError(what))

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        if self._sending is not None:
            self._sending.cancel()
        self._transport.abort()

    def resume(self) -> None:
        """Let the engine go on."""
        if self._is_paused and self.is_open:
            self._is_paused = False
            self._transport.resume_reading()

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what is written to."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self._begun is None or (self.answer is not None and self.answer.is_whole):
            self.abort()  # an answer that nobody asked for
            return
        if self.answer is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            what = f"the engine's answer is no HTTP: {error.__context__ or error}"
            self._pass_on()  # what came before the mistake
            self._break(BrokenOffError(what))
        self._pass_on()
        if self.answer is None and self._head_bytes > _HEAD_BYTES:
            what = "the head of the engine's answer has no end"
            self._break(BrokenOffError(what))

    def connection_lost(self, error: Exception | None) -> None:
        """End what is under way."""
        self._can_write.set()
        answer = self.answer
        if answer is not None and error is None and answer.ends_with_connection:
            answer.finish()
        else:
            what = f"the connection was lost: {error}" if error else "the engine closed it"
            self._break(BrokenOffError(what))

    def _break(self, error: BrokenOffError) -> None:
        if self._begun is not None and not self._begun.done():
            self._begun.set_exception(error)
            self._begun.exception()  # whoever waited may be gone
        if self.answer is not None and not self.answer.is_whole:
            self.answer.fail(error)
        self.abort()

    def pause_writing(self) -> None:
        """Hold the body back."""
        self._can_write.clear()

    def resume_writing(self) -> None:
        """Let the body go on."""
        self._can_write.set()

    # httptools' callbacks

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._reason, self._headers = "", CIMultiDict()
        self._is_kept_alive = False  # a second answer to one request: who knows whose it is

    def on_status(self, text: bytes) -> None:
        """Take a part of the reason."""
        self._reason += text.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._headers.add(name.decode("latin-1"), value.decode("utf-8", "surrogateescape"))

    def on_headers_complete(self) -> None:
        """Begin the answer."""
        status = self._parser.get_status_code()
        if status in _INFORMATIONAL or self._begun is None or self._begun.done():
            return
        self.answer = Answer(status, self._reason, self._headers, self.resume)
        if self._has_no_body:
            self.answer.finish()
        self._begun.set_result(self.answer)

    def on_body(self, part: bytes) -> None:
        """Take a chunk; those that came together are passed on together."""
        if self.answer is not None and not self.answer.is_whole:
            self._chunks.append(part)

    def _pass_on(self) -> None:
        """Pass on what has come, and pause where nobody takes it."""
        if not self._chunks or self.answer is None:
            return
        part = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        if not self.answer.feed(part) and self.is_open and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """End the answer."""
        if self.answer is not None and not self.answer.is_whole:
            self._is_kept_alive = self._parser.should_keep_alive()
            self._pass_on()
            self.answer.finish()
