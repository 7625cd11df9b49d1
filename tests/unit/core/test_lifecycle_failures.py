"""The lifecycle when workers fail: backoff, giving up, going back, forgiving."""

import pytest

from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.core.events import (
    Checked,
    CheckFailed,
    Event,
    Gone,
    Lost,
    Ready,
    Spawn,
    Stop,
    Tick,
    WakeAt,
    Want,
)
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.lifecycle import step
from cahoots_vllm.core.wire import Phase
from unit.core.environment import MENDABLE, A, B, Environment, fitted
from unit.core.situations import arrange

READY_AGAIN_S = 300.0


def _crash(world: Environment, *, ready_s: float) -> float | None:
    """Let the worker become ready, serve for a while and die; return the wait, None if given up."""
    world.send(Ready(world.state.generation))
    world.now += ready_s
    world.send(Lost(world.state.generation, MENDABLE))
    world.send(Gone(world.state.generation))
    return None if world.state.retry_at is None else world.state.retry_at - world.now


def _wake(world: Environment) -> None:
    assert world.wake_at is not None
    world.now = world.wake_at
    world.send(Tick())


def test_crashes_in_a_row_wait_longer_and_the_fifth_is_given_up() -> None:
    world = arrange("starting")
    waits: list[float | None] = []
    for _ in range(4):
        waits.append(_crash(world, ready_s=10.0))
        _wake(world)
    assert waits == [0.0, 2.0, 4.0, 8.0], "the first after good service waits for nothing"
    assert world.state.restarts == 4
    assert _crash(world, ready_s=10.0) is None
    assert world.state.phase is Phase.FAILED
    assert world.state.last_failure is not None
    assert world.state.last_failure.action == "gave up: 5 failures in 10 min"


def test_being_ready_for_five_minutes_forgives_earlier_crashes() -> None:
    world = arrange("starting")
    for ready_s, wait_s in ((0.0, 0.0), (0.0, 2.0), (READY_AGAIN_S, 0.0), (0.0, 2.0)):
        assert _crash(world, ready_s=ready_s) == wait_s
        _wake(world)


def test_being_ready_for_less_than_five_minutes_forgives_nothing() -> None:
    world = arrange("starting")
    assert _crash(world, ready_s=0.0) == 0.0
    _wake(world)
    assert _crash(world, ready_s=READY_AGAIN_S - 0.1) == 2.0


def test_crashes_far_apart_are_never_given_up() -> None:
    world = arrange("starting")
    for _ in range(10):
        assert _crash(world, ready_s=READY_AGAIN_S) == 0.0
        _wake(world)


def test_a_slow_start_is_not_mistaken_for_being_ready() -> None:
    world = arrange("starting")
    for wait_s in (1.0, 2.0):
        world.now += READY_AGAIN_S + 50
        generation = world.state.generation
        world.send(Lost(generation, MENDABLE))
        assert world.state.retry_at == pytest.approx(world.now + wait_s)
        world.send(Gone(generation))
        _wake(world)


def test_starts_too_slow_for_the_window_are_given_up_too() -> None:
    world = arrange("starting")
    for _ in range(4):
        world.now += 700
        world.play((Lost(world.state.generation, MENDABLE), Gone(world.state.generation)))
        assert world.state.retry_at == world.now + 1.0, "earlier ones are out of the window"
        _wake(world)
    world.now += 700
    world.send(Lost(world.state.generation, MENDABLE))
    assert world.state.is_failed


def test_refused_preflight_that_may_pass_later_is_tried_five_times() -> None:
    world = Environment()
    world.send(Want(A))
    for _ in range(4):
        assert world.checking == A
        world.send(CheckFailed(A, MENDABLE))
        assert world.state.phase is Phase.BACKOFF
        _wake(world)
    world.send(CheckFailed(A, MENDABLE))
    assert world.state.phase is Phase.FAILED


def test_first_crash_after_service_waits_for_nothing_but_its_own_end() -> None:
    world = arrange("ready")
    assert world.send(Lost(1, MENDABLE)) == (Stop(1, at_once=True), WakeAt(world.now))
    assert world.state.last_failure is not None
    assert world.state.last_failure.action == "trying again at once"
    assert world.send(Tick()) == ()
    assert world.send(Gone(1)) == (Spawn(2, fitted(A)),)


def test_a_host_without_memory_is_given_time_after_good_service_too() -> None:
    world = arrange("ready")
    killed = Diagnosis(Cause.HOST_OOM, "the kernel killed it", "wait", is_retryable=True)
    world.send(Lost(1, killed))
    assert world.state.retry_at == world.now + 1.0


def test_jitter_prolongs_the_wait_by_up_to_a_tenth() -> None:
    world = arrange("starting")
    state, effects = step(world.state, Lost(1, MENDABLE), 5.0, jitter=0.5)
    assert state.retry_at == pytest.approx(5.0 + 1.05)
    assert effects[-1] == WakeAt(state.retry_at or 0.0)


def test_a_wake_up_before_its_time_is_ignored() -> None:
    world = arrange("backoff")
    assert world.send(Tick()) == ()
    assert world.state.phase is Phase.BACKOFF


def test_a_backoff_that_ends_while_the_worker_still_goes_waits_for_it() -> None:
    world = arrange("stopping after a crash")
    _wake(world)
    assert world.state.phase is Phase.STOPPING
    assert world.send(Gone(1)) == (Spawn(2, fitted(A)),)


def test_a_model_that_never_starts_ends_failed_not_in_a_loop() -> None:
    world = Environment().play((Want(A), Checked(A, fitted(A))))
    _never_starts(world, A)
    assert world.state.phase is Phase.FAILED
    assert len(world.spawned) == 5


def test_a_swap_that_never_starts_ends_with_the_last_good_model() -> None:
    world = arrange("starting with a last good")
    _never_starts(world, B)
    assert world.state.phase is Phase.READY
    assert world.spawned == (fitted(A), fitted(B), fitted(B), fitted(A))


def _never_starts(world: Environment, goal: LaunchSpec) -> None:
    """Cooperate, but lose every worker of the goal."""
    for _ in range(30):
        answers = world.next_answers()
        if not answers:
            return
        answer: Event = answers[0]
        live = world.state.live
        if isinstance(answer, Ready) and live is not None and live.plan.goal == goal:
            answer = Lost(live.generation, MENDABLE)
        if isinstance(answer, Tick) and world.wake_at is not None:
            world.now = world.wake_at
        world.send(answer)
    pytest.fail("no end in sight")
