"""One worker in rotation: the connections to its socket, and the requests on it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from cahoots_vllm.host.engine_client import EngineClient, UnreachableError


class Backend:
    """What the gateway sends requests to.

    `closed` is set while it gets no more of them; `lost` once it died. `on_trial` is the one
    request that is to blame for a death (gateway.trial), None: each that is in flight; it has the
    `turn`. `suspects` counts those on it that were in flight at an earlier death.
    """

    def __init__(
        self, generation: int, uds: Path, model: str, served: tuple[str, ...] = ()
    ) -> None:
        """`served` are the names it answers to.

        No limit on connections: the engine queues requests itself.
        """
        self.generation = generation
        self.model = model
        self.served = frozenset(served)
        # When the last use of it ended, in the loop's seconds.
        self.used_at = asyncio.get_running_loop().time()
        self.in_flight = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.closed = asyncio.Event()
        self.lost = asyncio.Event()
        self.on_trial: str | None = None
        self.suspects = 0
        self.turn = asyncio.Lock()
        self._requests: set[asyncio.Timeout] = set()
        self.uds = uds
        self._client = EngineClient(uds)

    @asynccontextmanager
    async def request(self, *, is_use: bool = True) -> AsyncIterator[EngineClient]:
        """Count a request as in flight; `is_use`: it keeps the worker from being idle.

        Raises UnreachableError when the worker is retired, TimeoutError once it is.
        """
        if self._client.is_closed:
            what = "the worker is retired"
            raise UnreachableError(what)
        self.in_flight += 1
        self.idle.clear()
        try:
            async with asyncio.timeout(None) as end:
                self._requests.add(end)
                try:
                    yield self._client
                finally:
                    self._requests.discard(end)
        finally:
            self.in_flight -= 1
            if is_use:
                self.used_at = asyncio.get_running_loop().time()
            if self.in_flight == 0:
                self.idle.set()

    async def is_lost_within(self, seconds: float) -> bool:
        """Return whether it died, by then: its death is noticed a moment after its answers end."""
        if not self._client.is_closed:  # retired: there is nobody left to die
            with suppress(TimeoutError):
                await asyncio.wait_for(self.lost.wait(), seconds)
        return self.lost.is_set()

    async def is_closed_within(self, seconds: float) -> bool:
        """Return whether it gets no more requests, by then."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.closed.wait(), seconds)
        return self.closed.is_set()

    async def end(self) -> None:
        """End the requests still on it; closing the session alone wakes nobody who reads there."""
        # Once each: one that is on its way out cannot be told again.
        while self._requests:
            request = self._requests.pop()
            request.reschedule(asyncio.get_running_loop().time())
        self._client.close()
