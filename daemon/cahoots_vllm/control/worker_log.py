"""The worker's words in the journal: entries with fields, and never so many that others are lost.

journald drops what a service sends beyond 10,000 entries in 30 s (journald.conf(5), RateLimit*=),
the daemon's own included: the worker's share stays well below, and errors have a share of theirs.
A long entry counts as several: a flood must not push other services' entries off the disk either.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Protocol

from cahoots_vllm.core.log_entries import ERROR, WARNING, Entry, LogEntries

_IDENTIFIER = "cahoots-vllm-worker"
_LOOK_S = 0.15
_BURST, _PER_S = 1500.0, 100.0  # 4,500 in 30 s
_LONG = 1000  # characters
_CALM_S, _TELL_EVERY_S = 1.0, 10.0
_MAX_LATE = 50  # errors that wait for a full journal
_ERROR_BURST, _ERRORS_PER_S = 500.0, 20.0  # 1,100 in 30 s


class Sender(Protocol):
    """Takes an entry, or says that it cannot now (host.journal)."""

    def send(self, message: str, priority: int, fields: Mapping[str, str]) -> bool:
        """Send one entry; never waits."""
        ...


class Share:
    """A token bucket: so much at once, so much a second for ever."""

    def __init__(self, burst: float, per_s: float) -> None:
        """Start full."""
        self._burst, self._per_s = burst, per_s
        self._left, self._at = burst, 0.0

    def take(self, now: float, cost: float = 1.0) -> bool:
        """Take so much, if there is as much left."""
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < cost:
            return False
        self._left -= cost
        return True


class WorkerLog:
    """Writes what workers say; nothing where there is no journal."""

    def __init__(self, journal: Sender | None) -> None:
        """`journal` is for this log alone: a full one must not cost others their entries."""
        self._journal = journal
        self._entries = LogEntries()
        self._shares = Share(_ERROR_BURST, _ERRORS_PER_S), Share(_BURST, _PER_S)
        self._late: deque[tuple[Entry, dict[str, str]]] = deque()
        self._left_out, self._left_out_at, self._told_at = 0, 0.0, 0.0
        self._fields: dict[str, str] = {}
        self._generation: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    def phase(self, fields: Mapping[str, str]) -> None:
        """Take the fields of the phase that begins: the model, and where it is."""
        self.flush()
        self._fields = dict(fields)

    def line(self, generation: int, text: str) -> None:
        """Take a line, without its end, secrets masked."""
        if self._journal is None:
            return
        if generation != self._generation:
            self.flush()
            self._generation, self._entries = generation, LogEntries()
        now = asyncio.get_running_loop().time()
        self._send(self._entries.add(text, now), now)
        if self._timer is None:
            self._wait()

    def flush(self) -> None:
        """Send what is held back, before something is said that it led to."""
        if self._entries.is_waiting:
            self._send(self._entries.rest(), asyncio.get_running_loop().time())
        self._send_late()

    def close(self) -> None:
        """Send what is held back, and what was left out."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.flush()
        if self._left_out:
            self._tell_left_out(asyncio.get_running_loop().time())

    def _wait(self) -> None:
        is_waiting = self._entries.is_waiting or self._late or self._left_out > 0
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_LOOK_S, self._look) if is_waiting else None

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        self._send_late()
        self._send(self._entries.due(now), now)
        is_over = now - self._left_out_at >= _CALM_S
        if self._left_out and (is_over or now - self._told_at >= _TELL_EVERY_S):
            self._tell_left_out(now)
        self._wait()

    def _send(self, entries: list[Entry], now: float) -> None:
        for entry in entries:
            is_error = entry.priority <= ERROR
            share = self._shares[not is_error]
            fields = self._fields_of(entry)
            if share.take(now, 1 + len(entry.text) // _LONG):
                # Errors keep their order; what is plain does not wait behind them.
                if not (is_error and self._late) and self._write(entry, fields):
                    continue
                if is_error and len(self._late) < _MAX_LATE:
                    self._late.append((entry, fields))
                    continue
            if self._left_out == 0:
                self._told_at = now
            self._left_out += 1
            self._left_out_at = now

    def _send_late(self) -> None:
        while self._late and self._write(*self._late[0]):
            self._late.popleft()

    def _tell_left_out(self, now: float) -> None:
        self._told_at = now
        said = (
            f"{self._left_out} entries of the worker were left out, too many at once: "
            "cahootsctl logs has its last lines"
        )
        entry = Entry(said, WARNING)
        if self._write(entry, self._fields_of(entry)):
            self._left_out = 0

    def _fields_of(self, entry: Entry) -> dict[str, str]:
        fields = {"SYSLOG_IDENTIFIER": _IDENTIFIER, **self._fields}
        if self._generation is not None:
            fields["CAHOOTS_GENERATION"] = str(self._generation)
        if entry.pid is not None:
            fields["SYSLOG_PID"] = entry.pid
        return fields

    def _write(self, entry: Entry, fields: dict[str, str]) -> bool:
        return self._journal is not None and self._journal.send(entry.text, entry.priority, fields)
