"""The lifecycle against everything that can happen, in any order, at any moment."""

from dataclasses import replace

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cahoots_vllm.core.diagnosis import Diagnosis
from cahoots_vllm.core.events import (
    Checked,
    CheckFailed,
    Drained,
    Event,
    Gone,
    Lost,
    Ready,
    Restart,
    Tick,
    Unload,
    Wake,
    Want,
)
from cahoots_vllm.core.launch import LaunchSpec
from unit.core.environment import FATAL, MENDABLE, A, B, C, Environment, every_event, fitted
from unit.core.situations import SCRIPTS, SITUATIONS, arrange

# Thousands of worlds: a second or so alone, more on a busy machine.
pytestmark = pytest.mark.timeout(60)

GOALS = st.sampled_from((A, B, C))
DIAGNOSES = st.sampled_from((MENDABLE, FATAL))


def assert_lively(world: Environment) -> None:
    """A cooperative world comes to rest, whichever of its answers comes first."""
    assert world.settle().is_settled
    assert world.settle(is_check_first=True).is_settled


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_interrupted_at_each_step_by_each_event_comes_to_rest(script: str) -> None:
    events = SCRIPTS[script]
    for position in range(len(events) + 1):
        for injected in every_event().values():
            world = Environment().play(events[:position])
            world.send(injected(world))
            assert_lively(world)
            for event in events[position:]:
                world.send(event)
                assert_lively(world)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_any_four_events_in_any_situation_come_to_rest(situation: str) -> None:
    worlds = [arrange(situation)]
    for _ in range(4):
        worlds = _one_event_further(worlds)
        for world in worlds:
            assert_lively(world)


def _one_event_further(worlds: list[Environment]) -> list[Environment]:
    """Return every world that one event makes of these, without those it leaves as they are."""
    further: dict[object, Environment] = {}
    for world in worlds:
        for answer in every_event((A, B)).values():
            after = replace(world)
            after.send(answer(after))
            if after.state != world.state:
                further[after.state] = after
    return list(further.values())


class Lifecycle(RuleBasedStateMachine):
    """Answers true, late, doubled and invented, and words of people in between."""

    def __init__(self) -> None:
        """Begin with nothing wanted."""
        super().__init__()
        self.world = Environment()
        self.history: list[Event] = []

    def _send(self, event: Event) -> None:
        self.history.append(event)
        self.world.send(event)

    @rule(goal=st.none() | GOALS)
    def want(self, goal: LaunchSpec | None) -> None:
        self._send(Want(goal))

    @rule()
    def restart(self) -> None:
        self._send(Restart())

    @rule()
    def unload(self) -> None:
        self._send(Unload(600.0))

    @rule()
    def wake(self) -> None:
        self._send(Wake())

    @rule(seconds=st.floats(0.0, 700.0))
    def wait(self, seconds: float) -> None:
        self.world.now += seconds

    @precondition(lambda self: bool(self.world.next_answers()))
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        event = data.draw(st.sampled_from(self.world.next_answers()))
        if isinstance(event, Tick) and self.world.wake_at is not None:
            self.world.now = max(self.world.now, self.world.wake_at)
        self._send(event)

    @precondition(lambda self: self.world.checking is not None)
    @rule(diagnosis=DIAGNOSES)
    def refuse(self, diagnosis: Diagnosis) -> None:
        if self.world.checking is not None:
            self._send(CheckFailed(self.world.checking, diagnosis))

    @precondition(lambda self: bool(self.world.processes))
    @rule(diagnosis=DIAGNOSES)
    def lose(self, diagnosis: Diagnosis) -> None:
        self._send(Lost(self.world.state.generation, diagnosis))

    @precondition(lambda self: bool(self.history))
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        self._send(data.draw(st.sampled_from(self.history)))

    @rule(goal=GOALS, back=st.integers(-1, 2), kind=st.integers(0, 6))
    def invent(self, goal: LaunchSpec, back: int, kind: int) -> None:
        generation = self.world.state.generation - back
        invented: tuple[Event, ...] = (
            Checked(goal, fitted(goal)),
            CheckFailed(goal, MENDABLE),
            Ready(generation),
            Lost(generation, MENDABLE),
            Drained(generation),
            Gone(generation),
            Tick(),
        )
        self._send(invented[kind])

    @invariant()
    def a_cooperative_world_comes_to_rest(self) -> None:
        assert_lively(self.world)


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = hypothesis_settings(max_examples=100, stateful_step_count=40)
