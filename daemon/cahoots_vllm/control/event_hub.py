"""What happened, for everyone who watches: the API's event stream, the log, systemd's STATUS."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

_KEPT = 500
_QUEUE = 1000


class EventType(StrEnum):
    """The kinds of events."""

    PHASE = "phase"
    PROGRESS = "progress"
    DIAGNOSIS = "diagnosis"
    OPERATION = "operation"
    RELOAD = "reload"
    DEMAND = "demand"


@dataclass(frozen=True, slots=True)
class PublishedEvent:
    """One event; `data` is what goes over the wire as JSON."""

    number: int
    type: EventType
    data: Mapping[str, object]


class EventHub:
    """Keeps the last events and hands new ones to every subscriber."""

    def __init__(self) -> None:
        """Start with none."""
        self._next = 1
        self._kept: deque[PublishedEvent] = deque(maxlen=_KEPT)
        self._queues: set[asyncio.Queue[PublishedEvent]] = set()
        self._listeners: list[Callable[[PublishedEvent], None]] = []

    def listen(self, listener: Callable[[PublishedEvent], None]) -> None:
        """Call `listener` for each event, in the publisher's own step."""
        self._listeners.append(listener)

    def publish(self, type_: EventType, data: Mapping[str, object]) -> None:
        """Number the event and hand it on. A subscriber that does not read loses its place."""
        event = PublishedEvent(self._next, type_, data)
        self._next += 1
        self._kept.append(event)
        for listener in self._listeners:
            listener(event)
        for queue in tuple(self._queues):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._queues.discard(queue)  # its stream ends; Last-Event-ID resumes it

    async def subscribe(
        self, after: int | None, *, idle_s: float
    ) -> AsyncIterator[PublishedEvent | None]:
        """Yield events after a number (None: the last phase, then what comes).

        Yields None when nothing happened for `idle_s`, as a chance to send a sign of life.
        """
        queue: asyncio.Queue[PublishedEvent] = asyncio.Queue(_QUEUE)
        self._queues.add(queue)
        try:
            for event in self._replay(after):
                yield event
            while queue in self._queues or not queue.empty():
                try:
                    yield await asyncio.wait_for(queue.get(), idle_s)
                except TimeoutError:
                    yield None
        finally:
            self._queues.discard(queue)

    def _replay(self, after: int | None) -> list[PublishedEvent]:
        if after is None:
            return [e for e in self._kept if e.type is EventType.PHASE][-1:]
        # A number from before a daemon restart is larger than ours: send all we have.
        return [e for e in self._kept if e.number > after or after >= self._next]
