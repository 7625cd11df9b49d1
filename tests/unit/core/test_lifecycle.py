"""The lifecycle, pair by pair and story by story."""

import pytest

from cahoots_vllm.core.backoff import Limits
from cahoots_vllm.core.diagnosis import Diagnosis
from cahoots_vllm.core.events import (
    Admit,
    Check,
    Checked,
    CheckFailed,
    Drain,
    Drained,
    Effect,
    Gone,
    Lost,
    Ready,
    Restart,
    Spawn,
    Stop,
    Tick,
    WakeAt,
    Want,
)
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.state import Stage, State
from cahoots_vllm.core.wire import Phase
from unit.core.environment import (
    FATAL,
    MENDABLE,
    A,
    B,
    C,
    Environment,
    every_event,
    fitted,
)
from unit.core.situations import SCRIPTS, SITUATIONS, arrange
from unit.core.transitions import TRANSITIONS


def _shown(effect: Effect) -> str:
    match effect:
        case Check(goal):
            return f"Check({goal.model[-1].upper()})"
        case Stop(at_once=True):
            return "Stop(at_once)"
        case _:
            return type(effect).__name__


def _last_good(world: Environment) -> tuple[LaunchSpec, LaunchSpec] | None:
    plan = world.state.last_good
    return (plan.goal, plan.launch) if plan is not None else None


@pytest.mark.parametrize("event", every_event())
@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_pair_is_handled_or_ignored_as_documented(situation: str, event: str) -> None:
    world = arrange(situation)
    before = world.state
    effects = world.send(every_event()[event](world))
    expected = TRANSITIONS[situation].get(event)
    if expected is None:
        assert (world.state, effects) == (before, ())
        return
    asked = ", ".join(_shown(effect) for effect in effects)
    assert f"{world.state.phase}{': ' if asked else ''}{asked}" == expected


def test_the_table_names_only_known_situations_and_events() -> None:
    assert set(TRANSITIONS) == set(SITUATIONS)
    assert {event for row in TRANSITIONS.values() for event in row} <= set(every_event())


def test_the_situations_cover_every_phase() -> None:
    assert {arrange(name).state.phase for name in SITUATIONS} == set(Phase)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_comes_to_rest(script: str) -> None:
    assert Environment().play(SCRIPTS[script]).settle().is_settled


def test_first_start_checks_spawns_and_admits() -> None:
    world = Environment()
    assert world.send(Want(A)) == (Check(A),)
    assert world.send(Checked(A, fitted(A))) == (Spawn(1, fitted(A)),)
    assert world.send(Ready(1)) == (Admit(1),)
    assert _last_good(world) == (A, fitted(A))
    assert world.state.restarts == 0


def test_swap_serves_the_old_model_through_preflight_and_drains_before_it_stops() -> None:
    world = arrange("ready")
    assert world.send(Want(B)) == (Check(B),)
    assert world.admitted == 1
    assert world.send(Checked(B, fitted(B))) == (Drain(1),)
    assert world.send(Drained(1)) == (Stop(1, at_once=False),)
    assert world.send(Gone(1)) == (Spawn(2, fitted(B)),)
    assert _last_good(world) == (A, fitted(A)), "committed before it was ready"
    assert world.send(Ready(2)) == (Admit(2),)
    assert _last_good(world) == (B, fitted(B))
    assert world.state.rejected is None
    assert world.state.last_failure is None


@pytest.mark.parametrize("diagnosis", [FATAL, MENDABLE])
def test_swap_refused_by_preflight_keeps_the_old_model_serving(diagnosis: Diagnosis) -> None:
    world = arrange("ready")
    world.play((Want(B), CheckFailed(B, diagnosis)))
    assert world.admitted == 1
    assert world.state.goal == A
    rejected = world.state.rejected
    assert rejected is not None
    assert (rejected.goal, rejected.action) == (B, "kept org/a")
    assert world.state.last_failure == rejected


def test_swap_that_cannot_start_goes_back_to_the_last_good_model_at_once() -> None:
    world = arrange("starting with a last good")
    assert world.send(Lost(2, FATAL)) == (Stop(2, at_once=True),)
    assert world.send(Gone(2)) == (Spawn(3, fitted(A)),)
    world.send(Ready(3))
    assert world.state.live is not None
    assert world.state.live.plan.goal == A
    assert world.state.rejected is not None
    assert (world.state.rejected.goal, world.state.rejected.diagnosis) == (B, FATAL)
    assert world.state.rejected.action == "went back to org/a"


def test_swap_that_may_yet_start_gets_a_second_try_before_going_back() -> None:
    world = arrange("starting with a last good")
    assert world.send(Lost(2, MENDABLE)) == (Stop(2, at_once=True), WakeAt(world.now + 1.0))
    world.send(Gone(2))
    assert world.state.phase is Phase.BACKOFF
    world.now += 1.0
    assert world.send(Tick()) == (Spawn(3, fitted(B)),)
    assert world.send(Lost(3, MENDABLE)) == (Stop(3, at_once=True),)
    assert world.send(Gone(3)) == (Spawn(4, fitted(A)),)


def test_unproven_starts_are_a_limit() -> None:
    world = arrange("starting with a last good")
    world.limits = Limits(unproven_starts=1)
    world.play((Lost(2, MENDABLE), Gone(2)))
    assert world.spawned[-1] == fitted(A)


def test_a_model_that_was_ready_once_is_not_given_up_for_an_older_one() -> None:
    world = Environment().play(SCRIPTS["swap"])
    world.play((Lost(2, MENDABLE), Gone(2)))
    assert world.state.goal == B
    assert world.state.phase is Phase.BACKOFF


def test_refused_preflight_without_a_worker_goes_back_to_the_last_good_model() -> None:
    world = arrange("preparing with a last good")
    assert world.send(CheckFailed(B, FATAL)) == (Spawn(2, fitted(A)),)
    assert world.state.rejected is not None


def test_swap_is_checked_anew_after_the_old_worker_died_meanwhile() -> None:
    world = arrange("stopping, swap in preflight")
    assert world.state.strikes == (), "the end of a worker on its way out is no failure"
    world.play((Checked(B, fitted(B)), Gone(1)))
    assert world.spawned[-1] == fitted(B)


def test_superseded_swap_cancels_the_earlier_preflight() -> None:
    world = arrange("ready, swap in preflight")
    effects = world.send(Want(C))
    assert [type(effect).__name__ for effect in effects] == ["CancelCheck", "Check"]
    assert world.send(Checked(B, fitted(B))) == ()
    assert world.settle().spawned[-1] == fitted(C)
    assert fitted(B) not in world.settle().spawned


def test_swap_superseded_while_draining_never_starts_the_first_model() -> None:
    world = arrange("draining for a swap")
    world.send(Want(C))
    assert world.settle().spawned == (fitted(A), fitted(C))


def test_swap_taken_back_while_draining_serves_again_without_a_start() -> None:
    world = arrange("draining for a swap")
    assert world.send(Want(A)) == (Admit(1),)
    assert world.send(Drained(1)) == (), "the drain was taken back"
    assert world.settle().spawned == (fitted(A),)


def test_swap_taken_back_in_preflight_changes_nothing() -> None:
    world = arrange("ready, swap in preflight")
    world.send(Want(A))
    assert world.settle().spawned == (fitted(A),)


def test_restart_checks_first_and_replaces_the_worker() -> None:
    world = arrange("ready")
    assert world.send(Restart()) == (Check(A),)
    assert world.admitted == 1
    assert world.send(Checked(A, fitted(A))) == (Drain(1),)
    settled = world.settle()
    assert settled.admitted == 2


def test_restart_refused_by_preflight_keeps_the_worker() -> None:
    world = arrange("ready, restart in preflight")
    world.send(CheckFailed(A, FATAL))
    assert world.settle().admitted == 1


def test_restart_ends_a_backoff_and_a_failure() -> None:
    for situation in ("backoff", "failed", "failed in preflight"):
        world = arrange(situation)
        assert world.send(Restart()) == (Check(A),), situation
        assert world.state.strikes == ()


def test_restart_when_off_starts_nothing() -> None:
    world = arrange("off")
    assert world.send(Restart()) == ()


@pytest.mark.parametrize("situation", SITUATIONS)
def test_stop_in_every_situation_ends_off_without_a_worker(situation: str) -> None:
    world = arrange(situation)
    spawned = world.spawned
    world.send(Want(None))
    settled = world.settle()
    assert settled.state.phase is Phase.OFF
    assert settled.spawned == spawned, "something was started on the way"


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_new_goal_in_every_situation_is_served(situation: str) -> None:
    world = arrange(situation)
    world.send(Want(C))
    settled = world.settle()
    assert settled.state.phase is Phase.READY
    assert settled.spawned[-1] == fitted(C)


def test_a_ready_worker_told_to_stop_is_not_admitted_by_a_late_ready() -> None:
    world = arrange("starting")
    world.send(Want(None))
    assert world.send(Ready(1)) == ()
    assert world.settle().state.phase is Phase.OFF


def test_a_failed_goal_wanted_again_is_looked_at_anew() -> None:
    world = arrange("failed")
    assert world.send(Want(A)) == (Check(A),)
    assert world.state.strikes == ()


def test_a_new_word_clears_the_rejection() -> None:
    world = Environment().play(SCRIPTS["swap refused by preflight"])
    assert world.state.rejected is not None
    world.send(Want(A))
    assert world.state.rejected is None
    assert world.state.last_failure is not None


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        (State(), Phase.OFF),
        (State(goal=A), Phase.PREPARING),
        (State(goal=A, retry_at=1.0), Phase.BACKOFF),
        (State(goal=A, is_failed=True), Phase.FAILED),
    ],
)
def test_phase_without_a_worker(state: State, phase: Phase) -> None:
    assert state.phase is phase


def test_every_stage_is_a_phase() -> None:
    assert {stage.value for stage in Stage} < {phase.value for phase in Phase}
