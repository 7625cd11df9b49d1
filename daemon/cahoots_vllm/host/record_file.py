"""A bounded file of records, one a line: appended at once, a bad line harms no other."""

import os
from collections.abc import Callable
from pathlib import Path

from cahoots_vllm.host.files import write_atomically

_LINE_END = b"\n"


class RecordFile:
    """The file at `path`; its newest `kept` records stay. Every method raises OSError."""

    def __init__(self, path: Path, kept: int) -> None:
        """Make nothing yet."""
        self._path = path
        self._kept = kept

    def read(self) -> list[str]:
        """Return the lines, the oldest first; some may be damaged."""
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return []
        lines = raw.decode(errors="replace").split("\n")
        return [line for line in lines if line.strip()][-self._kept :]

    def append(self, line: str, is_whole: Callable[[str], bool]) -> None:
        """Keep a record that holds no line end; it is on the disk when this returns.

        A file with twice the lines that are kept is written anew, with those that are whole.
        """
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            # A line that a full disk or a power cut left unfinished must not take this one with it.
            is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != _LINE_END
            data = (_LINE_END if is_torn else b"") + line.encode() + _LINE_END
            if os.write(descriptor, data) < len(data):
                message = "no room for the record"
                raise OSError(message)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._trim(is_whole)

    def _trim(self, is_whole: Callable[[str], bool]) -> None:
        lines = self._path.read_bytes().decode(errors="replace").split("\n")
        if len(lines) > 2 * self._kept:
            whole = [line for line in lines if line.strip() and is_whole(line)][-self._kept :]
            write_atomically(self._path, "".join(f"{line}\n" for line in whole))
