"""Keeps workers asleep that another model has taken the place of, until theirs is wanted again.

Puts them to sleep in place of their end, hands them to the start that they fit, and ends them
within a budget of host memory. None outlives its daemon. Owns nothing of the state.
"""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final

from cahoots_vllm.control.gate import Sleeping
from cahoots_vllm.control.gpu_release import GpuRelease
from cahoots_vllm.control.launch_print import launch_print, weights_bytes
from cahoots_vllm.control.status import SleeperStatus
from cahoots_vllm.core.amounts import size_text
from cahoots_vllm.core.launch import LaunchSpec, can_sleep
from cahoots_vllm.core.secret import Secret
from cahoots_vllm.core.settings import Settings, StandbyMode, make_launch_spec
from cahoots_vllm.core.sleep import Held, budget_bytes, count_to_end, why_still_held
from cahoots_vllm.core.standby import MemoryFacts, reason_against
from cahoots_vllm.core.state import State
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.memory_pressure import private_bytes, read_memory
from cahoots_vllm.worker.context import WorkerContext
from cahoots_vllm.worker.process import Worker
from cahoots_vllm.worker.sleeper import Sleeper, SleepError

_LOOK_S: Final = 5.0
_DEADLINE_S: Final = 5.0
# NVML lags behind what the engine has freed.
_FREED_WITHIN_S: Final = 5.0
_POLL_S: Final = 0.2
_GONE_WITHIN_S: Final = 10.0
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Bed:
    """One that sleeps. `secrets` are those of its environment."""

    sleeper: Sleeper
    goal: LaunchSpec
    made_for: str
    secrets: tuple[tuple[str, Secret], ...]
    since: datetime
    host_bytes: int


class Sleepers:
    """Those that sleep now, the one that served longest ago first."""

    def __init__(self, context: WorkerContext, release: GpuRelease) -> None:
        """None sleeps yet; `release` knows what GPUs' memory was before a worker started."""
        self._context = context
        self._release = release
        self._state = State()
        self._settings: Settings | None = None
        self._changed = asyncio.Event()
        self._beds: list[_Bed] = []
        # Taken out of their beds, and not gone yet.
        self._ending: dict[_Bed, asyncio.Task[None]] = {}

    @property
    def status(self) -> tuple[SleeperStatus, ...]:
        """Who sleeps now."""
        return tuple(
            SleeperStatus(
                model=bed.goal.model,
                pid=bed.sleeper.pid,
                since=bed.since.isoformat(timespec="seconds"),
                host_memory=bed.host_bytes,
            )
            for bed in self._beds
        )

    def pids(self) -> list[int]:
        """Return the living processes of those that sleep, and of those that are being ended."""
        beds = (*self._beds, *self._ending)
        return [pid for bed in beds for pid in bed.sleeper.running.tree.pids()]

    def update(self, state: State, settings: Settings) -> None:
        """Take what a step has made of the state."""
        if settings != self._settings or state.goal is None:
            self._changed.set()
        self._state, self._settings = state, settings

    async def print_of(self, launch: LaunchSpec, settings: Settings) -> str:
        """Return what tells this launch spec from others, "" where it cannot sleep."""
        if not can_sleep(launch):
            return ""
        try:
            look = partial(launch_print, launch, settings)
            return await run_blocking(look, deadline_s=_DEADLINE_S)
        except TimeoutError:
            return ""

    # --- to sleep, and awake again ---------------------------------------------------------

    async def put(self, worker: Worker, goal: LaunchSpec, settings: Settings) -> bool:
        """Put a drained worker to sleep, if it may and can; False: it is to be stopped.

        It is the caller's no more where this is true.
        """
        if make_launch_spec(settings, goal.model) != goal:
            return False  # the settings want it otherwise by now: nothing of use is lost
        try:
            bed = await self._put(worker, goal, settings)
        except (SleepError, OSError) as error:  # a TimeoutError is one, too
            why = str(error) or "no answer in time"
            _LOG.warning("%s is stopped and not put to sleep: %s", goal.model, why)
            return False
        self._beds.append(bed)
        self._changed.set()  # it may be wanted no more by now
        size = size_text(bed.host_bytes)
        _LOG.info("%s sleeps, with %s of host memory", goal.model, size)
        return True

    async def _put(self, worker: Worker, goal: LaunchSpec, settings: Settings) -> _Bed:
        if not worker.made_for:
            what = "it is not known what it was started with"
            raise SleepError(what)
        await self._end_all_of([bed for bed in self._beds if bed.goal == goal], "another is newer")
        pids = worker.pids()
        awake = await _private(pids)
        weights = await run_blocking(partial(weights_bytes, worker.launch), deadline_s=_DEADLINE_S)
        budget = await self._budget(settings)
        await self._make_room(awake + weights, budget)
        before = await self._release.held(pids)
        sleeper = await worker.fall_asleep(settings.sleep.timeout_s)
        try:
            await self._check_freed(before, pids)
            size = await _private(worker.pids())
            await self._make_room(size, budget)
            sleeper.check_alive()
        except BaseException:
            sleeper.leave_watch()
            raise
        sleeper.death.add_done_callback(lambda _: self._changed.set())
        now = datetime.now(UTC)
        return _Bed(sleeper, goal, worker.made_for, settings.secret_env, now, size)

    async def _check_freed(self, before: tuple[Held, ...], pids: Iterable[int]) -> None:
        """Return once the GPUs' memory is back. Raises SleepError."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _FREED_WITHIN_S
        while (why := why_still_held(before, await self._release.held(pids))) is not None:
            if loop.time() >= deadline:
                raise SleepError(why)
            await asyncio.sleep(_POLL_S)

    async def _make_room(self, need: int, budget: int) -> None:
        """End those that served longest ago until one more fits. Raises SleepError.

        Not the one that is wanted now: it cannot wake before this one has given its GPUs back.
        """
        wanted = sum(bed.host_bytes for bed in self._beds if self._is_wanted(bed))
        others = [bed for bed in self._beds if not self._is_wanted(bed)]
        count = count_to_end(need + wanted, [bed.host_bytes for bed in others], budget)
        if count is None:
            beside = f" beside {size_text(wanted)} of the one that is to wake" if wanted else ""
            what = f"asleep it takes {size_text(need)} of host memory{beside}, and "
            what += f"{size_text(budget)} are for sleepers"
            raise SleepError(what)
        await self._end_all_of(others[:count], "another one needs its host memory")

    def _is_wanted(self, bed: _Bed) -> bool:
        return bed.goal == self._state.goal

    @property
    def _held(self) -> list[int]:
        return [bed.host_bytes for bed in self._beds]

    async def _budget(self, settings: Settings) -> int:
        memory = await self._memory()
        return budget_bytes(settings.sleep.memory_bytes, memory.available, self._held)

    async def _memory(self) -> MemoryFacts:
        look = partial(read_memory, self._context.cgroup_parent)
        return await run_blocking(look, deadline_s=_DEADLINE_S)

    def take(self, made_for: str) -> Sleeper | None:
        """Return the one that a start of this print can go on with; it is the caller's then."""
        bed = self._find(made_for)
        if bed is None:
            return None
        self._beds.remove(bed)
        return bed.sleeper

    def _find(self, made_for: str) -> _Bed | None:
        living = (bed for bed in self._beds if not bed.sleeper.death.done())
        return next((bed for bed in living if bed.made_for == made_for), None)

    def beside(self, made_for: str) -> Sleeping:
        """Return who sleeps, as a start of this print sees them."""
        waking = self._find(made_for)
        pids = frozenset(waking.sleeper.running.tree.pids()) if waking is not None else frozenset()

        async def end_one() -> bool:
            others = [bed for bed in self._beds if bed is not waking]
            await self._end_all_of(others[:1], "the next worker needs the memory of its GPU")
            return bool(others)

        return Sleeping(pids, end_one)

    # --- their end -------------------------------------------------------------------------

    async def run(self) -> None:
        """End those that have to, until cancelled; then all."""
        try:
            while True:
                self._changed.clear()
                try:
                    await self._look()
                except OSError as error:  # a TimeoutError is one; looked at again
                    _LOG.debug("cannot look at the host: %s", error)
                try:
                    async with asyncio.timeout(_LOOK_S):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        finally:
            with suppress(TimeoutError):  # one that cannot be killed keeps nobody from ending
                async with asyncio.timeout(_GONE_WITHIN_S):
                    await self.end_all("the daemon ends")

    async def end_all(self, why: str) -> None:
        """End each and return when nothing of them is left."""
        await self._end_all_of(self._beds, why)
        while self._ending:
            await asyncio.gather(*map(asyncio.shield, self._ending.values()))

    async def _look(self) -> None:
        settings = self._settings
        if settings is None:
            return  # the first step is to come
        for bed in list(self._beds):
            if (why := self._why_over(bed, settings)) is not None:
                await self._end_all_of([bed], why)
        if not self._beds:
            return
        memory = await self._memory()
        why = reason_against(StandbyMode.AUTO, memory, 0, is_there=True)
        budget = budget_bytes(settings.sleep.memory_bytes, memory.available, self._held)
        if why:
            await self._end_all_of(self._beds[:1], why)
        elif sum(self._held) > budget:
            why = f"{size_text(sum(self._held))} are asleep, {size_text(budget)} are for sleepers"
            await self._end_all_of(self._beds[:1], why)

    def _why_over(self, bed: _Bed, settings: Settings) -> str | None:
        if bed.sleeper.death.done():
            return bed.sleeper.death.result()
        if self._state.goal is None or not settings.is_local:
            return "no worker is wanted"
        if make_launch_spec(settings, bed.goal.model) != bed.goal:
            return "its settings have changed"
        return "its environment has changed" if bed.secrets != settings.secret_env else None

    async def _end_all_of(self, beds: Iterable[_Bed], why: str) -> None:
        """End each and return when they are gone.

        An end that has begun is gone through with, even where its caller is cancelled: one left in
        the middle of it would hold its memory, and nobody would know of it.
        """
        ends = [self._begin_end(bed, why) for bed in tuple(beds) if bed in self._beds]
        await asyncio.gather(*map(asyncio.shield, ends))

    def _begin_end(self, bed: _Bed, why: str) -> asyncio.Task[None]:
        self._beds.remove(bed)
        level = logging.WARNING if bed.sleeper.death.done() else logging.INFO
        _LOG.log(level, "%s, which slept, is ended: %s", bed.goal.model, why)
        end = asyncio.create_task(bed.sleeper.end(_say_stuck), name=f"end of {bed.goal.model}")
        self._ending[bed] = end
        end.add_done_callback(lambda _: self._ending.pop(bed))
        return end


def _say_stuck(text: str) -> None:
    _LOG.warning("a worker that slept %s", text)


async def _private(pids: Iterable[int]) -> int:
    """Return what these processes would give back of the host's memory with their end."""

    def weigh() -> int:
        return sum(private_bytes(pid) or 0 for pid in pids)

    return await run_blocking(weigh, deadline_s=_DEADLINE_S)
