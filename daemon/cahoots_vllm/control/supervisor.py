"""The one owner of the state: takes events, lets the lifecycle decide, has the effects done.

Everyone else sends it an event, asks for something (control.asks) or reads a snapshot. An error
nobody expected in any of its tasks ends the daemon, and systemd starts it again.
"""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cahoots_vllm.control.announcer import Announcer
from cahoots_vllm.control.asks import Asks
from cahoots_vllm.control.cure import CureWatch
from cahoots_vllm.control.demand import DemandWatch
from cahoots_vllm.control.effects import Effects
from cahoots_vllm.control.handover import Left
from cahoots_vllm.control.operation import Operation, Problem
from cahoots_vllm.control.operations import Operations
from cahoots_vllm.control.parts import Parts
from cahoots_vllm.control.read_ahead import ReadAhead
from cahoots_vllm.control.wanted import Wanted
from cahoots_vllm.core.backoff import DEFAULT_LIMITS
from cahoots_vllm.core.events import Event, Tick, Unload, Wake, Want
from cahoots_vllm.core.lifecycle import step
from cahoots_vllm.core.settings import Settings
from cahoots_vllm.core.state import Live, State
from cahoots_vllm.core.takeover import first_event, without_worker
from cahoots_vllm.worker.leftovers import WorkerMark
from cahoots_vllm.worker.process import Worker

# SIGKILL, and memory back.
_KILLED_WITHIN_S = 30.0


class Supervisor:
    """Owns settings, lifecycle state and the running operation."""

    def __init__(
        self, settings: Settings, generation: int, parts: Parts, announcer: Announcer
    ) -> None:
        """`generation` is the last one ever given on this host."""
        self._wanted = Wanted(settings, parts.state_file)
        self.state = State(generation=generation)
        self.operations = Operations()
        self._parts = parts
        parts.fit.listen(self.operations.looked)
        self._announcer = announcer
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._effects = Effects(parts, self._events.put_nowait, self._on_progress, self._on_spawn)
        cache_dir = Path(settings.cache_dir)
        self._cure = CureWatch(parts.gate, cache_dir, self._events.put_nowait)
        self._read_ahead = ReadAhead(parts.context.cgroup_parent)
        self._demand = DemandWatch(
            parts.rotation, self.operations, self._swap_on_demand, self._unload_or_wake
        )
        self.asks = Asks(
            self._wanted,
            self.operations,
            announcer,
            parts.learned,
            read_state=lambda: self.state,
            handle=self._handle,
        )
        self._tasks = asyncio.TaskGroup()
        self._is_settled = asyncio.Event()
        self._left: Left | None = None
        # Whether the worker may outlive this daemon by an error: another one will find it.
        self.leaves_worker = False

    @property
    def settings(self) -> Settings:
        """What the daemon was told last, with the override in it."""
        return self._wanted.settings

    @property
    def worker(self) -> Worker | None:
        """The worker that serves or is about to, not one beside it."""
        return self._worker(self.state.live)

    @property
    def beside(self) -> Worker | None:
        """The worker beside it, while one takes the place of the other."""
        return self._worker(self.state.beside)

    async def run(self) -> None:
        """Start what is wanted and handle events until cancelled."""
        try:
            async with self._tasks:
                goal = self._wanted.goal if self.settings.is_local else None
                self._effects.go_on(self.settings, self._tasks)
                was_local = self._left is not None and self._left.was_local
                self._handle(first_event(self.state, goal, was_local=was_local))
                self._demand.start()
                while True:
                    self._handle(await self._events.get())
        finally:
            if not self.leaves_worker:
                await self._effects.abandon()

    def find_worker(self) -> bool:
        """Go on where an earlier daemon was, once `run` begins; whether its worker is there."""
        left = self._left = self._parts.handover.read()
        if left is None:
            return False
        self._wanted.go_on(left.demanded, left.configured_model)
        is_found = left.mark is not None and self._effects.find_again(
            left, left.mark, self.settings
        )
        state = left.state if is_found else without_worker(left.state)
        self.state = replace(state, generation=max(self.state.generation, state.generation))
        self._announcer.go_on(self.state)
        self._demand.update(self.state, self.settings)
        return is_found

    async def beat(self) -> None:
        """Return once the loop of `run` has taken an event: it moves."""
        self._is_settled.clear()
        self._events.put_nowait(Tick())
        await self._is_settled.wait()

    async def shut_down(self) -> list[int]:
        """Stop the worker for good; return the processes that are left: none, as a rule.

        Waits as long as drain, grace, kill and memory may take, and not for ever on a process in
        an uninterruptible wait (state D): it would keep the host from its reboot.
        """
        self.asks.is_closed = True
        self._demand.stop()
        self._handle(Want(None))
        settings = self.settings
        orderly_s = settings.gateway.drain_timeout_s + settings.worker.stop_grace_s
        if settings.sleeps:
            orderly_s += settings.sleep.timeout_s  # one may be falling asleep
        try:
            async with asyncio.timeout(orderly_s + _KILLED_WITHIN_S):
                await self._stopped()
        except TimeoutError:
            self.leaves_worker = False  # at the end of `run` each of them is killed once more
            return sorted({*self._effects.pids(), *self._parts.sleepers.pids()})
        return []

    async def _stopped(self) -> None:
        while self.state.live is not None or self.state.beside is not None:
            self._is_settled.clear()
            await self._is_settled.wait()
        await self._parts.sleepers.end_all("the daemon ends")

    def carried_over(self, settings: Settings) -> Settings:
        """Return settings that were read again with the live override, while it still holds."""
        return self._wanted.carried_over(settings)

    def saved(self, operation: Operation, problem: Problem | None) -> None:
        """End an operation whose model has been written into `.env`, or could not be."""
        ended = self.operations.saved(operation.id, self._result(), problem)
        if ended is not None:
            self._announcer.operation(ended)

    def _worker(self, live: Live | None) -> Worker | None:
        return self._effects.worker(live.generation) if live is not None else None

    def _swap_on_demand(self, model: str, text: str) -> None:
        """Serve a model because requests wait for it: no operation, nobody waits for its end."""
        self._wanted.demand(model)
        self._announcer.demanded(model, text)
        self._handle(Want(self._wanted.goal))

    def _unload_or_wake(self, event: Unload | Wake) -> None:
        if isinstance(event, Wake) and (goal := self.state.goal) is not None:
            self._announcer.demanded(goal.model, f"loading {goal.model}: asked for by a request")
        self._handle(event)

    def _on_progress(self, sub_phase: str, fraction: float | None) -> None:
        self._announcer.note(sub_phase, fraction)
        self._publish()

    def _handle(self, event: Event) -> None:
        """Take one step; the only place where the state changes."""
        now = asyncio.get_running_loop().time()
        before = self.state
        jitter = random.random()  # noqa: S311 (no secret)
        limits = replace(DEFAULT_LIMITS, memory=self.settings.memory, swap=self.settings.swap)
        self.state, effects = step(before, event, now, jitter=jitter, limits=limits)
        self._effects.update(self.state)
        for effect in effects:
            self._effects.perform(effect, self.settings, self._tasks)
        self._wanted.follow(before, self.state)
        self._parts.load_times.update(before, self.state, now)
        self._parts.last_used.update(before, self.state)
        self._demand.update(self.state, self.settings)
        self._parts.standby.update(self.state, self.settings)
        self._parts.sleepers.update(self.state, self.settings)
        self._cure.update(self.state, self.settings, self._tasks)
        self._read_ahead.update(self.state, self._tasks)
        if not self.asks.is_closed:  # that is nobody's wish for the next daemon
            self._parts.handover.step(self.state, self.settings)
        self._publish()
        self._is_settled.set()

    def _on_spawn(self, mark: WorkerMark) -> None:
        self._parts.handover.started(mark, self.state, self.settings, self._parts.release.before)

    def _publish(self) -> None:
        self._announcer.changed(self.state)
        progress = self._announcer.progress(self.state)
        changed = self.operations.advance(progress)
        changed = self.operations.settle(self.state, self._result()) or changed
        if changed is not None:
            self._announcer.operation(changed)

    def _result(self) -> Mapping[str, str]:
        """Return what an operation that is done has brought."""
        if self.state.live is None:
            return {}
        endpoint = self.settings.gateway.endpoints[0]
        return {"model": self.state.live.plan.goal.model, "endpoint": endpoint}
