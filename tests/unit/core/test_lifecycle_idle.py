"""A worker that nobody asks for anything is unloaded, and comes back with the next request."""

import pytest

from cahoots_vllm.core.events import (
    Admit,
    Checked,
    Drain,
    Drained,
    Gone,
    Lost,
    Ready,
    Restart,
    Spawn,
    Stop,
    Unload,
    Wake,
    Want,
)
from cahoots_vllm.core.state import Idle
from cahoots_vllm.core.takeover import first_event, taken_over
from cahoots_vllm.core.wire import Phase
from unit.core.environment import MENDABLE, A, B, Environment, every_event, fitted
from unit.core.situations import SITUATIONS, arrange


def test_unloaded_worker_is_drained_and_nothing_starts_in_its_place() -> None:
    world = arrange("ready")
    assert world.send(Unload(600.0)) == (Drain(1),)
    assert world.send(Drained(1)) == (Stop(1, at_once=False),)
    assert world.send(Gone(1)) == ()
    assert (world.state.phase, world.state.goal) == (Phase.OFF, A)
    assert world.state.idle == Idle(world.now, 600.0)


def test_request_brings_it_back_without_another_preflight() -> None:
    world = arrange("idle")
    assert world.send(Wake()) == (Spawn(2, fitted(A)),)
    assert world.send(Ready(2)) == (Admit(2),)
    assert world.state.idle is None


def test_request_in_time_takes_the_worker_back_without_a_start() -> None:
    world = arrange("draining, idle")
    assert world.send(Wake()) == (Admit(1),)
    assert world.send(Drained(1)) == (), "the drain was taken back"
    assert world.settle().spawned == (fitted(A),)


def test_request_while_it_stops_starts_it_again_as_soon_as_it_is_gone() -> None:
    world = arrange("stopping, idle")
    assert world.send(Wake()) == ()
    assert world.send(Gone(1)) == (Spawn(2, fitted(A)),)


def test_death_on_the_way_out_is_no_failure_and_starts_nothing() -> None:
    world = arrange("draining, idle").play((Lost(1, MENDABLE), Gone(1)))
    assert (world.state.phase, world.state.last_failure) == (Phase.OFF, None)


@pytest.mark.parametrize("situation", ["draining, idle", "stopping, idle", "idle"])
def test_stop_by_a_person_outlasts_every_request(situation: str) -> None:
    world = arrange(situation).play((Want(None), Wake()))
    settled = world.settle()
    assert (settled.state.phase, settled.state.goal) == (Phase.OFF, None)
    assert settled.spawned == (fitted(A),)


@pytest.mark.parametrize("situation", ["draining, idle", "stopping, idle", "idle"])
def test_restart_gives_a_fresh_worker(situation: str) -> None:
    world = arrange(situation)
    world.send(Restart())
    settled = world.settle()
    assert settled.admitted == 2


def test_worker_about_to_be_replaced_is_not_unloaded() -> None:
    world = arrange("ready, swap in preflight")
    assert world.send(Unload(600.0)) == ()
    world.send(Checked(B, fitted(B)))
    assert world.settle().spawned[-1] == fitted(B)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_whatever_was_unloaded_anywhere_comes_back_with_a_request(situation: str) -> None:
    for answer in every_event().values():
        world = arrange(situation)
        world.send(answer(world))
        goal = world.state.goal
        world.play((Unload(1.0), Wake()))
        settled = world.settle()
        assert settled.state.idle is None
        assert settled.state.phase is not Phase.OFF or goal is None


def test_next_daemon_leaves_it_unloaded_until_its_model_is_asked_for() -> None:
    state = taken_over(arrange("idle").state)
    world = Environment(state=state)
    world.send(first_event(state, A, was_local=True))
    assert (world.state.phase, world.spawned) == (Phase.OFF, ())
    world.send(Wake())
    assert world.settle().spawned == (fitted(A),)


def test_next_daemon_starts_another_model_that_was_configured_meanwhile() -> None:
    state = taken_over(arrange("idle").state)
    world = Environment(state=state)
    world.send(first_event(state, B, was_local=True))
    assert world.settle().spawned == (fitted(B),)


def test_next_daemon_goes_on_with_the_drain() -> None:
    before = arrange("draining, idle")
    state = taken_over(before.state)
    world = Environment(state=state, processes=frozenset({1}), admitted=1)
    assert world.send(first_event(state, A, was_local=True)) == (Drain(1),)
    assert world.settle().state.phase is Phase.OFF
