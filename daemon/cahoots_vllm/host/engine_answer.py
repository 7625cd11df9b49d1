"""An answer of the engine, on its way through the gateway."""

import asyncio
from collections.abc import Callable
from typing import Final

from multidict import CIMultiDict

# What has come and nobody has taken: beyond it the engine waits.
_BUFFER_BYTES: Final = 256 * 1024
# Takes a part of an answer at once, or refuses it.
Sink = Callable[[bytes], bool]


class BrokenOffError(ConnectionError):
    """The connection ended before the answer did, or what came is no answer."""


class Answer:
    """An answer that has begun; its body is read once, by `read` or `pour`."""

    def __init__(
        self, status: int, reason: str, headers: CIMultiDict[str], resume: Callable[[], None]
    ) -> None:
        """Filled by its connection, by `feed`, `finish` and `fail`.

        `resume` is called when there is room again after `feed` has said that there is none.
        """
        self.status = status
        self.reason = reason
        self.headers = headers
        self.is_whole = False
        self._resume = resume
        self._parts: list[bytes] = []
        self._size = 0
        self._error: BrokenOffError | None = None
        self._sink: Sink | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def content_type(self) -> str:
        """The media type alone, in small letters, "" where none is said."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def content_length(self) -> int | None:
        """The length of the body in bytes, as far as it is said."""
        said = self.headers.get("Content-Length", "")
        return int(said) if said.isascii() and said.isdigit() else None

    @property
    def ends_with_connection(self) -> bool:
        """Whether nothing else says where its body ends (RFC 9112, 6.3)."""
        return "Transfer-Encoding" not in self.headers and self.content_length is None

    async def read(self) -> bytes:
        """Return what has come since, after waiting for something; b"" at the end.

        Raises BrokenOffError when the answer is cut off; what had come before is returned first.
        """
        while not self._parts:
            if self.is_whole:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        self._resume()
        return data

    async def pour(self, sink: Sink) -> None:
        """Give each part to `sink` the moment it comes, until it refuses one, or all have come.

        What it refused is there for `read`.
        """
        if self._parts or self.is_whole or self._error is not None:
            return
        self._sink = sink
        try:
            await self._wait()
        finally:
            self._sink = None

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def feed(self, part: bytes) -> bool:
        """Take a part; return whether more may come."""
        if self._sink is not None and not self._parts and self._sink(part):
            return True
        self._parts.append(part)
        self._size += len(part)
        self._wake()
        return self._size < _BUFFER_BYTES

    def finish(self) -> None:
        """Take note that all has come."""
        self.is_whole = True
        self._wake()

    def fail(self, error: BrokenOffError) -> None:
        """Take note that no more comes."""
        self._error = error
        self._wake()
