"""The queue of requests that wait for a worker: oldest first, bounded in number and in bytes."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from cahoots_vllm.control.backend import Backend
from cahoots_vllm.core.errors import CahootsError, Kind


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request needs, and the bounds it is held within.

    `size_bytes`: what is kept of it meanwhile. `model`: as the client named it; None: any.
    `is_urgent`: it costs the engine nothing, goes first, and is not counted. `is_suspect`: it was
    in flight at a death, and goes where others wait for it (Rotation.bar).
    """

    timeout_s: float
    hold_max: int
    hold_bytes: int
    size_bytes: int = 0
    model: str | None = None
    is_urgent: bool = False
    is_suspect: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Waiter:
    """One that waits; `since` is the loop's time."""

    ask: Ask
    since: float
    future: asyncio.Future[Backend] = field(repr=False)


class Hold:
    """The queue. Who waits is found in the order of arrival, the urgent ones first."""

    def __init__(self) -> None:
        """Nobody waits."""
        self._urgent: dict[Waiter, None] = {}
        self._waiting: dict[Waiter, None] = {}
        self.bytes = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._urgent) + len(self._waiting)

    def __iter__(self) -> Iterator[Waiter]:
        """Those that wait, in their order."""
        yield from self._urgent
        yield from self._waiting

    def enter(self, ask: Ask) -> Waiter:
        """Begin to wait. Raises CahootsError (BUSY) where there is no room."""
        if not ask.is_urgent:
            _check_room(ask, len(self._waiting), self.bytes)
        loop = asyncio.get_running_loop()
        waiter = Waiter(ask, loop.time(), loop.create_future())
        queue = self._urgent if ask.is_urgent else self._waiting
        queue[waiter] = None
        self.bytes += ask.size_bytes
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Wait no more; who has left already is ignored."""
        for queue in (self._urgent, self._waiting):
            if waiter in queue:
                del queue[waiter]
                self.bytes -= waiter.ask.size_bytes


def _check_room(ask: Ask, count: int, kept_bytes: int) -> None:
    if count >= ask.hold_max:
        what = f"{count} requests wait already"
    elif kept_bytes + ask.size_bytes > ask.hold_bytes:
        what = f"those that wait already have {kept_bytes >> 20} MiB"
    else:
        return
    raise CahootsError(Kind.BUSY, f"cannot hold the request: {what}", "try again later")
