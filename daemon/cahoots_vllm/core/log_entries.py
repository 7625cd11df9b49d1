"""Puts a worker's lines together into entries: a traceback is one, however many lines it has.

Pure: time is an argument. Lines of several processes come mixed; each speaker has its own entry.
"""

import re
from dataclasses import dataclass, field

from cahoots_vllm.core.log_line import LogLine, parse_line

ERROR, WARNING, INFO, DEBUG = 3, 4, 6, 7  # syslog(3)
_PRIORITIES = {"DEBUG": DEBUG, "INFO": INFO, "WARNING": WARNING, "ERROR": ERROR, "CRITICAL": 2}
_TRACEBACK = "Traceback (most recent call last):"
# What the interpreter or the C++ runtime say without any level, before they end the process.
_FATAL = re.compile(r"Fatal Python error|terminate called|!+ Segfault encountered|CUDA error")
# Between the traceback's frames, which are indented, and after them: what was raised, and chains.
_OF_TRACEBACK = re.compile(
    r"\s|$|[A-Za-z_][\w.]*(?:: |$)|During handling of the above|The above exception was"
)
_QUIET_S = 0.3
_MAX_LINES, _MAX_CHARACTERS = 400, 40_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry; `priority` is syslog's, 0 to 7, `pid` the speaker's where it says so."""

    text: str
    priority: int
    pid: str | None = None


@dataclass(slots=True)
class _Open:
    """An entry that more lines may belong to."""

    header: str
    priority: int
    pid: str | None
    is_traceback: bool
    changed_at: float
    lines: list[str] = field(default_factory=list)
    characters: int = 0

    def add(self, text: str, now: float) -> None:
        self.lines.append(text)
        self.characters += len(text)
        self.changed_at = now

    @property
    def is_full(self) -> bool:
        return len(self.lines) >= _MAX_LINES or self.characters >= _MAX_CHARACTERS

    def close(self) -> Entry:
        return Entry("\n".join(self.lines), self.priority, self.pid)


class LogEntries:
    """Takes lines in order and gives entries; only what may go on is held back, 0.3 s at most."""

    def __init__(self) -> None:
        """Nothing is open."""
        self._open: dict[str, _Open] = {}
        self._last: dict[str, int] = {}

    @property
    def is_waiting(self) -> bool:
        """Whether an entry is held back: `due` is to be asked soon."""
        return bool(self._open)

    def add(self, text: str, now: float) -> list[Entry]:
        """Return the entries that are whole with this line; `now` in seconds."""
        line = parse_line(text)
        # Without the blank before the message: a record's empty line ends without it.
        header = text[: len(text) - len(line.message)].rstrip()
        speaker = f"{line.process}/{line.pid}"
        entry = self._open.get(speaker)
        if entry is not None and _continues(entry, line, header):
            entry.is_traceback = entry.is_traceback or line.message.startswith(_TRACEBACK)
            entry.add(line.message, now)
            return self._close(speaker) if entry.is_full else []
        done = self._close(speaker)
        # The C++ runtime's frames look like Python's.
        is_traceback = _TRACEBACK in line.message or _FATAL.match(line.message) is not None
        priority = _priority(line, is_traceback, self._last.get(speaker, INFO))
        self._last[speaker] = priority
        if is_traceback or priority <= ERROR:
            entry = self._open[speaker] = _Open(header, priority, line.pid, is_traceback, now)
            entry.add(text, now)
            return done
        return [*done, Entry(text, priority, line.pid)]

    def due(self, now: float) -> list[Entry]:
        """Return the entries whose speaker has been quiet long enough."""
        quiet = [name for name, entry in self._open.items() if now - entry.changed_at >= _QUIET_S]
        return [entry for name in quiet for entry in self._close(name)]

    def rest(self) -> list[Entry]:
        """Return what is open: nothing more will come."""
        return [entry for name in tuple(self._open) for entry in self._close(name)]

    def _close(self, speaker: str) -> list[Entry]:
        entry = self._open.pop(speaker, None)
        return [entry.close()] if entry is not None else []


def _continues(entry: _Open, line: LogLine, header: str) -> bool:
    # vLLM puts a record's header before each of its lines (vllm/logging_utils/formatter.py).
    if line.level is not None:
        return header == entry.header
    if not entry.is_traceback:
        return False
    # Behind "During handling of the above exception, …" and a blank line.
    is_next_of_chain = entry.lines[-1] == "" and line.message.startswith(_TRACEBACK)
    return is_next_of_chain or _OF_TRACEBACK.match(line.message) is not None


def _priority(line: LogLine, is_traceback: bool, last: int) -> int:  # noqa: FBT001 (a fact about the line)
    if line.level is not None:
        return _PRIORITIES[line.level]
    if is_traceback:
        return ERROR
    # Indented and without a level: it goes on with what the speaker said before.
    return last if line.message[:1].isspace() else INFO
