"""Takes the engine's answer and gives it to the client in Ollama's shape, line by line or whole.

A sign of life before the first line is a space: JSON may begin with any number of them. An empty
line would break clients: the `ollama` package for Python parses each line as JSON.
"""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

from aiohttp import web

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.ollama.answer import Answer, Line, embedded, refusal
from cahoots_vllm.core.ollama.request import Asked, Route
from cahoots_vllm.core.ollama.sse import EventReader
from cahoots_vllm.core.ollama.times import Times, rfc3339
from cahoots_vllm.gateway.answers import Dialect, error_body, error_response
from cahoots_vllm.gateway.call import REQUEST_ID
from cahoots_vllm.gateway.record import Record
from cahoots_vllm.gateway.reply import LeftError

_ALIVE: Final = b" "
_NDJSON: Final = "application/x-ndjson"


class OllamaReply:
    """One answer; a `gateway.reply.Reply`."""

    def __init__(self, request: web.Request, asked: Asked, record: Record) -> None:
        """Nothing is sent before the engine has said something, or a sign of life is due."""
        self.is_begun = False
        # What the handler returns; prepared or not.
        self.response: web.StreamResponse | None = None
        self._request = request
        self._asked = asked
        self._record = record
        self._now = asyncio.get_running_loop().time
        self._status = 0
        self._is_stream = False
        self._parts: list[bytes] = []
        self._events = EventReader()
        self._answer = Answer(asked)
        self._first_at: float | None = None

    async def keep_alive(self) -> None:
        """Begin the stream with a space; whatever follows is a line of it."""
        if self._asked.is_stream and not self.is_begun:
            await self._send(_ALIVE)

    async def begin(
        self,
        status: int,
        reason: str | None,  # noqa: ARG002 (part of the protocol; Ollama has its own)
        headers: Mapping[str, str],  # noqa: ARG002 (the body's form is another)
    ) -> None:
        """Note whether it is an answer; the client gets it with its first line."""
        self.is_begun = True
        self._status = status
        self._is_stream = self._asked.is_stream and status == HTTPStatus.OK

    async def write(self, data: bytes) -> None:
        """Send the lines that the events bring, or keep a part of what is whole only at the end.

        Raises LeftError, and CahootsError for the engine's own error.
        """
        if not self._is_stream:
            self._parts.append(data)
            return
        lines: list[Line] = []
        try:
            for event in self._events.take(data):
                if isinstance(parsed := _parse(event), dict):
                    lines += self._answer.take(parsed)
        finally:  # what came before an error is an answer
            if lines:
                self._first_at = self._first_at or self._now()
                await self._send(b"".join(map(self._line, lines)))

    def write_now(self, _data: bytes) -> bool:
        """Refuse: each event becomes a line of another shape."""
        return False

    async def end(self) -> None:
        """Send the last line, or the whole answer. Raises LeftError, CahootsError."""
        if self._is_stream:
            if self._answer.finish_reason is None:
                raise _cut_short()
            await self._send(self._line(self._answer.last(self._times())))
            return
        answer = _parse(b"".join(self._parts))
        if self._status != HTTPStatus.OK:
            await self._refuse(*refusal(self._asked, self._status, answer))
        elif isinstance(answer, dict):
            await self._whole(self._view(answer))
        else:
            what, remedy = "the engine's answer is no JSON", "see cahootsctl logs on the host"
            raise CahootsError(Kind.WORKER_FAILED, what, remedy)

    async def fail(self, error: CahootsError) -> None:
        """Send an error in place of the answer, or as the last line of a stream."""
        if self.response is None:
            self.response = error_response(error, Dialect.OLLAMA)
            self.response.headers[REQUEST_ID] = self._record.id
            return
        with suppress(LeftError):  # the client may be gone too
            await self._send(_encode(error_body(error, Dialect.OLLAMA)))

    async def whole(self, line: Line) -> None:
        """Send an answer of our own."""
        self.is_begun = True
        await self._whole(self._head() | line)

    def _view(self, answer: dict[str, object]) -> Line:
        match self._asked.route:
            case Route.CHAT | Route.GENERATE:
                return self._head() | self._answer.whole(answer, self._times())
            case Route.EMBED:
                return {"model": self._asked.model} | embedded(self._asked, answer, self._times())
            case Route.EMBEDDINGS:
                return embedded(self._asked, answer, self._times())

    async def _refuse(self, status: int, text: str) -> None:
        if self.response is None:
            self.response = web.json_response({"error": text}, status=status)
            self.response.headers[REQUEST_ID] = self._record.id
        else:
            await self._send(_encode({"error": text}))

    async def _whole(self, line: Line) -> None:
        if self.response is None:
            self.response = web.json_response(line)
            self.response.headers[REQUEST_ID] = self._record.id
        else:
            await self._send(_encode(line))

    async def _send(self, data: bytes) -> None:
        try:
            if self.response is None:
                headers = {"Content-Type": _NDJSON, REQUEST_ID: self._record.id}
                self.response = web.StreamResponse(headers=headers)
                await self.response.prepare(self._request)
            await self.response.write(data)
        except ConnectionResetError as error:
            raise LeftError from error

    def _head(self) -> Line:
        return {"model": self._asked.model, "created_at": rfc3339(datetime.now(UTC))}

    def _line(self, line: Line) -> bytes:
        return _encode(self._head() | line)

    def _times(self) -> Times:
        record = self._record
        return Times(record.begun_at, record.held_s, self._first_at, self._now())


def _encode(line: Line) -> bytes:
    return json.dumps(line).encode() + b"\n"


def _parse(data: bytes) -> object:
    """Return what the engine sent; None where it is no JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _cut_short() -> CahootsError:
    what = "the engine's answer has no end"
    return CahootsError(Kind.WORKER_LOST, what, "send the request again")
