"""What a daemon that was started again goes on with, from every state the lifecycle can be in."""

from dataclasses import replace

import pytest

from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.core.events import Gone, Tick, Want
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.lifecycle import step
from cahoots_vllm.core.memory import Memory, Sizes
from cahoots_vllm.core.state import Failure, Live, Plan, Stage, State
from cahoots_vllm.core.takeover import first_event, taken_over

A, B = (LaunchSpec(model=name, source=f"/{name}", engine="/e") for name in "ab")


def plan(goal: LaunchSpec) -> Plan:
    sizes = Sizes(900)
    return Plan(goal, goal, Memory(asked=sizes, current=sizes))


def living(stage: Stage, goal: LaunchSpec | None = A, **changes: object) -> State:
    live = Live(3, plan(A), stage, 1.0)
    state = State(goal=goal, plan=plan(A), live=live, last_good=plan(A), generation=3)
    return replace(state, **changes)  # type: ignore[arg-type] # the test names real fields


@pytest.mark.parametrize(
    "state", [State(goal=A), State(goal=A, is_failed=True, plan=plan(A)), living(Stage.STOPPING)]
)
def test_where_nothing_serves_what_is_wanted_is_tried_again(state: State) -> None:
    after, effects = step(taken_over(state), first_event(taken_over(state), A, was_local=True), 9.0)
    assert (after.live, after.goal, after.checking) == (None, A, A)
    assert [type(effect).__name__ for effect in effects] == ["Check"]


def test_what_a_person_stopped_stays_stopped() -> None:
    state = taken_over(State(goal=None, generation=3))
    assert first_event(state, A, was_local=True) == Tick()
    # It was off since another provider was named: that has changed.
    assert first_event(state, A, was_local=False) == Want(A)


@pytest.mark.parametrize("stage", [Stage.STARTING, Stage.READY, Stage.DRAINING])
@pytest.mark.parametrize("checking", [None, B])
@pytest.mark.parametrize("configured", [A, B, None])
@pytest.mark.parametrize("goal", [A, B, None])
def test_worker_taken_over_is_kept_or_left_but_never_doubled(
    stage: Stage,
    checking: LaunchSpec | None,
    configured: LaunchSpec | None,
    goal: LaunchSpec | None,
) -> None:
    state = taken_over(living(stage, goal, checking=checking, plan=None if checking else plan(A)))
    after, effects = step(state, first_event(state, configured, was_local=True), 9.0)
    names = {type(effect).__name__ for effect in effects}
    assert "Spawn" not in names
    # A person's stop, and a provider that is not local, hold; else what the settings say.
    wanted = None if goal is None else configured
    assert after.goal == wanted
    if wanted == A:
        assert after.live is not None
        assert after.live.stage is (Stage.STARTING if stage is Stage.STARTING else Stage.READY)
        assert not names & {"Drain", "Stop"}
    if wanted is None:
        assert names & {"Drain", "Stop"}


def test_what_was_refused_is_not_tried_again_unless_the_settings_changed() -> None:
    diagnosis = Diagnosis(Cause.UNKNOWN, "", "", is_retryable=False)
    state = living(Stage.READY, rejected=Failure(1.0, B, diagnosis, "kept a"))
    assert first_event(state, B, was_local=True) == Tick()
    assert step(state, first_event(state, B, was_local=True), 9.0)[0].rejected is not None
    other = replace(B, revision="new")
    assert first_event(state, other, was_local=True) == Want(other)


def test_swap_that_was_draining_goes_on() -> None:
    state = taken_over(replace(living(Stage.DRAINING, goal=B), plan=plan(B)))
    after, effects = step(state, first_event(state, B, was_local=True), 9.0)
    assert [type(effect).__name__ for effect in effects] == ["Drain"]
    assert after.live is not None
    assert after.live.stage is Stage.DRAINING
    assert step(after, Gone(3), 9.0)[0].live is not None, "only a stop is answered by its end"
