"""A start that dies in what the engine compiled before: once more without it, and only once."""

from dataclasses import replace

from cahoots_vllm.core.backoff import DEFAULT_LIMITS
from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.core.events import Check, Checked, Gone, Lost, Ready, Spawn, Stop, Tick, Want
from cahoots_vllm.core.wire import Phase, SwapStrategy
from unit.core.environment import ROOMY, A, B, Environment, fitted

CACHE = Diagnosis(Cause.CACHE_DAMAGED, "invalid ELF header", "try again", is_retryable=True)


def test_caches_that_a_start_died_in_are_moved_aside_once_and_it_starts_at_once() -> None:
    world = Environment().play((Want(A), Checked(A, fitted(A))))
    world.send(Lost(1, CACHE))
    effects = world.send(Gone(1))
    assert effects == (Check(A, moves_caches=True),)
    world.send(Checked(A, fitted(A)))
    assert world.starting == 2
    world.play((Lost(2, CACHE), Gone(2)))
    assert world.state.phase is Phase.BACKOFF, "a second death in them is a failure like any other"
    assert len(world.state.strikes) == 1
    assert world.checking is None


def test_caches_may_be_moved_again_after_good_service() -> None:
    world = Environment().play((Want(A), Checked(A, fitted(A)), Lost(1, CACHE), Gone(1)))
    world.play((Checked(A, fitted(A)), Ready(2)))
    world.now += 600
    other = replace(CACHE, cause=Cause.ENGINE_DEAD_OTHER)
    world.play((Lost(2, other), Gone(2)))
    world.now = world.wake_at or world.now
    world.send(Tick())
    generation = world.starting
    assert generation == 3
    world.send(Lost(generation, CACHE))
    assert world.send(Gone(generation)) == (Check(A, moves_caches=True),)


def test_newcomer_that_died_in_them_is_tried_again_while_the_old_one_serves() -> None:
    limits = replace(DEFAULT_LIMITS, swap=SwapStrategy.AUTO)
    world = Environment(limits=limits, devices_beside=ROOMY)
    world.play((Want(A), Checked(A, fitted(A)), Ready(1), Want(B), Checked(B, fitted(B))))
    assert world.send(Lost(2, CACHE)) == (Stop(2, at_once=True), Check(B, moves_caches=True))
    world.send(Gone(2))
    assert world.send(Checked(B, fitted(B))) == (Spawn(3, fitted(B)),)
    world.play((Lost(3, CACHE), Gone(3)))
    assert (world.state.goal, world.admitted) == (A, 1)
    assert world.state.rejected is not None
