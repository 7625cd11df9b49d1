"""Reads a streamed completion from raw HTTP/1.1 as it comes, at the cost of a few microseconds.

Pure: bytes in, events out. The engine and the load share this host's processors, so what measures
must cost little; nothing is read here that the figures do not need.
"""

import json
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

_LARGEST_BYTES: Final = 4 * 1024 * 1024  # of a head, a line, or an answer that is no stream
_DATA: Final = b"data:"


class _Part(Enum):
    HEAD = auto()
    SIZE = auto()
    CHUNK = auto()
    TRAILER = auto()
    BODY = auto()
    DONE = auto()


@dataclass(slots=True)
class StreamReader:
    """One answer. `feed` returns how many token events the bytes completed.

    `problem` is what is wrong with the answer, once it `is_done`. Raises ValueError on bytes that
    are not HTTP.
    """

    status: int = 0
    is_done: bool = False
    is_kept_alive: bool = True
    input_tokens: int = 0
    output_tokens: int = 0
    problem: str | None = None
    body: bytearray = field(default_factory=bytearray)
    _part: _Part = _Part.HEAD
    _is_chunked: bool = False
    _left: int = 0
    _raw: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> int:
        """Take what has arrived."""
        self._raw += data
        while self._step():
            pass
        if len(self._raw) > _LARGEST_BYTES or len(self.body) > _LARGEST_BYTES:
            message = "an answer without an end"
            raise ValueError(message)
        return self._events() if self._is_stream else 0

    @property
    def _is_stream(self) -> bool:
        return self.status == 200 and self._is_chunked  # noqa: PLR2004 (HTTP's OK)

    def end(self) -> None:
        """Take the end of the connection."""
        if not self.is_done:
            self.problem = self.problem or "the connection ended before the answer did"
            self.is_done = True

    def _step(self) -> bool:
        """Take one part of the message (RFC 9112); False where bytes are missing."""
        match self._part:
            case _Part.HEAD:
                return self._take_head()
            case _Part.SIZE:
                return self._take_size()
            case _Part.CHUNK | _Part.BODY:
                return self._take_body()
            case _Part.TRAILER:
                line = self._line()
                if line == b"":
                    self._finish()
                return line is not None
            case _Part.DONE:
                return False

    def _take_head(self) -> bool:
        end = self._raw.find(b"\r\n\r\n")
        if end < 0:
            return False
        first, *lines = bytes(self._raw[:end]).decode("latin-1").split("\r\n")
        del self._raw[: end + 4]
        if not first.startswith("HTTP/1."):
            message = f"not HTTP but {first[:20]!r}"
            raise ValueError(message)
        self.status = int(first.split(" ", 2)[1])
        headers = {
            name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
        }
        self.is_kept_alive = headers.get("connection", "").lower() != "close"
        self._is_chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self._left = int(headers.get("content-length", "0"))
        self._part = _Part.SIZE if self._is_chunked else _Part.BODY
        return True

    def _take_size(self) -> bool:
        line = self._line()
        if line is None:
            return False
        self._left = int(line.partition(b";")[0], 16)
        self._part = _Part.CHUNK if self._left else _Part.TRAILER
        if self._left:
            self._left += 2  # the line end after it
        return True

    def _take_body(self) -> bool:
        part = self._raw[: self._left]
        del self._raw[: self._left]
        self._left -= len(part)
        if self._part is _Part.CHUNK:
            cut = max(0, 2 - self._left)
            self.body += part[: len(part) - cut] if cut else part
            if self._left == 0:
                self._part = _Part.SIZE
                return True
            return False
        self.body += part
        if self._left == 0:
            self._finish()
        return False

    def _line(self) -> bytes | None:
        line, found, rest = self._raw.partition(b"\r\n")
        if not found:
            return None
        self._raw = rest
        return bytes(line)

    def _finish(self) -> None:
        self._part, self.is_done = _Part.DONE, True
        if self.status != 200:  # noqa: PLR2004 (HTTP's OK)
            self.problem = f"{self.status}: {_message(bytes(self.body))}"

    def _events(self) -> int:
        """Take the whole events of a text/event-stream (WHATWG HTML, 9.2); count the tokens'."""
        end = self.body.rfind(b"\n\n")
        if end < 0:
            return 0
        whole = bytes(self.body[:end])
        del self.body[: end + 2]
        return sum(self._event(line) for line in whole.split(b"\n") if line.startswith(_DATA))

    def _event(self, line: bytes) -> bool:
        content = line[len(_DATA) :].strip()
        if content == b"[DONE]":
            return False
        document: Any = json.loads(content)
        if not isinstance(document, dict):
            message = "an event that is no JSON object"
            raise ValueError(message)  # noqa: TRY004 (a malformed answer, not a caller's mistake)
        if document.get("error"):
            self.problem = _message(content)
        usage = document.get("usage")
        if isinstance(usage, dict):
            self.input_tokens = int(usage.get("prompt_tokens") or 0)
            self.output_tokens = int(usage.get("completion_tokens") or 0)
        return bool(document.get("choices"))


def _message(body: bytes) -> str:
    """Return an error's own words (OpenAI's error body), else the start of what was sent."""
    try:
        document = json.loads(body)
        return str(document["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace").strip() or "no reason given"
