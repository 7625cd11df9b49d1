"""The lifecycle with memory in play: the gate before a start, other sizes after a failure."""

from dataclasses import replace

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from cahoots_vllm.core.backoff import Limits
from cahoots_vllm.core.diagnosis import Cause, Diagnosis, Figures, Trait
from cahoots_vllm.core.events import (
    Checked,
    CheckFailed,
    Cured,
    Forget,
    Gone,
    Lost,
    Measure,
    Measured,
    Ready,
    Remember,
    Spawn,
    Stop,
    Tick,
    WakeAt,
    Want,
)
from cahoots_vllm.core.evidence import Device, Holder
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory import MemoryLimits, read_sizes
from cahoots_vllm.core.wire import Phase
from unit.core.environment import MENDABLE, A, B, Environment, fitted
from unit.core.test_lifecycle_machine import Lifecycle

pytestmark = pytest.mark.timeout(60)

GIB = 1 << 30
SHARE = "gpu-memory-utilization"
PYTHON = Holder(77, "bob", "python train.py", 18 * GIB)


def gpu(free_gib: float, *holders: Holder) -> Device:
    return Device("GPU-1", "GPU 0 (A)", 24 * GIB, int(free_gib * GIB), holders)


def failure(trait: Trait, figures: Figures = Figures()) -> Diagnosis:  # noqa: B008 (immutable)
    cause = {
        Trait.SERVING: Cause.GPU_OOM_SERVING,
        Trait.KV_NONE: Cause.KV_CACHE_NONE,
        Trait.KV_TOO_SMALL: Cause.KV_CACHE_TOO_SMALL,
        Trait.FREE_TOO_SMALL: Cause.GPU_OOM_STARTUP_FREE,
        Trait.HOST_MEMORY: Cause.HOST_OOM,
    }.get(trait, Cause.GPU_OOM_STARTUP_ALLOC)
    return Diagnosis(cause, f"{trait} happened", "do something", True, trait=trait, figures=figures)  # noqa: FBT003


def sized(goal: LaunchSpec, **options: float) -> LaunchSpec:
    for name, value in options.items():
        goal = goal.with_option(name.replace("_", "-"), value)
    return goal


def closed(**options: float) -> tuple[Environment, LaunchSpec]:
    """Return a world whose gate must be passed, in which A is wanted and checked."""
    goal = sized(A, **options)
    world = Environment(is_gate_open=False)
    world.play((Want(goal), Checked(goal, fitted(goal))))
    return world, goal


def started(free_gib: float = 23.5, **options: float) -> tuple[Environment, LaunchSpec]:
    """Return a world in which A starts with so much free memory."""
    world, goal = closed(**options)
    world.send(Measured(fitted(goal), (gpu(free_gib),)))
    return world, goal


def share_of(world: Environment) -> object:
    live = world.state.live
    assert live is not None
    return live.plan.launch.option(SHARE)


def lose(world: Environment, diagnosis: Diagnosis, free_gib: float = 23.5) -> None:
    """Let the worker fail, go, and the gate be asked for the next one."""
    generation = world.state.generation
    world.play((Lost(generation, diagnosis), Gone(generation)))
    if world.measuring is not None:
        world.send(Measured(world.measuring, (gpu(free_gib),)))


def test_start_is_measured_first() -> None:
    world, goal = closed()
    assert world.measuring == fitted(goal)
    assert world.state.phase is Phase.PREPARING
    effects = world.send(Measured(fitted(goal), (gpu(23.5),)))
    assert effects == (Spawn(1, fitted(goal)),)


def test_answer_of_the_gate_to_another_launch_spec_is_stale() -> None:
    world, _ = closed()
    assert world.send(Measured(fitted(B), (gpu(23.5),))) == ()
    assert world.state.live is None


def test_share_is_fitted_to_what_is_free_before_the_start() -> None:
    world, goal = closed(gpu_memory_utilization=0.9)
    world.send(Measured(fitted(goal), (gpu(18.0, PYTHON),)))
    assert share_of(world) == 0.72
    assert world.state.strikes == ()


def test_foreign_holder_is_waited_for_and_named_and_costs_no_start() -> None:
    world, goal = closed(gpu_memory_utilization=0.9)
    for _ in range(20):
        effects = world.send(Measured(fitted(goal), (gpu(6.0, PYTHON),)))
        assert effects == (WakeAt(world.now + 5.0),)
        assert world.state.phase is Phase.BACKOFF
        assert world.state.shortage is not None
        assert world.state.shortage.holders == (PYTHON,)
        world.now += 5.0
        assert world.send(Tick()) == (Measure(fitted(goal)),)
    failure_ = world.state.last_failure
    assert failure_ is not None
    assert failure_.diagnosis.cause is Cause.GPU_OOM_STARTUP_FREE
    assert "python train.py (pid 77, user bob, 18432 MiB)" in failure_.diagnosis.evidence
    assert world.spawned == ()
    world.send(Measured(fitted(goal), (gpu(23.5),)))
    assert share_of(world) == 0.9
    assert world.state.shortage is None


def test_allocation_failure_after_the_kv_cache_lowers_the_share_at_once() -> None:
    world, goal = started(gpu_memory_utilization=0.9)
    effects = world.send(Lost(1, failure(Trait.AFTER_KV)))
    assert [type(effect) for effect in effects] == [Stop, Remember]
    world.send(Gone(1))
    assert world.measuring == sized(fitted(goal), gpu_memory_utilization=0.85)
    told = world.state.last_failure
    assert told is not None
    assert told.action == "changed gpu-memory-utilization from 0.9 to 0.85"
    assert [(c.option, c.before, c.after) for c in told.changes] == [(SHARE, 0.9, 0.85)]
    assert world.state.strikes == (), "a step of the search is no failure of the goal"


def test_kv_cache_too_small_raises_the_share_while_memory_is_free() -> None:
    world, _ = started(gpu_memory_utilization=0.6)
    figures = Figures(needed_gib=4.0, available_gib=2.0, total_gib=24.0, estimated_len=16384)
    lose(world, failure(Trait.KV_TOO_SMALL, figures))
    share = share_of(world)
    assert isinstance(share, float)
    assert 0.65 <= share <= 0.72


def test_memory_failure_while_serving_is_answered_by_smaller_sizes_too() -> None:
    world, _ = started(gpu_memory_utilization=0.9)
    world.send(Ready(1))
    lose(world, failure(Trait.SERVING))
    assert share_of(world) == 0.85


def test_what_worked_is_remembered_and_is_the_next_starts_first_try() -> None:
    world, goal = started(gpu_memory_utilization=0.9)
    lose(world, failure(Trait.AFTER_KV))
    world.send(Ready(2))
    lesson = world.remembered[-1]
    assert lesson.memory.has_worked
    later = Environment(now=world.now + 60, is_gate_open=False)
    later.play((Want(goal), Checked(goal, fitted(goal), lesson.memory)))
    assert later.measuring == sized(fitted(goal), gpu_memory_utilization=0.85)


def test_with_adapt_off_nothing_is_changed_and_it_says_so() -> None:
    goal = sized(A, gpu_memory_utilization=0.9)
    world = Environment(is_gate_open=False, limits=Limits(memory=MemoryLimits(adapt=False)))
    world.play((Want(goal), Checked(goal, fitted(goal))))
    world.send(Measured(fitted(goal), (gpu(23.5),)))
    lose(world, failure(Trait.AFTER_KV))
    assert world.state.phase is Phase.FAILED
    assert world.state.last_failure is not None
    assert "memory.adapt is off" in world.state.last_failure.action
    assert len(world.spawned) == 1


def test_weights_that_never_fit_are_given_up_with_the_remedy() -> None:
    world, _ = started(gpu_memory_utilization=0.9)
    lose(world, failure(Trait.LOADING))
    assert world.state.phase is Phase.FAILED
    assert len(world.spawned) == 1


def test_swap_whose_memory_search_ends_goes_back_to_the_last_good_sizes() -> None:
    world, goal = started(gpu_memory_utilization=0.9)
    lose(world, failure(Trait.AFTER_KV))
    world.send(Ready(2))
    world.send(Want(B))
    world = world.settle_until_spawned(B)
    generation = world.state.generation
    world.play((Lost(generation, failure(Trait.KV_OVERRIDE)), Gone(generation)))
    assert world.state.goal == goal
    assert world.measuring == sized(fitted(goal), gpu_memory_utilization=0.85)
    assert world.state.rejected is not None
    assert "num-gpu-blocks-override leaves no block" in world.state.rejected.action


DAMAGED = Diagnosis(Cause.CORRUPT_WEIGHTS, "incomplete metadata", "fetch again", False)  # noqa: FBT003


def test_damaged_weights_are_fetched_once_more_and_then_given_up() -> None:
    world = Environment().play((Want(A), Checked(A, fitted(A))))
    world.send(Lost(1, DAMAGED))
    effects = world.send(Gone(1))
    assert [(type(e).__name__, getattr(e, "repairs", None)) for e in effects] == [("Check", True)]
    world.play((Checked(A, fitted(A)), Lost(2, DAMAGED), Gone(2)))
    assert world.state.phase is Phase.FAILED
    assert len(world.spawned) == 2


def test_damage_that_cannot_be_mended_shows_the_engines_words_and_the_file() -> None:
    world = Environment().play((Want(A), Checked(A, fitted(A)), Lost(1, DAMAGED), Gone(1)))
    named = replace(DAMAGED, evidence="model.safetensors: 5 bytes, 9 by its header")
    world.send(CheckFailed(A, named))
    told = world.state.last_failure
    assert told is not None
    assert told.diagnosis.evidence == f"incomplete metadata; {named.evidence}"
    assert world.state.phase is Phase.FAILED
    assert len(world.spawned) == 1


def test_restarts_that_each_leave_less_host_memory_are_a_leak() -> None:
    world = Environment().play((Want(A), Checked(A, fitted(A))))
    for left in (8, 7, 6, 5):
        world.send(Ready(world.state.generation))
        world.send(Lost(world.state.generation, MENDABLE, left * GIB))
        world.send(Gone(world.state.generation))
        if world.wake_at is not None and world.state.retry_at is not None:
            world.now = world.wake_at
            world.send(Tick())
    assert world.state.phase is Phase.FAILED
    assert world.state.last_failure is not None
    assert "each restart left less host memory" in world.state.last_failure.action


def test_gpus_own_fault_is_tried_once_more_only() -> None:
    fault = replace(MENDABLE, cause=Cause.CUDA_DRIVER, trait=Trait.TRANSIENT)
    world = Environment().play((Want(A), Checked(A, fitted(A))))
    world.play((Lost(1, fault), Gone(1)))
    assert world.state.retry_at is not None
    world.now += 1.1
    world.play((Tick(), Lost(2, fault), Gone(2)))
    assert world.state.phase is Phase.FAILED


def test_cure_starts_what_had_failed_and_nothing_else() -> None:
    world = Environment().play((Want(A), CheckFailed(A, DAMAGED)))
    assert [type(e).__name__ for e in world.send(Cured("space was freed"))] == ["Check"]
    assert world.send(Cured("space was freed")) == ()


DEVICES = st.lists(
    st.builds(gpu, st.floats(0.0, 24.0), st.sampled_from((PYTHON, replace(PYTHON, pid=78)))),
    max_size=2,
).map(tuple)
FAILURES = st.builds(
    failure,
    st.sampled_from(Trait),
    st.builds(
        Figures,
        free_gib=st.none() | st.floats(0.0, 30.0),
        total_gib=st.none() | st.floats(0.1, 30.0),
        needed_gib=st.none() | st.floats(0.0, 30.0),
        available_gib=st.none() | st.floats(-10.0, 30.0),
        max_model_len=st.none() | st.integers(1, 200_000),
        estimated_len=st.none() | st.integers(0, 200_000),
    ),
)


class LifecycleWithMemory(Lifecycle):
    """The same machine, with a gate that measures each start and failures of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.world = Environment(is_gate_open=False)

    @precondition(lambda self: self.world.measuring is not None)
    @rule(devices=DEVICES)
    def measure(self, devices: tuple[Device, ...]) -> None:
        if self.world.measuring is not None:
            self._send(Measured(self.world.measuring, devices))

    @precondition(lambda self: bool(self.world.processes))
    @rule(diagnosis=FAILURES, left=st.none() | st.integers(0, 1 << 40))
    def lose_memory(self, diagnosis: Diagnosis, left: int | None) -> None:
        self._send(Lost(self.world.state.generation, diagnosis, left))

    @rule()
    def cure(self) -> None:
        self._send(Cured("something"))

    @rule()
    def forget(self) -> None:
        self._send(Forget(None))

    @invariant()
    def sizes_are_those_of_the_search(self) -> None:
        live = self.world.state.live
        if live is not None:
            assert read_sizes(live.plan.launch) == live.plan.memory.current


TestLifecycleWithMemory = LifecycleWithMemory.TestCase
TestLifecycleWithMemory.settings = hypothesis_settings(max_examples=60, stateful_step_count=40)
