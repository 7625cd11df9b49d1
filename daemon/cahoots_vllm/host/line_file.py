"""A worker's lines on the runtime directory's tmpfs, so that the next daemon can still judge them.

Bounded: the first lines are kept for good, the last in two files that take turns.
"""

import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

_END = b"\n"


class LineFile:
    """Appends lines; a disk that takes none costs only what a restart would have remembered."""

    def __init__(self, path: Path, first: int, last: int) -> None:
        """Go on with the files at `path`, if there are any: those of an earlier daemon."""
        self._first, self._last = first, last
        self._start = path
        self._older = path.with_name(f"{path.name}.1")
        self._newer = path.with_name(f"{path.name}.2")
        self._file: FileIO | None = None
        self._room = 0

    def read(self) -> tuple[list[str], list[str]]:
        """Return the first lines and the last ones that were kept."""
        last = [*_lines(self._older), *_lines(self._newer)]
        return list(_lines(self._start)), last[-self._last :]

    def append(self, text: str) -> None:
        """Keep a line; it holds no line end."""
        try:
            if self._room == 0:
                self._turn()
            if self._file is not None:
                self._file.write(text.encode(errors="replace") + _END)
                self._room -= 1
        except OSError:
            return  # full: what was written stays

    def _turn(self) -> None:
        """Open the file that has room."""
        self.close()
        path, room = self._start, self._first - _count(self._start)
        if room <= 0:
            if _count(self._newer) >= self._last:
                self._newer.replace(self._older)
            path, room = self._newer, self._last - _count(self._newer)
        self._file = open(path, "ab", buffering=0, opener=_private)  # noqa: SIM115 (Path.open has no opener; kept until the next turn)
        self._room = room

    def close(self) -> None:
        """Close it; the next line opens it again."""
        if self._file is not None:
            self._file.close()
        self._file, self._room = None, 0

    def remove(self) -> None:
        """Delete the files: the worker is gone."""
        self.close()
        for path in (self._start, self._older, self._newer):
            path.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _count(path: Path) -> int:
    return sum(1 for _ in _lines(path))


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            for line in file:
                yield line.rstrip(_END).decode(errors="replace")
    except FileNotFoundError:
        return
