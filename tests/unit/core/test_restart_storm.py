"""No restart storm: how often each cause starts the engine in ten minutes, at the very worst.

The engine fails the same way for ever, at once, and nobody acts. Prints the table (pytest -rP).
"""

from dataclasses import replace

import pytest

from cahoots_vllm.core.diagnosis import Cause, Diagnosis, Figures, Trait
from cahoots_vllm.core.events import Checked, Gone, Lost, Measured, Ready, Tick, Want
from cahoots_vllm.core.evidence import Device
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.wire import Phase
from unit.core.environment import A, Environment, fitted

WINDOW_S = 600.0
GIB = 1 << 30
GPU = Device("GPU-1", "GPU 0", 24 * GIB, int(23.5 * GIB))
MEMORY_TRAITS = {
    Trait.FREE_TOO_SMALL: Cause.GPU_OOM_STARTUP_FREE,
    Trait.HELD_OUTSIDE: Cause.GPU_OOM_STARTUP_FREE,
    Trait.KV_BYTES_TOO_LARGE: Cause.GPU_OOM_STARTUP_FREE,
    Trait.PROFILE_DISTURBED: Cause.GPU_OOM_STARTUP_FREE,
    Trait.LOADING: Cause.GPU_OOM_STARTUP_ALLOC,
    Trait.PROFILING: Cause.GPU_OOM_STARTUP_ALLOC,
    Trait.SAMPLER: Cause.GPU_OOM_STARTUP_ALLOC,
    Trait.AFTER_KV: Cause.GPU_OOM_STARTUP_ALLOC,
    Trait.SERVING: Cause.GPU_OOM_SERVING,
    Trait.KV_NONE: Cause.KV_CACHE_NONE,
    Trait.KV_OVERRIDE: Cause.KV_CACHE_NONE,
    Trait.KV_TOO_SMALL: Cause.KV_CACHE_TOO_SMALL,
    Trait.HOST_MEMORY: Cause.HOST_OOM,
    Trait.SHARED_MEMORY: Cause.HOST_OOM,
    Trait.TRANSIENT: Cause.CUDA_DRIVER,
    Trait.LIMIT: Cause.ENGINE_DEAD_OTHER,
}
FINAL = frozenset(
    {
        Cause.HUB_AUTH,
        Cause.HUB_NOT_FOUND,
        Cause.DISK_FULL,
        Cause.BAD_ARGUMENTS,
        Cause.CORRUPT_WEIGHTS,
        Cause.MISSING_DEPENDENCY,
    }
)
# The stated bound: tries of a search and the start that began it, or the budget of five.
SEARCH, BUDGET = 11, 5
BOUNDS = dict.fromkeys(MEMORY_TRAITS, SEARCH) | {
    Trait.PROFILE_DISTURBED: BUDGET,
    Trait.KV_OVERRIDE: 1,
    Trait.HOST_MEMORY: BUDGET,
    Trait.SHARED_MEMORY: BUDGET,
    Trait.TRANSIENT: 2,
    Trait.LIMIT: BUDGET,
    # With nothing smaller left to try it is a failure like any other: it was ready once.
    Trait.SERVING: SEARCH + BUDGET,
}
FIGURES = Figures(
    free_gib=20.0, total_gib=24.0, needed_gib=6.0, available_gib=2.0, estimated_len=9000
)


def starts_of(diagnosis: Diagnosis, goal: LaunchSpec, *, serves_first: bool) -> tuple[int, Phase]:
    """Return how many starts there are in ten minutes, and where it ends."""
    world = Environment(is_gate_open=False)
    world.play((Want(goal),))
    begun = world.now
    while world.now - begun < WINDOW_S and world.state.phase is not Phase.FAILED:
        if world.checking is not None:
            world.send(Checked(world.checking, fitted(world.checking)))
        elif world.measuring is not None:
            world.send(Measured(world.measuring, (GPU,)))
        elif world.starting is not None:
            generation = world.starting
            if serves_first:
                world.send(Ready(generation))
            world.send(Lost(generation, diagnosis))
            world.send(Gone(generation))
        elif world.wake_at is not None:
            world.now = max(world.now, world.wake_at)
            world.send(Tick())
    return len(world.spawned), world.state.phase


def _diagnosis(cause: Cause, trait: Trait) -> Diagnosis:
    is_retryable = cause not in FINAL
    return Diagnosis(cause, "it failed", "mend it", is_retryable, trait=trait, figures=FIGURES)


# What is taken away, or moved aside, after the first start is worth one more.
MENDED = {Cause.CORRUPT_WEIGHTS: 2, Cause.CACHE_DAMAGED: 1 + BUDGET}
CASES = [(cause, trait, BOUNDS[trait]) for trait, cause in MEMORY_TRAITS.items()] + [
    (cause, Trait.NONE, MENDED.get(cause, 1 if cause in FINAL else BUDGET))
    for cause in Cause
    if cause not in {*MEMORY_TRAITS.values(), Cause.NOT_A_FAILURE, Cause.HUB_NETWORK}
]


@pytest.mark.parametrize("serves_first", [False, True])
@pytest.mark.parametrize(("cause", "trait", "bound"), CASES)
def test_worst_case_of_a_cause_starts_the_engine_so_often(
    cause: Cause,
    trait: Trait,
    bound: int,
    serves_first: bool,  # noqa: FBT001 (drawn by pytest)
) -> None:
    goal = A.with_option("gpu-memory-utilization", 0.9).with_option("max-model-len", 32768)
    if trait is Trait.KV_BYTES_TOO_LARGE:
        goal = goal.with_option("kv-cache-memory-bytes", 64 * GIB)
    starts, phase = starts_of(_diagnosis(cause, trait), goal, serves_first=serves_first)
    when = "while serving" if serves_first else "at start"
    print(f"{cause:24} {trait:20} {when:14} {starts:3} starts, at most {bound}, then {phase}")  # noqa: T201 (a figure)
    assert starts <= bound
    assert phase is Phase.FAILED


def test_hub_out_of_reach_is_tried_at_most_once_a_minute_and_never_given_up() -> None:
    diagnosis = _diagnosis(Cause.HUB_NETWORK, Trait.NONE)
    starts, phase = starts_of(diagnosis, A, serves_first=False)
    print(f"{diagnosis.cause}: {starts} starts in ten minutes")  # noqa: T201 (a figure)
    assert starts <= 16
    assert phase is not Phase.FAILED


def test_alternating_causes_end_too() -> None:
    """A memory step is no failure of the goal: mixed with others it must not go on for ever."""
    world = Environment(is_gate_open=False)
    goal = A.with_option("gpu-memory-utilization", 0.9)
    world.play((Want(goal), Checked(goal, fitted(goal))))
    causes = [
        _diagnosis(Cause.GPU_OOM_STARTUP_ALLOC, Trait.AFTER_KV),
        _diagnosis(Cause.UNKNOWN, Trait.NONE),
    ]
    for turn in range(100):
        if world.state.phase is Phase.FAILED:
            break
        if world.measuring is not None:
            world.send(Measured(world.measuring, (GPU,)))
        if world.starting is not None:
            generation = world.starting
            world.play((Lost(generation, causes[turn % 2]), Gone(generation)))
        if world.wake_at is not None and world.state.retry_at is not None:
            world.now = world.wake_at
            world.send(Tick())
    assert world.state.phase is Phase.FAILED
    assert len(world.spawned) <= SEARCH + BUDGET


def test_damage_counts_two_starts_only_where_it_can_be_fetched_again() -> None:
    diagnosis = replace(_diagnosis(Cause.CORRUPT_WEIGHTS, Trait.NONE))
    assert starts_of(diagnosis, A, serves_first=False)[0] == 2
