"""Brings a request to a worker and its answer back: holds, sends, and sends again after a death."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
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
# A request is sent again after one death; these also cover workers that cannot be reached, and
# deaths that another request is to blame for.
_TRIES: Final = 6
# A worker that lives may close a connection in the moment it is used again; not twice.
_BROKEN_OFF: Final = 2
_ALIVE_EVERY_S: Final = 10.0
# A worker that refuses connections is noticed within this.
_NOTICE_S: Final = 5.0
_LOOK_S: Final = 0.5
_HANG_UP_S: Final = 1.0


class Deliverer:
    """The way of every request that needs a worker."""

    def __init__(self, rotation: Rotation, settings: GatewaySettings) -> None:
        """`settings` may be replaced at any time."""
        self.settings = settings
        self._rotation = rotation
        self._trials = Trials(rotation)

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
        charges, why, broken_off = Charges(), "", 0
        for _ in range(_TRIES):
            trial = Trial(self._trials, call.model) if charges.deaths else None
            try:
                await self._send(call, reply, record, trial)
            except LostError as lost:
                why = str(lost)
                await _look(lost)
                if lost.is_sent:  # what never reached a worker did not kill it
                    charges.count(call, lost.backend)
                    broken_off += not lost.backend.closed.is_set()
                if charges.deaths == DEATHS:
                    record.is_suspect = True
                    raise self._trials.convict(call, lost.backend) from lost
            else:
                return
            finally:
                if trial is not None:
                    trial.end()
            if call.body.is_used_up:
                why = "the request is too large to be kept for another"
                break
            if broken_off == _BROKEN_OFF:
                break
        raise self._rotation.later(
            CahootsError(Kind.WORKER_LOST, f"the worker was lost: {why}", "send the request again")
        )

    async def _send(self, call: Call, reply: Reply, record: Record, trial: Trial | None) -> None:
        if trial is None:
            backend = await self.worker(call, reply, record)
        else:
            trial.enter()
            backend = await self.worker(call, reply, record, is_suspect=True)
            while not await _alive(trial.wait(backend), call, reply):
                backend = await self.worker(call, reply, record, is_suspect=True)
            trial.begin(call, backend)
        record.deliveries += 1
        record.model = backend.model
        meter = Meter(record)
        try:
            await exchange(call, backend, reply, meter)
        finally:
            meter.close()

    async def worker(
        self, call: Call, reply: Reply, record: Record, *, is_suspect: bool = False
    ) -> Backend:
        """Return the worker to ask, after waiting for one if need be. Raises CahootsError."""
        now = asyncio.get_running_loop().time
        begun = now()
        ask = Ask(
            timeout_s=max(0.0, record.begun_at + self.settings.hold_timeout_s - begun),
            hold_max=self.settings.hold_max,
            hold_bytes=self.settings.hold_bytes,
            size_bytes=len(call.body.head),
            # Where nobody chooses, no request is parsed just for the name in it.
            model=call.model if self._rotation.is_choosy else None,
            is_urgent=call.is_urgent,
            is_suspect=is_suspect,
        )
        backend = self._rotation.backend_now(ask)
        if backend is not None:
            return backend
        try:
            ask = replace(ask, model=call.model)  # it may matter by the time a worker is there
            return await _alive(self._rotation.backend(ask), call, reply)
        finally:
            record.held_s += now() - begun


async def _alive(waiting: Coroutine[None, None, _T], call: Call, reply: Reply) -> _T:
    """Wait, and give a client that reads a stream a sign of life now and then."""
    if not call.is_stream and call.body.is_whole:
        return await waiting
    task = asyncio.ensure_future(waiting)
    try:
        while not task.done():
            await asyncio.wait((task,), timeout=_ALIVE_EVERY_S if call.is_stream else _HANG_UP_S)
            if not task.done() and call.is_stream:
                await reply.keep_alive()
            elif not task.done():
                call.body.notice_hang_up()  # cancels this
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
