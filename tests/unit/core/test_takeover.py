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


@pytest.mark.parametrize("state", [State(), State(goal=A, is_failed=True), living(Stage.STOPPING)])
def test_nothing_is_taken_over_where_nothing_serves(state: State) -> None:
    assert taken_over(state) is None


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
    assert state is not None
    after, effects = step(state, first_event(state, configured), 9.0)
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
    assert first_event(state, B) == Tick()
    assert step(state, first_event(state, B), 9.0)[0].rejected is not None
    assert first_event(state, replace(B, revision="new")) == Want(replace(B, revision="new"))


def test_swap_that_was_draining_goes_on() -> None:
    state = taken_over(replace(living(Stage.DRAINING, goal=B), plan=plan(B)))
    assert state is not None
    after, effects = step(state, first_event(state, B), 9.0)
    assert [type(effect).__name__ for effect in effects] == ["Drain"]
    assert after.live is not None
    assert after.live.stage is Stage.DRAINING
    assert step(after, Gone(3), 9.0)[0].live is not None, "only a stop is answered by its end"
