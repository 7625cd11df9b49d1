"""Which worker gets requests, who is on it, and who waits for one.

The supervisor admits and closes; the gateway enters and leaves. Requests that find no worker wait
here, oldest first; in `off` and `failed` they are refused with the reason.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from cahoots_vllm.core.errors import CahootsError, Kind


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no request is held now: no worker will come by itself."""

    message: str
    remedy: str


class Backend:
    """One worker in rotation: the client session on its socket and the requests on it."""

    def __init__(self, generation: int, uds: Path) -> None:
        """No limit on connections: the engine queues requests itself."""
        self.generation = generation
        self.in_flight = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.closed = asyncio.Event()
        self._requests: set[asyncio.Timeout] = set()
        self._session = aiohttp.ClientSession(
            # Below uvicorn's 5 s: the worker must not close a connection we are about to use.
            connector=aiohttp.UnixConnector(str(uds), limit=0, keepalive_timeout=3.0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            # What the client did not say is not said for it: it may not understand gzip.
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )

    @asynccontextmanager
    async def request(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Count a request as in flight. Raises TimeoutError when the worker is or was retired."""
        if self._session.closed:
            raise TimeoutError
        self.in_flight += 1
        self.idle.clear()
        try:
            async with asyncio.timeout(None) as end:
                self._requests.add(end)
                try:
                    yield self._session
                finally:
                    self._requests.discard(end)
        finally:
            self.in_flight -= 1
            if self.in_flight == 0:
                self.idle.set()

    async def end(self) -> None:
        """End the requests still on it; closing the session alone wakes nobody who reads there."""
        for request in self._requests:
            request.reschedule(asyncio.get_running_loop().time())
        await self._session.close()


class Rotation:
    """At most one backend is open; a closed one may still be finishing requests."""

    def __init__(self) -> None:
        """No worker yet: requests are held."""
        self._open: Backend | None = None
        self._backends: dict[int, Backend] = {}
        self._waiting: deque[asyncio.Future[Backend]] = deque()
        self._refusal: Refusal | None = None

    @property
    def held(self) -> int:
        """How many requests wait for a worker."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many requests are on a worker."""
        return sum(backend.in_flight for backend in self._backends.values())

    @property
    def is_open(self) -> bool:
        """Whether a request sent now goes to a ready worker."""
        return self._open is not None

    @property
    def refusal(self) -> Refusal | None:
        """Why a request sent now would be refused, None when it would be served or held."""
        return self._refusal

    def admit(self, generation: int, uds: Path) -> None:
        """Send requests to this worker, those that waited first."""
        backend = self._backends.get(generation) or Backend(generation, uds)
        self._backends[generation] = self._open = backend
        backend.closed.clear()
        self._refusal = None
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(backend)

    def close(self, generation: int) -> None:
        """Send no more requests to this worker; those on it go on."""
        if self._open is not None and self._open.generation == generation:
            self._open.closed.set()
            self._open = None

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

    def refuse(self, refusal: Refusal | None) -> None:
        """Hold no request while a refusal stands; those that wait are answered with it."""
        self._refusal = refusal
        if refusal is None:
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(_unavailable(refusal))

    async def backend(self, *, timeout_s: float, hold_max: int) -> Backend:
        """Return the worker to ask, after waiting for one if need be.

        Raises CahootsError: WORKER_FAILED when none will come by itself, BUSY when too many wait
        already, TIMED_OUT. A cancelled caller leaves the queue.
        """
        if self._open is not None:
            return self._open
        if self._refusal is not None:
            raise _unavailable(self._refusal)
        if len(self._waiting) >= hold_max:
            raise CahootsError(
                Kind.BUSY, f"cannot hold the request: {hold_max} wait already", "try again later"
            )
        waiter: asyncio.Future[Backend] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter
        except TimeoutError as error:
            raise CahootsError(
                Kind.TIMED_OUT,
                f"no worker was ready within {timeout_s:.0f} s",
                "see cahootsctl status on the host",
            ) from error
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)


def _unavailable(refusal: Refusal) -> CahootsError:
    return CahootsError(Kind.WORKER_FAILED, refusal.message, refusal.remedy)
