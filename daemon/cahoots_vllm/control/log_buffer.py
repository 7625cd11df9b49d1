"""The last lines of the worker and the daemon, for `cahootsctl logs`."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

_KEPT = 5000
_QUEUE = 5000


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line; `source` is "worker" or "daemon", `at` an ISO 8601 time in UTC."""

    at: str
    source: str
    generation: int | None
    level: str | None
    text: str


class LogBuffer:
    """A ring of lines with followers."""

    def __init__(self) -> None:
        """Start empty."""
        self._kept: deque[LogEntry] = deque(maxlen=_KEPT)
        self._queues: set[asyncio.Queue[LogEntry]] = set()

    def add(
        self, source: str, text: str, *, level: str | None = None, generation: int | None = None
    ) -> None:
        """Append a line, stamped on arrival: vLLM's own stamps have no year and no zone."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = LogEntry(at, source, generation, level, text)
        self._kept.append(entry)
        for queue in tuple(self._queues):
            try:
                queue.put_nowait(entry)
            except asyncio.QueueFull:
                self._queues.discard(queue)  # a follower that does not read is let go

    def last(self, count: int) -> list[LogEntry]:
        """Return the last lines, oldest first."""
        return list(self._kept)[-count:] if count > 0 else []

    async def follow(self, count: int) -> AsyncIterator[LogEntry]:
        """Yield the last lines, then each new one."""
        queue: asyncio.Queue[LogEntry] = asyncio.Queue(_QUEUE)
        self._queues.add(queue)
        try:
            for entry in self.last(count):
                yield entry
            while queue in self._queues or not queue.empty():
                yield await queue.get()
        finally:
            self._queues.discard(queue)
