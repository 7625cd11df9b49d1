"""A newcomer beside the worker that serves: story by story, and against everything at once."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from cahoots_vllm.core.backoff import DEFAULT_LIMITS
from cahoots_vllm.core.diagnosis import Cause, Diagnosis, Trait
from cahoots_vllm.core.events import (
    Admit,
    Check,
    Checked,
    Drain,
    Drained,
    Event,
    Gone,
    Lost,
    Measure,
    Measured,
    Ready,
    Restart,
    Spawn,
    Stop,
    Unload,
    Want,
)
from cahoots_vllm.core.evidence import Device
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.state import Stage
from cahoots_vllm.core.takeover import taken_over
from cahoots_vllm.core.wire import Phase, SwapStrategy
from unit.core.environment import (
    FATAL,
    MENDABLE,
    ROOMY,
    A,
    B,
    C,
    Environment,
    every_event,
    fitted,
)
from unit.core.test_lifecycle_machine import GOALS, Lifecycle, assert_lively

pytestmark = pytest.mark.timeout(60)

GIB = 1 << 30
FULL = (Device("gpu", "GPU 0", 24 * GIB, 3 * GIB),)
TOO_LARGE = Diagnosis(
    Cause.GPU_OOM_STARTUP_FREE, "it has less", "less", is_retryable=True, trait=Trait.FREE_TOO_SMALL
)
_START_A = (Want(A), Checked(A, fitted(A)), Ready(1))
_B_BESIDE_A = (*_START_A, Want(B), Checked(B, fitted(B)))
_SWITCHED = (*_B_BESIDE_A, Ready(2))

SITUATIONS: dict[str, Sequence[Event]] = {
    "ready": _START_A,
    "newcomer starting": _B_BESIDE_A,
    "restart, newcomer starting": (*_START_A, Restart(), Checked(A, fitted(A))),
    "newcomer stopping": (*_B_BESIDE_A, Want(A)),
    "newcomer stopping, another in preflight": (*_B_BESIDE_A, Want(C)),
    "newcomer alone": (*_B_BESIDE_A, Lost(1, MENDABLE)),
    "newcomer failed once": (*_B_BESIDE_A, Lost(2, MENDABLE)),
    "switched, old draining": _SWITCHED,
    "switched, old stopping": (*_SWITCHED, Drained(1)),
    "switched, old draining, back wanted": (*_SWITCHED, Want(A), Checked(A, fitted(A))),
    "switched, new one lost": (*_SWITCHED, Lost(2, MENDABLE)),
    "off, both stopping": (*_B_BESIDE_A, Want(None), Drained(1)),
    "off, old draining": (*_SWITCHED, Want(None)),
    "idle, old draining": (*_SWITCHED, Unload(600.0)),
    "no room, draining": _START_A,
}


def beside(
    strategy: SwapStrategy = SwapStrategy.AUTO, devices: tuple[Device, ...] = ROOMY
) -> Environment:
    """Return an empty world in which another worker is started beside the one that serves."""
    return Environment(limits=replace(DEFAULT_LIMITS, swap=strategy), devices_beside=devices)


def arrange(name: str) -> Environment:
    """Return a world in the named situation."""
    return beside().play(SITUATIONS[name])


def test_newcomer_starts_beside_and_takes_the_place_once_a_token_came_out() -> None:
    world = beside().play(_START_A)
    world.send(Want(B))
    assert world.send(Checked(B, fitted(B))) == (Spawn(2, fitted(B)),)
    assert world.admitted == 1
    assert world.state.phase is Phase.READY
    assert world.send(Ready(2)) == (Admit(2), Drain(1))
    assert world.state.last_good is not None
    assert world.state.last_good.goal == B
    assert world.state.is_served
    assert world.send(Drained(1)) == (Stop(1, at_once=False),)
    world.send(Gone(1))
    assert world.state.beside is None
    assert world.is_settled


def test_start_beside_another_worker_is_known_as_one_for_as_long_as_it_lives() -> None:
    world = beside().play(_START_A)
    assert world.state.live is not None
    assert not world.state.live.was_beside
    world.play((Want(B), Checked(B, fitted(B)), Ready(2), Drained(1), Gone(1)))
    assert world.state.live is not None
    assert (world.state.live.generation, world.state.live.was_beside) == (2, True)
    world = arrange("newcomer alone")
    assert world.state.live is not None
    assert world.state.live.was_beside


def test_memory_is_looked_at_while_the_old_one_serves() -> None:
    world = beside()
    world.is_gate_open = False
    world.play((Want(A), Checked(A, fitted(A)), Measured(fitted(A), ROOMY), Ready(1), Want(B)))
    assert world.send(Checked(B, fitted(B))) == (Measure(fitted(B), is_beside=True),)
    assert world.send(Measured(fitted(B), ROOMY)) == (), "an answer to another question"
    effects = world.send(Measured(fitted(B), ROOMY, is_beside=True, host_available_bytes=64 * GIB))
    assert effects == (Spawn(2, fitted(B)),)


@pytest.mark.parametrize(
    ("devices", "host_bytes"), [(FULL, 64 * GIB), ((), 64 * GIB), (ROOMY, GIB), (ROOMY, None)]
)
def test_without_room_for_both_the_old_one_goes_first(
    devices: tuple[Device, ...], host_bytes: int | None
) -> None:
    world = beside()
    world.is_gate_open = False
    world.play((Want(A), Checked(A, fitted(A)), Measured(fitted(A), ROOMY), Ready(1), Want(B)))
    world.send(Checked(B, fitted(B)))
    answer = Measured(fitted(B), devices, is_beside=True, host_available_bytes=host_bytes)
    assert world.send(answer) == (Drain(1),)
    world.play((Drained(1), Gone(1)))
    assert world.measuring == fitted(B), "as before each start"


def test_who_insists_on_overlap_is_told_what_is_lacking_and_nothing_changes() -> None:
    world = beside(SwapStrategy.OVERLAP, FULL).play(_START_A)
    world.play((Want(B), Checked(B, fitted(B))))
    assert (world.admitted, world.state.goal) == (1, A)
    rejected = world.state.rejected
    assert rejected is not None
    assert rejected.goal == B
    assert rejected.diagnosis.evidence == (
        "GPU 0 has 3.0 of 24.0 GiB free beside the worker that serves, "
        "22.1 GiB are wanted, and 0.5 GiB to spare"
    )
    assert "sequential" in rejected.diagnosis.remedy


def test_word_of_a_person_goes_before_the_settings() -> None:
    world = beside().play(_START_A)
    world.play((Want(B, SwapStrategy.SEQUENTIAL), Checked(B, fitted(B))))
    assert world.draining == {1}
    other = beside(SwapStrategy.SEQUENTIAL).play(_START_A)
    other.play((Want(B, SwapStrategy.OVERLAP), Checked(B, fitted(B))))
    assert other.starting == 2
    other.play((Ready(2), Drained(1), Gone(1), Want(A), Checked(A, fitted(A))))
    assert other.draining == {2}, "it holds for one swap"


def test_cpu_engines_overlap_only_where_somebody_insists() -> None:
    for strategy, expected in ((SwapStrategy.AUTO, Drain), (SwapStrategy.OVERLAP, Spawn)):
        world = beside(strategy).play(_START_A)
        world.send(Want(B))
        effects = world.send(Checked(B, fitted(B), is_cpu=True))
        assert [type(effect) for effect in effects] == [expected]


def test_newcomer_that_cannot_start_costs_nobody_anything() -> None:
    world = beside().play(_B_BESIDE_A)
    assert world.send(Lost(2, FATAL)) == (Stop(2, at_once=True),)
    assert (world.admitted, world.state.goal) == (1, A)
    assert world.state.rejected is not None
    assert world.state.rejected.action == "kept org/a"
    assert world.state.strikes == ()
    assert world.send(Gone(2)) == ()
    assert world.is_settled


def test_newcomer_that_may_yet_start_gets_a_second_try() -> None:
    world = beside().play((*_B_BESIDE_A, Lost(2, MENDABLE)))
    assert world.send(Gone(2)) == (Spawn(3, fitted(B)),)
    world.send(Lost(3, MENDABLE))
    assert (world.admitted, world.state.goal) == (1, A)
    assert world.state.starts_in_a_row == 0


def test_newcomer_without_enough_memory_is_started_alone() -> None:
    world = beside().play((*_B_BESIDE_A, Lost(2, TOO_LARGE)))
    assert world.state.last_failure is not None
    assert world.state.last_failure.action == "starting it once org/a has made room"
    assert world.draining == {1}
    world.play((Gone(2), Drained(1)))
    assert world.send(Gone(1)) == (Spawn(3, fitted(B)),)
    world.play((Lost(3, FATAL), Gone(3)))
    assert world.state.goal == A, "the transaction's other half"


def test_damaged_files_are_fetched_again_while_the_old_one_serves() -> None:
    damaged = Diagnosis(Cause.CORRUPT_WEIGHTS, "cut short", "again", is_retryable=False)
    world = beside().play(_B_BESIDE_A)
    assert world.send(Lost(2, damaged)) == (Stop(2, at_once=True), Check(B, repairs=True))
    assert world.admitted == 1


def test_old_one_that_dies_meanwhile_leaves_its_place_to_the_newcomer() -> None:
    world = beside().play(_B_BESIDE_A)
    assert world.send(Lost(1, MENDABLE)) == (Stop(1, at_once=True),)
    assert world.state.phase is Phase.STARTING
    failure = world.state.last_failure
    assert failure is not None, "nobody would know"
    assert (failure.goal, failure.diagnosis) == (A, MENDABLE)
    assert failure.action == "org/b takes its place, which is starting already"
    assert world.send(Ready(2)) == (Admit(2),)
    assert (world.state.strikes, world.state.restarts) == ((), 0)
    world.send(Gone(1))
    assert world.is_settled


def test_new_one_that_dies_at_once_is_started_again_when_the_old_one_is_gone() -> None:
    world = beside().play((*_SWITCHED, Lost(2, MENDABLE)))
    world.send(Gone(2))
    assert world.settle().is_settled
    world.now += 5.0
    assert world.draining == {1}, "its requests end as they would have"


def test_start_beside_that_is_under_way_goes_on_where_it_is_to_be_done_otherwise_now() -> None:
    world = arrange("newcomer starting")
    assert world.send(Want(B, SwapStrategy.SEQUENTIAL)) == ()
    assert world.state.phase is Phase.READY
    assert world.send(Ready(2)) == (Admit(2), Drain(1))


def test_swap_taken_back_ends_the_newcomer_only() -> None:
    world = beside().play(_B_BESIDE_A)
    assert world.send(Want(A)) == (Stop(2, at_once=True),)
    assert world.admitted == 1
    assert world.send(Ready(2)) == (), "too late"


def test_stop_ends_both() -> None:
    world = beside().play(_B_BESIDE_A)
    assert world.send(Want(None)) == (Stop(2, at_once=True), Drain(1))
    world.play((Gone(2), Drained(1), Gone(1)))
    assert world.state.phase is Phase.OFF


def test_next_swap_waits_until_the_old_one_is_gone() -> None:
    world = beside().play((*_SWITCHED, Want(C), Checked(C, fitted(C))))
    assert world.admitted == 2
    assert world.spawned[-1] == fitted(B)
    world.play((Drained(1), Gone(1)))
    assert world.spawned[-1] == fitted(C)
    assert world.admitted == 2


def test_restart_puts_a_fresh_one_beside() -> None:
    world = beside().play((*_START_A, Restart()))
    assert world.send(Checked(A, fitted(A))) == (Spawn(2, fitted(A)),)
    assert world.send(Ready(2)) == (Admit(2), Drain(1))


def test_restart_is_not_bound_by_how_an_earlier_swap_was_to_be_done() -> None:
    world = beside().play((*_START_A, Want(A, SwapStrategy.SEQUENTIAL), Restart()))
    assert world.send(Checked(A, fitted(A))) == (Spawn(2, fitted(A)),)


def test_next_daemon_goes_on_with_the_one_that_serves() -> None:
    for name in ("newcomer starting", "switched, old draining"):
        state = arrange(name).state
        after = taken_over(state)
        assert after.beside is None
        assert after.live is not None
        assert after.live.stage is Stage.READY
        assert after.goal == B


def _no_room(world: Environment) -> Environment:
    return replace(world, devices_beside=FULL)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_any_three_events_in_any_situation_come_to_rest(situation: str) -> None:
    worlds = [arrange(situation), _no_room(arrange(situation))]
    for _ in range(3):
        further: dict[object, Environment] = {}
        for world in worlds:
            for answer in every_event((A, B)).values():
                after = replace(world)
                after.send(answer(after))
                if after.state != world.state:
                    further[after.state, after.devices_beside] = after
        worlds = list(further.values())
        for world in worlds:
            assert_lively(world)


class Overlap(Lifecycle):
    """Everything that can happen, with two workers at times, and room for both or not."""

    def __init__(self) -> None:
        """Begin with nothing wanted."""
        super().__init__()
        self.world = beside()

    @rule(devices=st.sampled_from((ROOMY, FULL, ())))
    def others_take_memory(self, devices: tuple[Device, ...]) -> None:
        """What is free changes by itself."""
        self.world.devices_beside = devices

    @rule(goal=GOALS, strategy=st.sampled_from(tuple(SwapStrategy)))
    def want_so(self, goal: LaunchSpec, strategy: SwapStrategy) -> None:
        """Ask for a way to get there."""
        self._send(Want(goal, strategy))


TestOverlap = Overlap.TestCase
TestOverlap.settings = hypothesis_settings(max_examples=100, stateful_step_count=40)
