"""Which worker gets requests, and who waits for one.

The supervisor admits and closes; the gateway enters and leaves. Requests that find no worker wait
here, oldest first; in `off` and `failed` they are refused with the reason.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from math import ceil
from pathlib import Path

from cahoots_vllm.control.backend import Backend
from cahoots_vllm.control.hold import Ask, Hold, Waiter
from cahoots_vllm.control.terms import Refusal, Terms
from cahoots_vllm.core.errors import CahootsError, Kind

# Those that waited are let go in their order, a few at a time: a thousand connections at once
# would arrive in any order, and more than the worker's backlog would be refused.
_BATCH = 8
_PACE_S = 0.002
_MAX_RETRY_AFTER_S = 600


class Rotation:
    """At most one backend is open; a closed one may still be finishing requests."""

    def __init__(self) -> None:
        """No worker yet: requests are held."""
        self._open: Backend | None = None
        self._backends: dict[int, Backend] = {}
        self._hold = Hold()
        self._release_handle: asyncio.TimerHandle | None = None
        self._barred: Counter[str | None] = Counter()
        self.terms = Terms()
        # Called when a request begins to wait.
        self.on_wait: Callable[[], None] = lambda: None
        # When a worker is expected to be ready, in the loop's seconds; None: nothing is known.
        self.expected_at: float | None = None

    @property
    def held(self) -> int:
        """How many requests wait for a worker."""
        return len(self._hold)

    @property
    def running(self) -> int:
        """How many requests are on a worker."""
        return sum(backend.in_flight for backend in self._backends.values())

    def is_asked(self, generation: int) -> bool:
        """Whether requests are on this worker."""
        backend = self._backends.get(generation)
        return backend is not None and backend.in_flight > 0

    @property
    def is_open(self) -> bool:
        """Whether a request sent now goes to a ready worker."""
        return self._open is not None

    @property
    def open_backend(self) -> Backend | None:
        """The worker that requests go to."""
        return self._open

    @property
    def refusal(self) -> Refusal | None:
        """Why a request sent now would be refused, None when it would be served or held."""
        return self.terms.refusal

    @property
    def is_choosy(self) -> bool:
        """Whether it matters which model a request names."""
        return bool(self.terms.names)

    @property
    def quiet_since(self) -> float | None:
        """Since when no request is on a worker or waits for one, None while any does."""
        if self.running or len(self._hold):
            return None
        return max((backend.used_at for backend in self._backends.values()), default=0.0)

    def waiting(self) -> Iterator[tuple[str | None, float]]:
        """Yield which model each request that waits has named, and since when it waits."""
        for waiter in self._hold:
            yield waiter.ask.model, waiter.since

    def admit(
        self, generation: int, uds: Path, model: str = "", served: tuple[str, ...] = ()
    ) -> None:
        """Send requests to this worker, those that waited first; not those for other models."""
        if self._open is not None and self._open.generation != generation:
            self._open.closed.set()
        backend = self._backends.get(generation) or Backend(generation, uds, model, served)
        self._backends[generation] = self._open = backend
        backend.closed.clear()
        self.terms = replace(self.terms, refusal=None)
        self._release()

    def _release(self) -> None:
        if self._release_handle is not None:
            self._release_handle.cancel()
            self._release_handle = None
        backend = self._open
        if backend is None:
            return  # it was closed meanwhile: the rest waits for the next
        its_own = (w for w in self._hold if self._may_go(w.ask, backend))
        batch = list(islice(its_own, _BATCH + 1))
        for waiter in batch[:_BATCH]:
            self._hold.leave(waiter)
            if not waiter.future.done():
                waiter.future.set_result(backend)
        if len(batch) > _BATCH:
            loop = asyncio.get_running_loop()
            self._release_handle = loop.call_later(_PACE_S, self._release)

    def _may_go(self, ask: Ask, backend: Backend) -> bool:
        if not self.terms.is_for(ask.model, backend.served):
            return False
        return ask.is_urgent or ask.is_suspect or not self._is_barred(backend)

    def _is_barred(self, backend: Backend) -> bool:
        return any(self.terms.is_for(model, backend.served) for model in self._barred)

    def bar(self, model: str | None) -> None:
        """Let a suspect go first that names this model: others wait here until `unbar`."""
        self._barred[model] += 1

    def unbar(self, model: str | None) -> None:
        """Take back one `bar`."""
        self._barred[model] -= 1
        self._barred += Counter()  # nothing that is zero
        if self._release_handle is None:
            self._release()

    def close(self, generation: int) -> None:
        """Send no more requests to this worker; those on it go on."""
        if self._open is not None and self._open.generation == generation:
            self._open.closed.set()
            self._open = None

    def lose(self, generation: int) -> None:
        """Close: this worker died, or cannot be trusted any more."""
        backend = self._backends.get(generation)
        if backend is not None:
            backend.lost.set()
        self.close(generation)

    async def drain(self, generation: int, timeout_s: float) -> bool:
        """Close, and wait until no request is on the worker. False: the time ran out."""
        self.close(generation)
        backend = self._backends.get(generation)
        if backend is None:
            return True
        try:
            await asyncio.wait_for(backend.idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def cut_off(self) -> None:
        """End every drain now: a person is in a hurry."""
        for backend in self._backends.values():
            backend.idle.set()

    async def retire(self, generation: int) -> None:
        """Close the connections too: a worker told to end can wait for its clients for ever."""
        self.close(generation)
        backend = self._backends.pop(generation, None)
        if backend is not None:
            await backend.end()

    def take(self, terms: Terms) -> None:
        """Keep to these terms; those that wait and are refused by them are answered so."""
        if terms == self.terms:
            return
        self.terms = terms
        now = asyncio.get_running_loop().time()
        for waiter in list(self._hold):
            refusal = terms.refusal_of(waiter.ask.model, now)
            if refusal is None:
                continue
            self._hold.leave(waiter)
            if not waiter.future.done():
                waiter.future.set_exception(_unavailable(refusal, now))
        if self._release_handle is None:
            self._release()  # who waited for another model may not have to any more

    def backend_now(self, ask: Ask) -> Backend | None:
        """Return the worker to ask, None where a request has to wait its turn, or for another."""
        backend = self._open
        if backend is None or self._release_handle is not None:
            return None
        return backend if self._may_go(ask, backend) else None

    async def backend(self, ask: Ask) -> Backend:
        """Return the worker to ask, after waiting for one if need be.

        Raises CahootsError: WORKER_FAILED when none will come by itself, BUSY when too many wait
        already, TIMED_OUT. A cancelled caller leaves the queue.
        """
        if (backend := self.backend_now(ask)) is not None:
            return backend
        now = asyncio.get_running_loop().time()
        if (refusal := self.terms.refusal_of(ask.model, now)) is not None:
            raise _unavailable(refusal, now)
        try:
            waiter = self._hold.enter(ask)
        except CahootsError as error:
            raise self.later(error) from None
        self.on_wait()
        return await self._wait(waiter)

    async def _wait(self, waiter: Waiter) -> Backend:
        try:
            async with asyncio.timeout(waiter.ask.timeout_s):
                return await waiter.future
        except TimeoutError as error:
            what = f"no worker was ready for it within {waiter.ask.timeout_s:.0f} s"
            if self._open is not None and self._is_barred(self._open):
                what += ": one that was in flight when a worker died is on trial first"
            problem = CahootsError(Kind.TIMED_OUT, what, "see cahootsctl status on the host")
            raise self.later(problem) from error
        finally:
            self._hold.leave(waiter)

    def later(self, error: CahootsError) -> CahootsError:
        """Return the error with the seconds after which to come again, where they are known."""
        if self.expected_at is None or self._open is not None:
            return error
        left_s = ceil(self.expected_at - asyncio.get_running_loop().time())
        error.more["retry_after_s"] = str(min(max(left_s, 1), _MAX_RETRY_AFTER_S))
        return error


def _unavailable(refusal: Refusal, now: float) -> CahootsError:
    error = CahootsError(Kind.WORKER_FAILED, refusal.message, refusal.remedy)
    if refusal.until is not None:
        error.more["retry_after_s"] = str(max(ceil(refusal.until - now), 1))
    return error
