"""Brings a request to a worker and its answer back: holds, sends, and sends again after a death."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Final, TypeVar

from cahoots_vllm.control.backend import Backend
from cahoots_vllm.control.hold import Ask
from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.settings import GatewaySettings
from cahoots_vllm.gateway.call import Call
from cahoots_vllm.gateway.exchange import LostError, exchange
from cahoots_vllm.gateway.meter import Meter
from cahoots_vllm.gateway.record import End, Record
from cahoots_vllm.gateway.reply import Reply
from cahoots_vllm.gateway.trial import DEATHS, Charges, Trial, Trials

_T = TypeVar("_T")
# A request is sent again after one death; these also cover connections that the worker closed, and
# deaths that another request is to blame for.
_TRIES: Final = 6
_ALIVE_EVERY_S: Final = 10.0
# A worker that refuses connections is noticed within this.
_NOTICE_S: Final = 5.0
_LOOK_S: Final = 0.5


class Deliverer:
    """The way of every request that needs a worker."""

    def __init__(self, rotation: Rotation, settings: GatewaySettings) -> None:
        """`settings` may be replaced at any time."""
        self.settings = settings
        self._rotation = rotation
        self._trials = Trials()

    async def deliver(self, call: Call, reply: Reply, record: Record) -> None:
        """Have a request answered, by the engine or with the reason why not.

        A client that hangs up cancels this.
        """
        try:
            self._trials.check(call)
            await self._deliver(call, reply, record)
        except CahootsError as error:
            record.end = End.BROKEN if reply.is_begun else End.REFUSED
            record.problem = str(error)
            await reply.fail(error)

    async def _deliver(self, call: Call, reply: Reply, record: Record) -> None:
        charges, why = Charges(), ""
        for _ in range(_TRIES):
            trial = Trial(self._trials, charges.deaths)
            try:
                await self._send(call, reply, record, trial)
            except LostError as lost:
                why = str(lost)
                await _look(lost)
                charges.count(call, lost.backend)
                if charges.deaths == DEATHS:
                    record.is_suspect = True
                    raise self._trials.convict(call, lost.backend) from lost
            else:
                return
            finally:
                trial.end()
            if call.body.is_used_up:
                why = "the request is too large to be kept for another"
                break
        raise self._rotation.later(
            CahootsError(Kind.WORKER_LOST, f"the worker was lost: {why}", "send the request again")
        )

    async def _send(self, call: Call, reply: Reply, record: Record, trial: Trial) -> None:
        if trial.is_needed:  # a task for nothing otherwise, and the body parsed, for every stream
            await _alive(trial.wait(), call, reply)
        backend = await self.worker(call, reply, record)
        while not (trial.is_needed or call.is_urgent or self._trials.are_over.is_set()):
            await self._wait_for_trials(call, reply, record)
            backend = await self.worker(call, reply, record)
        trial.begin(call, backend)
        record.deliveries += 1
        record.model = backend.model
        meter = Meter(record)
        try:
            await exchange(call, backend, reply, meter)
        finally:
            meter.close()

    async def _wait_for_trials(self, call: Call, reply: Reply, record: Record) -> None:
        begun = asyncio.get_running_loop().time()

        async def wait() -> None:
            await self._trials.are_over.wait()

        try:
            await _alive(wait(), call, reply)
        finally:
            record.held_s += asyncio.get_running_loop().time() - begun

    async def worker(self, call: Call, reply: Reply, record: Record) -> Backend:
        """Return the worker to ask, after waiting for one if need be. Raises CahootsError."""
        # Where nobody chooses, no request is parsed just for the name in it.
        is_choosy = self._rotation.is_choosy
        backend = self._rotation.backend_now(call.model if is_choosy else None)
        if backend is not None:
            return backend
        now = asyncio.get_running_loop().time
        begun = now()
        ask = Ask(
            timeout_s=max(0.0, record.begun_at + self.settings.hold_timeout_s - begun),
            hold_max=self.settings.hold_max,
            hold_bytes=self.settings.hold_bytes,
            size_bytes=len(call.body.head),
            model=call.model,
            is_urgent=call.is_urgent,
        )
        try:
            return await _alive(self._rotation.backend(ask), call, reply)
        finally:
            record.held_s += now() - begun


async def _alive(waiting: Coroutine[None, None, _T], call: Call, reply: Reply) -> _T:
    """Wait, and give a client that reads a stream a sign of life now and then."""
    if not call.is_stream:
        return await waiting
    task = asyncio.ensure_future(waiting)
    try:
        while not task.done():
            await asyncio.wait((task,), timeout=_ALIVE_EVERY_S)
            if not task.done():
                await reply.keep_alive()
        return task.result()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, CahootsError):
            await task


async def _look(lost: LostError) -> None:
    """Wait until it is known what happened to the worker."""
    if lost.is_sent:
        # One that only closed a kept-alive connection stays.
        await lost.backend.is_lost_within(_LOOK_S)
    else:
        await lost.backend.is_closed_within(_NOTICE_S)
