"""The lifecycle when others hold the memory, when a search is cut short, and when forgotten."""

from cahoots_vllm.core.diagnosis import Trait
from cahoots_vllm.core.events import Checked, Forget, Gone, Lost, Measured, Ready, Tick, Want
from cahoots_vllm.core.evidence import Holder
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory import known_to_fail, read_sizes
from cahoots_vllm.core.wire import Phase
from unit.core.environment import A, B, Environment, fitted
from unit.core.test_lifecycle_memory import (
    PYTHON,
    closed,
    failure,
    gpu,
    lose,
    share_of,
    sized,
    started,
)


def measured_for_b(*holders: Holder) -> tuple[Environment, LaunchSpec]:
    """Return a world in which A was ready, and B has just met 6 GiB of free memory."""
    world, goal = started(gpu_memory_utilization=0.2)
    wanted = sized(B, gpu_memory_utilization=0.9)
    world.play((Ready(1), Want(wanted), Checked(wanted, fitted(wanted))))
    while world.measuring is None:
        world.send(world.next_answers()[0])
    world.send(Measured(world.measuring, (gpu(6.0, *holders),)))
    return world, goal


def test_swap_that_would_wait_for_others_goes_back_to_what_served() -> None:
    world, goal = measured_for_b(PYTHON)
    assert world.state.goal == goal
    assert world.measuring == fitted(goal)
    rejected = world.state.rejected
    assert rejected is not None
    assert "python train.py (pid 77" in rejected.diagnosis.evidence
    assert rejected.action == "went back to org/a"
    assert "by itself" not in rejected.diagnosis.remedy, "it is not waited for"


def test_holders_nobody_can_see_are_said_to_be_there() -> None:
    world, _ = measured_for_b()
    assert world.state.rejected is not None
    assert "held by processes not visible here" in world.state.rejected.diagnosis.evidence


def test_wait_is_one_wait_however_the_holders_memory_moves() -> None:
    world, goal = closed(gpu_memory_utilization=0.9)
    world.send(Measured(fitted(goal), (gpu(6.0, PYTHON),)))
    first = world.state.last_failure
    for mib in range(1, 5):
        world.now += 5.0
        world.send(Tick())
        assert world.state.phase is Phase.BACKOFF, "no flicker while it looks again"
        grown = Holder(PYTHON.pid, PYTHON.user, PYTHON.command, (18 << 30) + (mib << 20))
        world.send(Measured(fitted(goal), (gpu(6.0, grown),)))
    assert world.state.last_failure is first
    world.now += 5.0
    world.send(Tick())
    world.send(Measured(fitted(goal), (gpu(6.0, Holder(78, "eve", "blender")),)))
    assert world.state.last_failure is not first, "another holder is news"


def test_share_that_was_fitted_to_what_others_hold_is_told_and_not_kept() -> None:
    world, goal = closed(gpu_memory_utilization=0.9)
    world.send(Measured(fitted(goal), (gpu(18.0, PYTHON),)))
    told = world.state.last_failure
    assert told is not None
    assert told.action == "changed gpu-memory-utilization from 0.9 to 0.72"
    world.send(Ready(1))
    lesson = world.remembered[-1].memory
    later = Environment(now=world.now + 60, is_gate_open=False)
    later.play((Want(goal), Checked(goal, fitted(goal), lesson)))
    assert later.measuring == fitted(goal), (
        "what is free is looked at again, not climbed to in days"
    )


def test_search_of_a_swap_ends_before_users_wait_for_all_of_it_and_goes_on_next_time() -> None:
    world, goal = started(gpu_memory_utilization=0.9)
    wanted = sized(B, gpu_memory_utilization=0.9)
    world.play((Ready(1), Want(wanted), Checked(wanted, fitted(wanted))))
    while world.state.generation == 1:
        if world.measuring is not None:
            world.send(Measured(world.measuring, (gpu(23.5),)))
        else:
            world.send(world.next_answers()[0])
    starts = 0
    while world.state.goal == wanted:
        starts += 1
        lose(world, failure(Trait.AFTER_KV))
        assert starts < 20
    assert starts == world.limits.unproven_sizes
    assert world.state.goal == goal
    lesson = world.remembered[-1].memory
    again = Environment(is_gate_open=False)
    again.play((Want(wanted), Checked(wanted, fitted(wanted), lesson)))
    assert again.measuring is not None
    assert not known_to_fail(lesson, read_sizes(again.measuring))
    assert read_sizes(again.measuring).share < 700


def test_forgetting_gives_the_next_start_what_is_asked_for() -> None:
    world, goal = started(gpu_memory_utilization=0.9)
    lose(world, failure(Trait.AFTER_KV))
    assert share_of(world) == 0.85
    world.send(Forget(goal.source))
    assert share_of(world) == 0.85, "a worker that runs is left alone"
    world.play((Lost(2, failure(Trait.NONE)), Gone(2)))
    if world.wake_at is not None:
        world.now = world.wake_at
        world.send(Tick())
    assert world.measuring == fitted(goal)


def test_forgetting_another_model_changes_nothing() -> None:
    world, _ = started(gpu_memory_utilization=0.9)
    lose(world, failure(Trait.AFTER_KV))
    before = world.state
    world.send(Forget("org/other"))
    assert world.state == before
    world.send(Forget(A.source))
    assert world.state != before


def test_fallback_does_not_begin_with_sizes_that_have_failed_since() -> None:
    world, _ = started(gpu_memory_utilization=0.9)
    world.send(Ready(1))
    lose(world, failure(Trait.SERVING))
    assert share_of(world) == 0.85
    world.play((Want(B), Checked(B, fitted(B)), Gone(2)))  # before those sizes were ever ready
    assert world.measuring == fitted(B)
    world.send(Measured(fitted(B), (gpu(23.5),)))
    generation = world.state.generation
    world.play((Lost(generation, failure(Trait.KV_OVERRIDE)), Gone(generation)))
    assert world.measuring is not None
    assert world.measuring.option("gpu-memory-utilization") == 0.85


def test_what_was_forgotten_during_a_start_is_not_learned_again_when_it_is_ready() -> None:
    world, goal = started(gpu_memory_utilization=0.9)
    lose(world, failure(Trait.AFTER_KV))
    world.send(Forget(None))
    told = len(world.remembered)
    world.send(Ready(2))
    assert len(world.remembered) == told
    assert world.state.last_good is not None
    assert world.state.last_good.launch == fitted(goal)
