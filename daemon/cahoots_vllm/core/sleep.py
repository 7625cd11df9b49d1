"""When a worker that makes room may sleep instead of ending, and when a sleeper has to end.

A sleeper has given its GPUs' memory back and keeps its weights in host memory (vLLM's sleep mode,
level 1). Pure: the lifecycle only says who may; control.sleepers does it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cahoots_vllm.core.amounts import size_text
from cahoots_vllm.core.launch import LaunchSpec, can_sleep
from cahoots_vllm.core.state import Live, State
from cahoots_vllm.core.wire import SwapStrategy

NOT_ON_CPU: Final = "sleep is not available on the CPU engine; swaps are sequential"
# A CUDA context, graphs and NCCL's buffers stay. A worker takes 0.9 of a GPU where nobody says
# otherwise: what is more than the other tenth would be in the next one's way.
_STAYING_SHARE: Final = 0.10
# A worker that is smaller than that tenth has given back its weights and its cache, or nothing.
_STAYING_PART: Final = 0.50


def sleeps_for(state: State, live: Live, strategy: SwapStrategy) -> LaunchSpec | None:
    """Return the goal that a drained worker may sleep for, None where it has to end.

    It sleeps where another model takes its place: not when nothing is wanted any more, nor when a
    person has asked for a fresh one of the same, whatever else is wanted since.
    """
    goal = live.plan.goal
    is_swapped = state.goal is not None and state.goal != goal
    if strategy is not SwapStrategy.SLEEP or not is_swapped or live.is_leaving:
        return None
    return goal if can_sleep(live.plan.launch) else None


@dataclass(frozen=True, slots=True)
class Held:
    """What a worker holds of one GPU, in bytes."""

    index: int
    total_bytes: int
    held_bytes: int


def why_still_held(before: Sequence[Held], after: Sequence[Held]) -> str | None:
    """Return which GPU's memory a sleeper has not given back, None where it has."""
    now = {gpu.index: gpu.held_bytes for gpu in after}
    holding = [gpu for gpu in before if gpu.held_bytes > 0]
    if not holding:
        return "the driver shows no memory of a GPU, beside the host's, that it held"
    for gpu in holding:
        left = now.get(gpu.index)
        if left is None:
            return f"GPU {gpu.index} does not answer any more"
        most = min(gpu.total_bytes * _STAYING_SHARE, gpu.held_bytes * _STAYING_PART)
        if left > most:
            held, limit = size_text(gpu.held_bytes), size_text(most)
            return (
                f"it held {held} of GPU {gpu.index} and still holds {size_text(left)}, "
                f"more than {limit}"
            )
    return None


def budget_bytes(limit: int | None, available: int, held: Sequence[int]) -> int:
    """Return how much host memory sleepers may hold together, in bytes.

    Without a `limit` it is half of what would be available without them: the next worker loads its
    weights through the other half, and whoever else is on this host lives in it.
    """
    return limit if limit is not None else (available + sum(held)) // 2


def count_to_end(need: int, held: Sequence[int], budget: int) -> int | None:
    """Return how many of the sleepers, the one of longest ago first, end for `need` more bytes.

    None: it would not fit alone either.
    """
    if need > budget:
        return None
    left = list(held)
    while left and sum(left) + need > budget:
        left.pop(0)
    return len(held) - len(left)
