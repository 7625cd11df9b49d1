"""Keeps one standby warm while a worker serves, and hands it to the next start.

Looks every few seconds, and after each step of the supervisor. Owns nothing of the state.
"""

import asyncio
import logging
from dataclasses import replace
from functools import partial
from typing import Final

from cahoots_vllm.control.handover import Handover
from cahoots_vllm.control.standby_maker import AGAIN_S, StandbyMaker, trouble_of
from cahoots_vllm.control.standby_wish import Wanted, want
from cahoots_vllm.control.status import StandbyStatus
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.settings import Settings, StandbyMode
from cahoots_vllm.core.standby import FIRST_NEED_BYTES, MemoryFacts, reason_against
from cahoots_vllm.core.state import State
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.gpu import GpuReader
from cahoots_vllm.host.memory_pressure import private_bytes, read_memory
from cahoots_vllm.worker.context import WorkerContext
from cahoots_vllm.worker.standby import Standby
from cahoots_vllm.worker.standby_source import end_standbys, find_standby, mark_standby

_LOOK_S: Final = 5.0
_DEADLINE_S: Final = 5.0
_END_DEADLINE_S: Final = 20.0
_LOG: Final = logging.getLogger(__name__)


class StandbyKeeper:
    """The one standby there is, or why there is none."""

    def __init__(self, context: WorkerContext, gpus: GpuReader, handover: Handover) -> None:
        """None is started before `run`."""
        # At the end of `run`: whether another daemon will come and find it.
        self.leaves_standby = False
        self._context = context
        self._maker = StandbyMaker(context)
        self._gpus = gpus
        self._handover = handover
        self._state = State()
        self._settings: Settings | None = None
        self._changed = asyncio.Event()
        # What an earlier daemon left is gone: none is begun before, its number may be the same.
        self._is_tidy = asyncio.Event()
        self._standby: Standby | None = None
        # What is compared with Wanted.print.
        self._made_for = ""
        self._why = ""
        # The number of the one that an earlier daemon has left.
        self._found: int | None = None
        self._need = FIRST_NEED_BYTES
        self._private: int | None = None

    def update(self, state: State, settings: Settings) -> None:
        """Take what a step has made of the state."""
        before = self._settings
        is_other = before is None or _for_any_model(settings) != _for_any_model(before)
        if is_other:
            self._maker.forget()
        seen = self._state
        if state.is_served != seen.is_served or state.goal != seen.goal or is_other:
            self._changed.set()
        self._state, self._settings = state, settings

    @property
    def status(self) -> StandbyStatus:
        """What there is now."""
        standby, settings = self._standby, self._settings
        if settings is not None and settings.standby is StandbyMode.OFF:
            return StandbyStatus("off")
        if standby is None:
            return StandbyStatus("none", self._maker.say_when(self._why) or None)
        if standby.problem is not None:
            return StandbyStatus("none", f"the last one {standby.problem}")
        if standby.warmth is None:
            return StandbyStatus("warming", pid=standby.pid)
        why_not = standby.warmth.why_not_fork
        return StandbyStatus(
            "warm",
            pid=standby.pid,
            private_memory=self._private,
            forks=why_not is None,
            why_not_fork=why_not,
        )

    def find_again(self, settings: Settings) -> Standby | None:
        """Take back the standby that an earlier daemon left, if it can still become a worker.

        Whether it fits what is wanted by now is seen at the next look, or when it is taken.
        """
        mark = self._handover.standby
        if mark is None:
            return None
        self._maker.count, self._made_for = mark.number, mark.made_for
        standby = find_standby(self._context, mark, self._heard)
        if standby is not None and settings.standby is StandbyMode.OFF:
            standby.discard()
            standby = None
        self._standby = standby
        self._found = mark.number if standby is not None else None
        self._note()
        return standby

    async def take(self, launch: LaunchSpec, settings: Settings) -> Standby | None:
        """Return the standby for this start, which is the caller's then; None: start it plainly.

        Without one that fits, one is begun: it imports once what the plain command imports in each
        of its processes. Not for an engine of which none has become a worker yet: that is tried
        while another worker serves.
        """
        standby, made_for = self._standby, self._made_for
        if settings.standby is StandbyMode.OFF:
            return None
        self._standby = None
        self._note()
        try:
            wanted = await self._want(launch, settings)
        except OSError as error:  # a TimeoutError is one; what ails the disk ends no daemon
            wanted = None
            self._put_off(f"cannot look at the host: {trouble_of(error)}")
        except BaseException:
            if standby is not None:
                standby.discard()
            raise
        fits = wanted is not None and wanted.print == made_for
        if standby is not None:
            if fits and standby.problem is None:
                return standby
            standby.discard()
            if standby.problem is not None:
                _LOG.warning("this start has no use of its standby, which %s", standby.problem)
        return await self._begin(wanted) if wanted is not None and wanted.has_learned else None

    def failed(self, why: str) -> None:
        """Take note that the standby given out was of no use: the plain command was.

        Another one may be: the model's files had changed, or it was killed.
        """
        self._put_off(f"the last one {why}")

    async def run(self) -> None:
        """Keep one, until cancelled."""
        await self._end_left_ones()
        self._is_tidy.set()
        try:
            while True:
                self._changed.clear()
                pause_s = _LOOK_S
                try:
                    await self._look()
                except OSError as error:  # a TimeoutError is one, and its thread still hangs
                    pause_s = AGAIN_S
                    self._put_off(f"cannot look at the host: {trouble_of(error)}")
                try:
                    async with asyncio.timeout(pause_s):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        finally:
            if self._standby is not None:
                await self._let_go(self._standby)

    async def _let_go(self, standby: Standby) -> None:
        if self.leaves_standby and standby.problem is None:
            standby.leave()
        else:
            await standby.end()

    async def _end_left_ones(self) -> None:
        """Take away what an earlier daemon had no time to, but the standby that was found again."""
        parent = self._context.cgroup_parent
        if parent is None:
            return
        try:
            await run_blocking(
                partial(end_standbys, parent, self._found), deadline_s=_END_DEADLINE_S
            )
        except OSError as error:  # an empty one is no harm, and taken by the next of its number
            _LOG.warning("a standby's cgroup, left behind, stays: %s", trouble_of(error))

    async def _look(self) -> None:
        settings, goal = self._settings, self._state.goal
        if settings is None:
            return  # the first step is to come
        if goal is None or not settings.is_local:
            self._drop("no worker is wanted")
            return
        standby = self._standby
        if standby is not None and standby.problem is not None:
            self._standby = None
            self._note()
            self._lost(standby, standby.problem)
            return
        live = self._state.live
        wanted = await self._want(live.plan.launch if live is not None else goal, settings)
        memory = await run_blocking(
            partial(read_memory, self._context.cgroup_parent), deadline_s=_DEADLINE_S
        )
        if standby is not self._standby:
            return  # it was given out meanwhile
        if wanted is None:
            self._drop("the engine cannot be looked at")
        else:
            await self._decide(wanted, memory, settings.standby)
        standby = self._standby
        if standby is not None and standby.warmth is not None and self._private is None:
            await self._weigh(standby)

    async def _decide(self, wanted: Wanted, memory: MemoryFacts, mode: StandbyMode) -> None:
        """Keep the one there is, end it, or start one."""
        if self._standby is not None and wanted.print != self._made_for:
            self._drop("the engine or its environment has changed")
        is_there = self._standby is not None
        against = reason_against(mode, memory, self._need, is_there=is_there)
        if against:
            if is_there and mode is StandbyMode.AUTO:
                self._put_off(against)
            self._drop(against)
        elif not is_there:
            await self._start(wanted)

    async def _want(self, launch: LaunchSpec, settings: Settings) -> Wanted | None:
        return await run_blocking(partial(want, launch, settings), deadline_s=_DEADLINE_S)

    async def _start(self, wanted: Wanted) -> None:
        """Keep one where a worker serves: a start that is under way needs the host for itself."""
        if not self._state.is_served:
            self._why = ""
            return
        standby = await self._begin(wanted)
        if standby is None:
            return
        if not self._state.is_served:
            standby.discard()  # a start has begun meanwhile
        else:
            self._standby, self._made_for = standby, wanted.print
            self._private = None
            self._note()

    async def _begin(self, wanted: Wanted) -> Standby | None:
        await self._is_tidy.wait()
        standby = await self._maker.begin(wanted, self._state.generation, self._heard)
        if standby is None:
            self._why = self._maker.why
        return standby

    async def _weigh(self, standby: Standby) -> None:
        """Measure what one takes, once it is warm; one that holds memory of a GPU is none."""
        pid = standby.pid
        weight = await run_blocking(partial(private_bytes, pid), deadline_s=_DEADLINE_S)
        gpus = await self._gpus.read()
        if standby is not self._standby or weight is None:
            return  # it is a worker by now, and may hold what it likes; or gone
        self._private = self._need = weight
        for gpu in gpus:
            if any(process.pid == pid for process in gpu.processes):
                self._maker.call_useless(self._made_for)
                self._put_off(f"it holds memory of GPU {gpu.index}")
                self._drop(self._why)
                return

    def _lost(self, standby: Standby, problem: str) -> None:
        has_been_warm = standby.warmth is not None
        why = f"the last one {problem}"
        self._maker.count_failure(self._made_for, why, has_been_warm=has_been_warm)
        self._why = self._maker.why

    def _put_off(self, why: str) -> None:
        self._maker.put_off(why)
        self._why = why

    def _drop(self, why: str) -> None:
        if self._standby is not None:
            self._standby.discard()
            self._standby = None
            self._note()
        self._why = why

    def _heard(self) -> None:
        """Look at once: it is warm, and can be weighed, or of no use."""
        self._note()
        self._changed.set()

    def _note(self) -> None:
        """Let the next daemon know which one there is, and how warm."""
        mark = None
        if self._standby is not None:
            mark = mark_standby(self._maker.count, self._standby, self._made_for)
        self._handover.stand_by(mark)


def _for_any_model(settings: Settings) -> Settings:
    """Leave out what a swap changes: it says nothing new of standbys."""
    return replace(settings, configured_model="", override=None, demanded=None)
