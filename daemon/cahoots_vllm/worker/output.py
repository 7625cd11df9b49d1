"""Pumps a worker's output: bytes from the pipe to redacted lines, kept for the diagnosis.

The whole log of a start is kept, bounded: the root cause stands up to 600 lines above the end.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from cahoots_vllm.core.secret import masked_words
from cahoots_vllm.host.line_file import LineFile

_CHUNK_BYTES = 65536
_DRAIN_BYTES = 2 << 20  # more than a pipe holds (pipe(7): 1 MiB at most)
_TURN_S = 0.01
# Of lines read at once: a chunk of 64 KiB holds 32,000 empty ones, and some hundreds of sense.
_FIRST_AT_ONCE, _LAST_AT_ONCE = 1000, 2000
_MAX_LINE = 4000
# The start is kept for good: what it says decides how later words are read.
_FIRST_LINES, _LAST_LINES = 3000, 2000
LineSink = Callable[[str], None]


class OutputPump:
    """Owns the read end of the pipe.

    A grandchild may hold the write end for ever: a worker's end is never taken from EOF here.
    """

    def __init__(
        self, read_end: int, sink: LineSink, secrets: Iterable[str], file: LineFile | None = None
    ) -> None:
        """Start reading; `sink` gets each line, without its end, secrets masked.

        `file` keeps them for a later daemon; what an earlier one wrote there is taken as read.
        """
        self._read_end = read_end
        self._sink = sink
        self._secrets = tuple(word.encode() for word in masked_words(secrets))
        self._rest = b""
        self._pending: deque[bytes] = deque()
        self._later: asyncio.TimerHandle | None = None
        self._file = file
        first, last = file.read() if file is not None else ([], [])
        self._first: list[str] = first
        self._last: deque[str] = deque(last, maxlen=_LAST_LINES)
        self.last_line_at = asyncio.get_running_loop().time()
        os.set_blocking(read_end, False)
        asyncio.get_running_loop().add_reader(read_end, self._read)

    def hear(self, sink: LineSink) -> None:
        """Let somebody else get each line from now on."""
        self._sink = sink

    @property
    def lines(self) -> tuple[str, ...]:
        """What was said: the first 3000 lines and the last 2000."""
        return (*self._first, *self._last)

    @property
    def first_lines(self) -> tuple[str, ...]:
        """The first 3000 lines alone: a start's."""
        return tuple(self._first)

    def _read(self) -> None:
        """Take a chunk, if there is one."""
        try:
            chunk = os.read(self._read_end, _CHUNK_BYTES)
        except BlockingIOError:
            return
        if not chunk:
            self.close()
            return
        self.last_line_at = asyncio.get_running_loop().time()
        self._split(chunk)

    def _split(self, chunk: bytes) -> None:
        # Progress bars end a line with \r; vLLM's multi-line messages hold \r\n inside.
        pieces = (self._rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = pieces.pop()
        if len(self._rest) > _MAX_LINE:
            whole = self._mask(self._rest)
            end = len(whole) - self._secret_begun(whole)
            pieces.append(whole[:end])
            self._rest = whole[end:]
        self._pending += _without_flood(pieces)
        self._work()

    def _work(self) -> None:
        """Take lines for a few milliseconds; requests and the watchdog have their turn then.

        Nothing more is read meanwhile: a worker that writes faster has to wait.
        """
        self._later = None
        loop = asyncio.get_running_loop()
        end = loop.time() + _TURN_S
        while self._pending and loop.time() < end:
            self._take(self._pending.popleft())
        if self._pending:
            loop.remove_reader(self._read_end)
            self._later = loop.call_later(_TURN_S, self._work)
        elif self._read_end >= 0:
            loop.add_reader(self._read_end, self._read)

    def _finish(self) -> None:
        """Take what has been read, at once."""
        if self._later is not None:
            self._later.cancel()
            self._later = None
        while self._pending:
            self._take(self._pending.popleft())
        if self._read_end >= 0:
            asyncio.get_running_loop().add_reader(self._read_end, self._read)

    def _take(self, piece: bytes) -> None:
        # Masked before it is cut: half a secret would not be known as one.
        text = self._mask(piece).decode(errors="replace").rstrip()[:_MAX_LINE]
        if not text:
            return
        kept = self._first if len(self._first) < _FIRST_LINES else self._last
        kept.append(text)
        if self._file is not None:
            self._file.append(text)
        self._sink(text)

    def _mask(self, piece: bytes) -> bytes:
        for secret in self._secrets:
            piece = piece.replace(secret, b"***")
        return piece

    def _secret_begun(self, piece: bytes) -> int:
        """Return how many bytes at the end of an unfinished line may be a secret's beginning."""
        longest = len(self._secrets[0]) if self._secrets else 0
        for length in range(min(longest - 1, len(piece)), 0, -1):
            if any(secret.startswith(piece[-length:]) for secret in self._secrets):
                return length
        return 0

    def drain(self) -> None:
        """Read what is in the pipe now, e.g. the last words of a worker that just ended.

        Bounded: a process that floods the pipe must not keep the loop.
        """
        if self._read_end < 0:
            return
        with suppress(BlockingIOError):
            self._split(os.read(self._read_end, _DRAIN_BYTES))
        self._finish()

    def close(self) -> None:
        """Stop reading and close the pipe."""
        if self._read_end < 0:
            return
        asyncio.get_running_loop().remove_reader(self._read_end)
        os.close(self._read_end)
        self._read_end = -1
        self._finish()
        if self._rest:
            self._take(self._rest)
            self._rest = b""
        if self._file is not None:
            self._file.close()

    def forget(self) -> None:
        """Let go of what was kept for a later daemon: the worker is gone."""
        if self._file is not None:
            self._file.remove()


def _without_flood(pieces: list[bytes]) -> list[bytes]:
    """Leave out the middle of too many lines at once, and say so."""
    left_out = len(pieces) - _FIRST_AT_ONCE - _LAST_AT_ONCE
    if left_out <= 0:
        return pieces
    said = f"({left_out} lines were left out here: too many at once)".encode()
    return [*pieces[:_FIRST_AT_ONCE], said, *pieces[-_LAST_AT_ONCE:]]


def line_file(directory: Path, generation: int) -> LineFile:
    """Return where a generation's lines are kept for a later daemon."""
    return LineFile(directory / f"worker-{generation}.log", _FIRST_LINES, _LAST_LINES)
