"""A simulated world for the lifecycle: keeps what was asked of it and checks every step.

It stands for control.supervisor and everything below it. Answers come from the tests, in any
order, late, twice or never; `settle` lets the world cooperate until nothing is asked any more.
With `is_gate_open` memory is always still and enough: the gate is answered at once, and neither it
nor what is remembered shows in the effects. Beside a worker there are `devices_beside`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

from cahoots_vllm.core.backoff import DEFAULT_LIMITS, Limits
from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.core.events import (
    Admit,
    CancelCheck,
    Check,
    Checked,
    CheckFailed,
    Cured,
    Drain,
    Drained,
    Effect,
    Event,
    Gone,
    Lost,
    Measure,
    Measured,
    Ready,
    Remember,
    Restart,
    Spawn,
    Stop,
    Tick,
    Unload,
    Wake,
    WakeAt,
    Want,
)
from cahoots_vllm.core.evidence import Device
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.lifecycle import step
from cahoots_vllm.core.state import Live, Stage, State
from cahoots_vllm.core.wire import Phase

A = LaunchSpec(model="org/a", source="org/a", engine="/engine")
B = LaunchSpec(model="org/b", source="org/b", engine="/engine")
C = LaunchSpec(model="org/c", source="org/c", engine="/engine")
MENDABLE = Diagnosis(Cause.ENGINE_DEAD_OTHER, "it died", "wait", is_retryable=True)
FATAL = Diagnosis(Cause.BAD_ARGUMENTS, "bad option", "correct it", is_retryable=False)
# Preflight, drain, stop, start, ready, twice, and a wait: more is a loop.
ENOUGH_STEPS = 20
ROOMY = (Device("gpu", "GPU 0", 24 << 30, 24 << 30),)

Answer = Callable[["Environment"], Event]


def fitted(goal: LaunchSpec) -> LaunchSpec:
    """Return the launch spec preflight makes of a goal: never equal to the goal itself."""
    return replace(goal, source=f"/snapshots/{goal.source}", is_local=True)


@dataclass
class Environment:
    """The world of one daemon; every field but the first four says what is still asked of it."""

    state: State = field(default_factory=State)
    now: float = 1000.0
    limits: Limits = DEFAULT_LIMITS
    is_gate_open: bool = True
    devices_beside: tuple[Device, ...] = ()
    measuring: LaunchSpec | None = None
    remembered: tuple[Remember, ...] = ()
    checking: LaunchSpec | None = None
    starting: int | None = None
    admitted: int | None = None
    replaced: int | None = None
    draining: frozenset[int] = frozenset()
    stopping: frozenset[int] = frozenset()
    wake_at: float | None = None
    processes: frozenset[int] = frozenset()
    stopped: frozenset[int] = frozenset()
    spawned: tuple[LaunchSpec, ...] = ()

    def send(self, event: Event) -> tuple[Effect, ...]:
        """Let an event happen, carry out what follows, check that it all makes sense."""
        before = self.state
        self._believe(event)
        self.state, effects = step(before, event, self.now, limits=self.limits)
        for effect in effects:
            self._perform(effect)
        check_invariants(self.state)
        assert self.state.generation >= before.generation
        self._check_asked()
        if not self.is_gate_open:
            return effects
        effects = tuple(e for e in effects if not isinstance(e, Measure | Remember))
        if self.measuring is not None:
            effects += self.send(self._measured(self.measuring))
        return effects

    def _measured(self, launch: LaunchSpec) -> Measured:
        is_beside = self.state.live is not None
        devices = self.devices_beside if is_beside else ()
        return Measured(launch, devices, is_beside, host_available_bytes=64 << 30)

    def play(self, events: Sequence[Event]) -> "Environment":
        """Let events happen one after the other."""
        for event in events:
            self.send(event)
        return self

    def _believe(self, event: Event) -> None:
        """Forget what an event answers: nothing is answered twice."""
        match event:
            case Checked(goal) | CheckFailed(goal) if goal == self.checking:
                self.checking = None
            case Measured(launch, _, is_beside) if launch == self.measuring:
                is_answer = is_beside == (self.state.live is not None)
                self.measuring = None if is_answer else launch
            case Ready(generation) if generation == self.starting:
                self.starting = None
            case Gone(generation) if generation in self.stopping:
                self.stopping -= {generation}
                self.processes -= {generation}
            case _:
                pass

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Check(goal):
                assert self.checking is None, "the running preflight was not cancelled"
                self.checking = goal
            case CancelCheck():
                self.checking = None
            case Measure(launch):
                self.measuring = launch
            case Remember():
                self.remembered += (effect,)
            case Spawn(generation, launch):
                beside = self.state.beside is not None
                assert len(self.processes) == int(beside), "started beside a living worker"
                assert self.state.goal is not None
                wanted = fitted(self.state.goal)
                assert replace(launch, options=wanted.options) == wanted, "nobody wants that"
                self.starting = generation
                self.processes |= {generation}
                self.spawned += (launch,)
            case Admit(generation):
                assert generation in self.processes
                assert self.state.live is not None
                assert self.state.live.stage is Stage.READY
                assert generation == self.state.live.generation
                self.replaced, self.admitted = self.admitted, generation
                self.draining -= {generation}
            case Drain(generation):
                assert generation in (self.admitted, self.replaced), "nothing to drain"
                self.admitted = _unless(generation, self.admitted)
                self.draining |= {generation}
            case Stop(generation):
                assert generation in self.processes
                assert generation not in self.stopped, "stopped twice"
                self.stopped |= {generation}
                self.admitted = _unless(generation, self.admitted)
                self.starting = _unless(generation, self.starting)
                self.draining -= {generation}
                self.stopping |= {generation}
            case WakeAt(at):
                assert at >= self.now
                self.wake_at = at
            case _:
                assert_never(effect)

    def _check_asked(self) -> None:
        """The lifecycle waits for exactly what was asked for: else it would wait for ever."""
        assert self.processes == {one.generation for one in self._there()}
        assert self.checking == self.state.checking
        if self.state.measuring is None:
            self.measuring = None  # an answer that nobody waits for is stale
        assert self.measuring == self.state.measuring
        assert {self.starting} - {None} == self._in_stage(Stage.STARTING)
        assert {self.admitted} - {None} == self._in_stage(Stage.READY)
        assert self.draining == self._in_stage(Stage.DRAINING)
        assert self.stopping == self._in_stage(Stage.STOPPING)
        assert self.state.retry_at in (None, self.wake_at)

    def _there(self) -> list[Live]:
        return [one for one in (self.state.live, self.state.beside) if one is not None]

    def _in_stage(self, stage: Stage) -> set[int]:
        return {one.generation for one in self._there() if one.stage is stage}

    def next_answers(self) -> list[Event]:
        """Return everything a cooperative world could say now, workers before preflight."""
        answers: list[Event] = []
        answers += [Gone(generation) for generation in sorted(self.stopping)]
        answers += [Drained(generation) for generation in sorted(self.draining)]
        if self.starting is not None:
            answers.append(Ready(self.starting))
        if self.measuring is not None:
            answers.append(self._measured(self.measuring))
        if self.checking is not None:
            answers.append(Checked(self.checking, fitted(self.checking)))
        if self.state.retry_at is not None:
            answers.append(Tick())
        return answers

    def settle(self, *, is_check_first: bool = False) -> "Environment":
        """Return a copy of this world after it cooperated until nothing was asked any more."""
        world = replace(self)
        for _ in range(ENOUGH_STEPS):
            answers = world.next_answers()
            if not answers:
                assert world.is_settled, f"nothing is asked, nothing is done: {world.state}"
                return world
            answer = answers[-1 if is_check_first else 0]
            if isinstance(answer, Tick) and world.wake_at is not None:
                world.now = max(world.now, world.wake_at)
            world.send(answer)
        message = f"no end in sight: {world.state}"
        raise AssertionError(message)

    def settle_until_spawned(self, goal: LaunchSpec) -> "Environment":
        """Return a copy of this world after it cooperated until a worker of the goal starts."""
        world = replace(self)
        for _ in range(ENOUGH_STEPS):
            live = world.state.live
            if live is not None and live.plan.goal == goal and live.stage is Stage.STARTING:
                return world
            world.send(world.next_answers()[0])
        message = f"never started: {world.state}"
        raise AssertionError(message)

    @property
    def is_settled(self) -> bool:
        """Whether the goal is served, or nothing is wanted, or a person must act."""
        state = self.state
        match state.phase:
            case Phase.READY:
                live = state.live
                return live is not None and live.plan.goal == state.goal and not live.is_leaving
            case Phase.OFF:
                return (state.goal is None or state.idle is not None) and not self.processes
            case Phase.FAILED:
                return state.is_failed and not self.processes
            case _:
                return False


def _unless(gone: int, generation: int | None) -> int | None:
    return None if generation == gone else generation


def check_invariants(state: State) -> None:
    """State's own promises (core.state.State)."""
    waits = (
        state.checking is not None,
        state.measuring is not None,
        state.retry_at is not None,
        state.is_failed,
        state.idle is not None,
    )
    assert sum(waits) <= 1, "checking, measuring, retry_at, is_failed and idle exclude each other"
    if state.goal is None:
        assert not any(waits), "nothing is wanted, so nothing is to be waited for"
    if state.checking is not None:
        assert state.checking == state.goal, "a goal nobody wants is being checked"
    if state.plan is not None:
        assert state.plan.goal == state.goal, "the plan is not for the goal"
    live, beside = state.live, state.beside
    if live is not None and state.idle is not None:
        assert live.stage in (Stage.DRAINING, Stage.STOPPING), "not even on its way"
    if beside is not None:
        assert beside.stage is not Stage.READY, "two would serve"
        if beside.stage is Stage.STARTING:
            assert live is not None, "nobody it would be beside"
            assert live.stage is Stage.READY, "requests are sent to nobody"
            assert beside.plan.goal == state.goal, "nobody wants it"
    if live is not None and beside is not None:
        assert live.generation != beside.generation
        assert state.generation in (live.generation, beside.generation), "not the newest workers"


def every_event(goals: Sequence[LaunchSpec] = (A, B, C)) -> dict[str, Answer]:
    """Return all that can happen, true or stale, by name, relative to the world it happens to."""
    events: dict[str, Answer] = {
        "Want(None)": lambda _: Want(None),
        "Restart": lambda _: Restart(),
        "Unload": lambda _: Unload(600.0),
        "Wake": lambda _: Wake(),
        "Tick(due)": _due_tick,
        "Tick(early)": lambda _: Tick(),
        "Cured": lambda _: Cured("a GPU appeared"),
    }
    for goal in goals:
        events |= _events_of_goal(goal, goal.model[-1].upper())
    return events | _events_of_worker("live", 0) | _events_of_worker("stale", 1)


def _events_of_goal(goal: LaunchSpec, name: str) -> dict[str, Answer]:
    return {
        f"Want({name})": lambda _: Want(goal),
        f"Checked({name})": lambda _: Checked(goal, fitted(goal)),
        f"Measured({name})": lambda _: Measured(fitted(goal), ()),
        f"CheckFailed({name},mendable)": lambda _: CheckFailed(goal, MENDABLE),
        f"CheckFailed({name},fatal)": lambda _: CheckFailed(goal, FATAL),
    }


def _events_of_worker(name: str, back: int) -> dict[str, Answer]:
    return {
        f"Ready({name})": lambda world: Ready(world.state.generation - back),
        f"Lost({name},mendable)": lambda world: Lost(world.state.generation - back, MENDABLE),
        f"Lost({name},fatal)": lambda world: Lost(world.state.generation - back, FATAL),
        f"Drained({name})": lambda world: Drained(world.state.generation - back),
        f"Gone({name})": lambda world: Gone(world.state.generation - back),
    }


def _due_tick(world: Environment) -> Event:
    """Return a tick after moving the clock to the time asked for."""
    if world.wake_at is not None:
        world.now = max(world.now, world.wake_at)
    return Tick()
