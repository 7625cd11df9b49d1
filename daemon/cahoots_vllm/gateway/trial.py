"""Which request is to blame when the engine dies, so that one does not take the others along.

A request that was in flight at a death is sent again, one such at a time: it is on trial until it
is answered, or has been with the worker for a while. If the worker dies meanwhile, it is to blame;
one that has passed its trial and is still there is spared, once. Without a trial, each that is in
flight is to blame. Others are held meanwhile: one sent beside the one on trial could kill the
worker, and nobody would know which it was.
"""

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Final

from cahoots_vllm.control.backend import Backend
from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.gateway.call import Call

# In flight in two deaths: not sent again (DESIGN: replay).
DEATHS: Final = 2
_TRIAL_S: Final = 5.0
# All that were in flight at one death have had their trial within this.
_ALL_TRIALS_S: Final = 30.0
# Clients try again by themselves, and what kills a worker would kill five in a row.
_REFUSED_S: Final = 600.0
_REFUSED_MAX: Final = 64


class Trial:
    """The turn of one request: `enter`, `wait`, `begin`, and `end` on every way out."""

    def __init__(self, trials: "Trials", model: str | None) -> None:
        """`model`: as the client named it, None where that does not matter."""
        self._trials = trials
        self._model = model
        self._is_open = False
        self._turn: asyncio.Lock | None = None
        self._backend: Backend | None = None
        self._aboard: Backend | None = None
        self._timer: asyncio.TimerHandle | None = None

    def enter(self) -> None:
        """Have those held that would go to the same worker."""
        self._is_open = True
        self._trials.enter(self._model)

    async def wait(self, backend: Backend) -> bool:
        """Wait until it is this one's turn on the worker; False: that gets no more requests."""
        await backend.turn.acquire()
        if backend.closed.is_set():
            backend.turn.release()
            return False
        self._turn = backend.turn
        return True

    def begin(self, call: Call, backend: Backend) -> None:
        """Put the request on trial with this worker."""
        self._backend = self._aboard = backend
        backend.on_trial = call.id
        backend.suspects += 1
        seconds = min(_TRIAL_S, _ALL_TRIALS_S / self._trials.series)
        self._timer = asyncio.get_running_loop().call_later(seconds, self.passed)

    def passed(self) -> None:
        """End the turn: it is the next one's. Who is to blame for a death stays so."""
        if self._timer is not None:
            self._timer.cancel()
        backend, self._backend = self._backend, None
        if backend is not None and not backend.lost.is_set():
            backend.on_trial = None
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.release()
        if self._is_open:
            self._is_open = False
            self._trials.leave(self._model)

    def end(self) -> None:
        """End the turn, and leave the worker: on every way out."""
        self.passed()
        if self._aboard is not None and not self._aboard.lost.is_set():
            self._aboard.suspects -= 1


class Trials:
    """Who has or awaits a turn, and what was found guilty."""

    def __init__(self, rotation: Rotation) -> None:
        """Nothing was in flight at a death yet."""
        self._rotation = rotation
        self._open = 0
        # How many there have been since there was none: they share the time for all of them.
        self.series = 0
        self._guilty: dict[bytes, float] = {}

    def enter(self, model: str | None) -> None:
        """Count one more, and have others held that would go to the same worker."""
        self._open += 1
        self.series += 1
        self._rotation.bar(model)

    def leave(self, model: str | None) -> None:
        """Count one less, and let the others go on after the last."""
        self._open -= 1
        if not self._open:
            self.series = 0
        self._rotation.unbar(model)

    def check(self, call: Call) -> None:
        """Raise CahootsError for a request that was found guilty a while ago."""
        if not self._guilty:
            return
        now, key = asyncio.get_running_loop().time(), _key(call)
        self._guilty = {k: at for k, at in self._guilty.items() if now - at < _REFUSED_S}
        if key in self._guilty:
            raise _suspect(call, "one like it was in flight when two workers died")

    def convict(self, call: Call, backend: Backend) -> CahootsError:
        """Return the error for a request that was in flight in two deaths.

        One that nobody else can be to blame for is remembered: it is refused when it comes again.
        """
        is_alone = backend.on_trial == call.id and backend.suspects == 1
        if is_alone and call.body.is_whole:
            self._guilty[_key(call)] = asyncio.get_running_loop().time()
            while len(self._guilty) > _REFUSED_MAX:
                self._guilty.pop(next(iter(self._guilty)))
        return _suspect(call, "it was in flight when two workers died")


@dataclass(slots=True)
class Charges:
    """What one request stands accused of: the deaths it may be to blame for."""

    deaths: int = 0
    is_spared: bool = False

    def count(self, call: Call, backend: Backend) -> None:
        """Take another loss of a worker, if it was a death."""
        if not backend.lost.is_set():
            return
        if backend.on_trial in (None, call.id) or self.is_spared:
            self.deaths += 1
        else:
            self.is_spared = True


def _key(call: Call) -> bytes:
    return hashlib.sha256(call.target.encode() + b"\0" + call.body.head).digest()


def _suspect(call: Call, why: str) -> CahootsError:
    return CahootsError(
        Kind.WORKER_FAILED,
        f"request {call.id} is not sent again: {why}",
        "it may be what kills the engine: see cahootsctl logs on the host for this id",
        retry_after_s="600",
    )
