"""The one owner of the state: takes events, lets the lifecycle decide, has the effects done.

Everyone else sends it an event or reads a snapshot. An error nobody expected in any of its tasks
ends the daemon, and systemd starts it again.
"""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cahoots_vllm.control.announcer import Announcer
from cahoots_vllm.control.cure import CureWatch
from cahoots_vllm.control.demand import DemandWatch
from cahoots_vllm.control.effects import Effects, Parts
from cahoots_vllm.control.handover import Left
from cahoots_vllm.control.operation import Before, Caller, Operation, Problem, Target
from cahoots_vllm.control.operations import PULL, Operations
from cahoots_vllm.control.refusal import check_may_start, check_name
from cahoots_vllm.control.wanted import Wanted, configured_goal, goal_of
from cahoots_vllm.core.backoff import DEFAULT_LIMITS
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.events import Event, Forget, Restart, Tick, Unload, Wake, Want
from cahoots_vllm.core.lifecycle import step
from cahoots_vllm.core.settings import Settings, make_launch_spec
from cahoots_vllm.core.state import State
from cahoots_vllm.core.takeover import first_event, without_worker
from cahoots_vllm.worker.leftovers import WorkerMark
from cahoots_vllm.worker.process import Worker


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
        self._announcer = announcer
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._effects = Effects(parts, self._events.put_nowait, self._on_progress, self._on_spawn)
        cache_dir = Path(settings.cache_dir)
        self._cure = CureWatch(parts.gate, cache_dir, self._events.put_nowait)
        self._demand = DemandWatch(
            parts.rotation, self.operations, self._swap_on_demand, self._unload_or_wake
        )
        self._tasks = asyncio.TaskGroup()
        self._is_settled = asyncio.Event()
        self._is_shutting_down = False
        self._left: Left | None = None
        # Whether the worker may outlive this daemon by an error: another one will find it.
        self.leaves_worker = False

    @property
    def settings(self) -> Settings:
        """What the daemon was told last, with the override in it."""
        return self._wanted.settings

    @property
    def worker(self) -> Worker | None:
        """The worker that exists."""
        return self._effects.worker

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

    async def shut_down(self) -> None:
        """Stop the worker for good and return when nothing of it is left."""
        self._is_shutting_down = True
        self._demand.stop()
        self._handle(Want(None))
        while self.state.live is not None:
            self._is_settled.clear()
            await self._is_settled.wait()

    # --- what people ask for ---------------------------------------------------------------

    def swap_model(self, model: str | None, by: Caller, *, saves: bool = False) -> Operation:
        """Serve another model; None ends the override and goes back to `.env`'s.

        `saves`: it is done once `Reloader` has written it into `.env`, too.

        Raises CahootsError: BAD_REQUEST for a name that cannot be one, BUSY, CONFLICT.
        """
        if model is not None:
            self.refuse_swap(model)
        check_may_start(self.settings)
        settings = self._wanted.swapped(model)
        goal = goal_of(settings)
        params = {"model": model} if model is not None else {"reset": "true"}
        operation = self._begin("swap-model", params, by, Target(goal), saves=saves)
        self._wanted.swap(settings)
        self._handle(Want(goal))
        return self.operations.get(operation.id)

    def refuse_swap(self, model: str) -> None:
        """Raise CahootsError (BAD_REQUEST, BUSY, CONFLICT) where a swap to this cannot be."""
        check_name(model)
        check_may_start(self.settings)
        self.refuse_while_stopping()
        self.operations.refuse_if_busy()

    def start(self, by: Caller) -> Operation:
        """Start the worker, or try again at once after a failure. Raises CahootsError."""
        check_may_start(self.settings)
        goal = self._wanted.goal
        operation = self._begin("start", {}, by, Target(goal))
        self._handle(Want(goal))
        return self.operations.get(operation.id)

    def stop(self, by: Caller) -> Operation:
        """Drain and stop the worker; the daemon stays. Raises CahootsError (BUSY)."""
        operation = self._begin("stop", {}, by, Target(None))
        self._handle(Want(None))
        return self.operations.get(operation.id)

    def restart(self, by: Caller) -> Operation:
        """Replace the worker by a fresh one of the same kind. Raises CahootsError."""
        check_may_start(self.settings)
        goal = self.state.goal or self._wanted.goal
        after = self.state.generation
        operation = self._begin("restart", {}, by, Target(goal, after))
        self._handle(Restart() if self.state.goal is not None else Want(goal))
        return self.operations.get(operation.id)

    def carried_over(self, settings: Settings) -> Settings:
        """Return settings that were read again with the live override, while it still holds."""
        return self._wanted.carried_over(settings)

    def adopt(self, settings: Settings, by: Caller, changed: str | None) -> Operation | None:
        """Go on with other settings (`changed` says which); the worker changes only if it has to.

        What a person stopped stays stopped. A failed goal is tried again if anything changed. An
        operation that is under way is superseded where its goal is no longer wanted, and else goes
        on in place of a new one; None then, and where `changed` is: nobody asked, nothing changed.
        """
        old = self.settings
        self._wanted.take(settings)
        is_wanted = self.state.goal is not None or not old.is_local
        goal = self._wanted.goal if settings.is_local and is_wanted else None
        superseded = self.operations.supersede(goal) if not self._is_shutting_down else None
        if superseded is not None:
            self._announcer.operation(superseded)
        is_free = self.operations.running is None and not self._is_shutting_down
        operation = None
        if is_free and changed is not None:
            operation = self._begin("reload", {"changed": changed}, by, Target(goal))
        state, has_changed = self.state, settings != old
        # What was refused is tried again when anything changed; what was aborted, when asked again.
        is_again = changed is not None and state.rejected is None
        is_other = goal != state.goal and (has_changed or is_again)
        # A typo that was taken back is nothing to be reminded of.
        is_mended = state.rejected is not None and configured_goal(old) != configured_goal(settings)
        must_act = is_other or is_mended or (has_changed and state.is_failed)
        # What does not concern the goal may still concern who waits: a step of its own, too.
        self._handle(Want(goal) if must_act and not self._is_shutting_down else Tick())
        return self.operations.get(operation.id) if operation is not None else None

    def abort(self, id_: str) -> Operation:
        """End a running operation and want what was wanted before it. Raises CahootsError."""
        self.refuse_while_stopping()
        operation = self.operations.abort(id_)
        self._announcer.operation(operation)
        if operation.kind == PULL:  # `Pulls` sees it; what is wanted is another matter
            return operation
        before = operation.before
        if operation.kind == "swap-model":
            self._wanted.restore(before.override, before.demanded)
        goal = before.goal
        if before.is_as_set and operation.kind != "reload":  # the settings may be others by now
            goal = self._wanted.goal if self.settings.is_local else None
        self._handle(Want(goal))
        return operation

    def saved(self, operation: Operation, problem: Problem | None) -> None:
        """End an operation whose model has been written into `.env`, or could not be."""
        ended = self.operations.saved(operation.id, self._result(), problem)
        if ended is not None:
            self._announcer.operation(ended)

    def forget_memory(self, model: str | None) -> int:
        """Forget what was learned about a model's memory, or all of it; return of how many."""
        source = make_launch_spec(self.settings, model).source if model is not None else None
        count = self._parts.learned.reset(source)
        self._handle(Forget(source))
        return count

    # --- inside ----------------------------------------------------------------------------

    def _swap_on_demand(self, model: str, text: str) -> None:
        """Serve a model because requests wait for it: no operation, nobody waits for its end."""
        self._wanted.demand(model)
        self._announcer.demanded(model, text)
        self._handle(Want(self._wanted.goal))

    def _unload_or_wake(self, event: Unload | Wake) -> None:
        if isinstance(event, Wake) and (goal := self.state.goal) is not None:
            self._announcer.demanded(goal.model, f"loading {goal.model}: asked for by a request")
        self._handle(event)

    def _begin(
        self,
        kind: str,
        params: Mapping[str, str],
        by: Caller,
        target: Target,
        *,
        saves: bool = False,
    ) -> Operation:
        self.refuse_while_stopping()
        self.operations.refuse_if_busy()
        is_as_set = self.settings.is_local and self._wanted.goal == self.state.goal
        settings = self.settings
        before = Before(self.state.goal, settings.override, is_as_set, settings.demanded)
        operation = self.operations.begin(kind, params, by, target, before, saves=saves)
        self._announcer.operation(operation)
        return operation

    def refuse_while_stopping(self) -> None:
        """Raise CahootsError (CONFLICT) while the daemon ends."""
        if self._is_shutting_down:
            raise CahootsError(Kind.CONFLICT, "the daemon is stopping", "start it again")

    def _on_progress(self, sub_phase: str, fraction: float | None) -> None:
        self._announcer.note(sub_phase, fraction)
        self._publish()

    def _handle(self, event: Event) -> None:
        """Take one step; the only place where the state changes."""
        now = asyncio.get_running_loop().time()
        before = self.state
        jitter = random.random()  # noqa: S311 (no secret)
        limits = replace(DEFAULT_LIMITS, memory=self.settings.memory)
        self.state, effects = step(before, event, now, jitter=jitter, limits=limits)
        for effect in effects:
            self._effects.perform(effect, self.settings, self._tasks)
        self._wanted.follow(before, self.state)
        self._parts.load_times.update(before, self.state, now)
        self._demand.update(self.state, self.settings)
        self._cure.update(self.state, self.settings, self._tasks)
        if not self._is_shutting_down:  # that is nobody's wish for the next daemon
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
