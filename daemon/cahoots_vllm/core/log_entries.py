"""Puts a worker's lines together into entries: a traceback is one, however many lines it has.

Pure: time is an argument. Lines of several processes come mixed; each speaker has its own entry.
"""

import re
from dataclasses import dataclass, field

from cahoots_vllm.core.log_line import LogLine, parse_line, without_colour

ERROR, WARNING, INFO, DEBUG = 3, 4, 6, 7  # syslog(3)
_PRIORITIES = {"DEBUG": DEBUG, "INFO": INFO, "WARNING": WARNING, "ERROR": ERROR, "CRITICAL": 2}
_TRACEBACK = "Traceback (most recent call last):"
# What the interpreter, the C++ runtime or torch's own log say without any of vLLM's levels.
_FATAL = re.compile(
    r"Fatal Python error|terminate called|!+ Segfault encountered|CUDA error|\[?E\d{3,4} \d\d:"
)
_CHAIN = ("During handling of the above", "The above exception was")
# Between the traceback's frames and after them: what was raised, chains, frames of C++.
_OF_TRACEBACK = re.compile(
    r"\s|$|[A-Za-z_][\w.]*(?:: |$)|frame #\d|Exception raised from|" + "|".join(_CHAIN)
)
# Unindented as well, but a beginning: multiprocessing's, torch's log, a warning, a progress bar.
_APART = re.compile(
    r"Process \S+:$|\[?[A-Z]\d{3,4} \d\d:|\S+:\d+: \w*Warning: |.*\d% ?(?:Completed )?\|"
)
# journalctl shows an entry with one of these as "blob data".
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_QUIET_S = 0.3
_MAX_LINES, _MAX_CHARACTERS = 400, 40_000
_MAX_LOOSE = 30  # lines of what was raised that only their place tells from what is said next
_MAX_SPEAKERS = 64  # whoever writes to the pipe says what it is called


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry; `priority` is syslog's, 0 to 7, `pid` the speaker's where it says so."""

    text: str
    priority: int
    pid: str | None = None


@dataclass(slots=True)
class _Open:
    """An entry that more lines may belong to; without `level` it is a traceback as it was raised.

    `header`: what vLLM puts before each line of a record (vllm/logging_utils/formatter.py).
    """

    header: str | None
    level: str | None
    priority: int
    pid: str | None
    lines: list[str] = field(default_factory=list)
    changed_at: float = 0.0
    characters: int = 0
    loose: int = 0
    said: str = ""  # the last line that is not blank

    def add(self, text: str, message: str, now: float) -> None:
        self.lines.append(text)
        self.characters += len(text)
        self.changed_at = now
        self.said = message or self.said
        self.loose += _OF_TRACEBACK.match(message) is None

    @property
    def is_full(self) -> bool:
        return len(self.lines) >= _MAX_LINES or self.characters >= _MAX_CHARACTERS

    def takes(self, line: LogLine, header: str) -> bool:
        """Whether a line goes on with this entry."""
        if line.level is not None:
            return header == self.header
        if line.message.startswith(_TRACEBACK):
            # uvicorn's record has no header, and what was raised stands below it.
            return self.said.startswith(_CHAIN) or (self.level is not None and self.header is None)
        if self.level is not None and self.header is not None:
            return False
        if _OF_TRACEBACK.match(line.message):
            return True
        return self.loose < _MAX_LOOSE and _APART.match(line.message) is None

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
        text = _CONTROL.sub("?", without_colour(text))
        line = parse_line(text)
        # Without the blank before the message: a record's empty line ends without it.
        header = text[: len(text) - len(line.message)].rstrip()
        speaker = f"{line.process}/{line.pid}"
        entry = self._open.get(speaker)
        if entry is not None and entry.takes(line, header):
            entry.add(line.message, line.message, now)
            return self._close(speaker) if entry.is_full else []
        done = self._close(speaker)
        is_raised = line.level is None and _is_raised(line.message)
        priority = self._priority(speaker, line, is_raised=is_raised)
        # What is plain and may be one of thousands is not held back for what might follow.
        if not is_raised and priority > WARNING:
            return [*done, Entry(text, priority, line.pid)]
        if len(self._open) >= _MAX_SPEAKERS:
            done += self._close(next(iter(self._open)))
        is_record = line.level is not None and header.endswith("]")
        entry = _Open(header if is_record else None, line.level, priority, line.pid)
        entry.add(text, line.message, now)
        self._open[speaker] = entry
        return done

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

    def _priority(self, speaker: str, line: LogLine, *, is_raised: bool) -> int:
        if line.level is not None:
            priority = _PRIORITIES[line.level]
        elif is_raised:
            priority = ERROR
        else:
            # Indented: it goes on with what the speaker said before.
            priority = self._last.get(speaker, INFO) if line.message[:1].isspace() else INFO
        if len(self._last) >= _MAX_SPEAKERS:
            self._last.clear()
        self._last[speaker] = priority
        return priority


def _is_raised(message: str) -> bool:
    return _TRACEBACK in message or _FATAL.match(message) is not None
