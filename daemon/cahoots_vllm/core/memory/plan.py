"""The answer to a memory failure: other sizes, waiting for somebody, the same again, or the end.

Pure. The direction comes from the diagnosis' trait: the same cause can want more or less.
"""

import math
from dataclasses import dataclass, replace

from cahoots_vllm.core.diagnosis.causes import Diagnosis, Figures, Trait
from cahoots_vllm.core.memory.moves import fitted, next_sizes
from cahoots_vllm.core.memory.room import GIB, Room, Shortage
from cahoots_vllm.core.memory.search import (
    FITTED,
    Attempt,
    Memory,
    MemoryLimits,
    Step,
    changed,
    failed,
    known_to_fail,
    shortest,
)
from cahoots_vllm.core.memory.sizes import Sizes

_UNIT = 1000
_GRID = 10
# A start on a GPU, its imports and pinned buffers; a guess, not measured on such a host.
_HOST_BESIDE_BYTES = 6 * GIB
_TOO_LITTLE = (Trait.KV_NONE, Trait.KV_TOO_SMALL, Trait.HELD_OUTSIDE)


@dataclass(frozen=True, slots=True)
class Next:
    """Start again with other sizes."""

    memory: Memory

    @property
    def step(self) -> Step:
        """What is changed, and why."""
        return self.memory.steps[-1]


@dataclass(frozen=True, slots=True)
class Wait:
    """Start when somebody has given memory back."""

    memory: Memory
    shortage: Shortage


@dataclass(frozen=True, slots=True)
class Same:
    """Start again unchanged, after the ordinary backoff."""

    memory: Memory


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No start can work: a person must act."""

    memory: Memory
    reason: str


Answer = Next | Wait | Same | GiveUp


def plan(
    memory: Memory, diagnosis: Diagnosis, room: Room, limits: MemoryLimits, now: float
) -> Answer | None:
    """Return the answer to a failure, None where memory is not its cause."""
    trait = _effective(diagnosis.trait, memory)
    if trait is None:
        return None
    if trait is Trait.PROFILE_DISTURBED:
        return Same(memory)
    if trait is Trait.KV_OVERRIDE:
        return GiveUp(memory, "num-gpu-blocks-override leaves no block")
    if not limits.adapt:
        return _unadapted(memory, trait, room)
    if trait is Trait.FREE_TOO_SMALL:
        return _fit(memory, diagnosis, room, limits, now)
    return _adapted(memory, replace(diagnosis, trait=trait), room, limits, now)


def _effective(trait: Trait, memory: Memory) -> Trait | None:
    """Return the trait that memory can answer; on the CPU engine host memory is what is shared."""
    match trait:
        case Trait.NONE | Trait.SHARED_MEMORY | Trait.TRANSIENT | Trait.LIMIT:
            return None
        case Trait.HOST_MEMORY:
            return Trait.SERVING if memory.is_cpu else None
        case _:
            return trait


def _unadapted(memory: Memory, trait: Trait, room: Room) -> Answer:
    if trait is Trait.SERVING:
        return Same(memory)  # it was ready: the next load may be kinder
    if trait is Trait.FREE_TOO_SMALL:
        return _wait_or_same(memory, room)
    return GiveUp(memory, "memory.adapt is off in cahoots-vllm.toml: nothing is changed by itself")


def _adapted(
    memory: Memory, diagnosis: Diagnosis, room: Room, limits: MemoryLimits, now: float
) -> Answer:
    trait = diagnosis.trait
    memory = _learned(memory, diagnosis, now)
    if trait is Trait.LOADING and not _may_load_again(memory, room):
        beside = " beside what others hold" if room.has_holders else ""
        reason = f"the weights do not fit{beside}, whatever the share"
    elif memory.tries >= limits.tries:
        reason = f"{limits.tries} sizes were tried"
    else:
        sizes = next_sizes(memory, diagnosis, room, limits)
        if sizes is not None:
            return _next(memory, sizes, diagnosis, now)
        if trait is Trait.LOADING:
            return Same(memory)  # no lower step is left, but what held the memory may be gone
        reason = "no sizes are left to try between the floor and the ceiling"
    return _exhausted(memory, trait, room, limits, Step(now, diagnosis.cause, reason, ()))


def _next(memory: Memory, sizes: Sizes, diagnosis: Diagnosis, now: float) -> Next:
    step = Step(now, diagnosis.cause, diagnosis.evidence, ())
    return Next(replace(changed(memory, sizes, step), tries=memory.tries + 1))


def _learned(memory: Memory, diagnosis: Diagnosis, now: float) -> Memory:
    """Take the failure in: what it says about these sizes."""
    if diagnosis.trait is Trait.LOADING:
        # The share does not bound the weights: nothing is learned about the sizes.
        return replace(memory, loading_failures=memory.loading_failures + 1)
    is_less_wanted = diagnosis.trait not in _TOO_LITTLE
    fits_len = diagnosis.figures.estimated_len
    return failed(memory, Attempt(memory.current, is_less_wanted, now, fits_len))


def _may_load_again(memory: Memory, room: Room) -> bool:
    """Once more, if what somebody else holds may be free by then (or nothing is known)."""
    return memory.loading_failures == 1 and (room.has_holders or not room.devices)


def _exhausted(
    memory: Memory, trait: Trait, room: Room, limits: MemoryLimits, step: Step
) -> Answer:
    """Nothing is left to try here: with the memory that somebody else holds it might be."""
    if trait is Trait.SERVING:
        return Same(memory)  # it was ready: the next load may be kinder
    told = _squeezed(memory, room, limits, step.at)
    for share in range(memory.asked.share, memory.current.share, -limits.step):
        sizes, shortage = replace(memory.asked, share=share), room.shortage(share)
        if shortage is not None and shortage.holders and not known_to_fail(told, sizes):
            step = replace(step, reason=str(shortage))
            waiting = replace(changed(told, sizes, step), tries=0, loading_failures=0)
            return Wait(waiting, shortage)
    remedy = "change what is asked for, or forget what failed with cahootsctl memory reset"
    return GiveUp(memory, f"{step.reason}: {remedy}")


def _squeezed(memory: Memory, room: Room, limits: MemoryLimits, now: float) -> Memory:
    """Take in that the room there is serves nothing: more is needed, and may then be enough."""
    share = max(memory.current.share, room.limit or 0)
    kept = tuple(a for a in memory.failed if not a.took_too_much or a.sizes.share > share)
    sizes = replace(memory.current, share=share, max_model_len=shortest(memory, limits))
    return failed(replace(memory, failed=kept), Attempt(sizes, took_too_much=False, at=now))


def _fit(
    memory: Memory, diagnosis: Diagnosis, room: Room, limits: MemoryLimits, now: float
) -> Answer:
    """Fit the share to what is free, by the engine's own figures; else wait for who holds it."""
    shortage = _shortage(memory, room)
    is_ours = shortage is not None and shortage.is_ours
    if memory.tries < limits.tries and not is_ours:
        shares = (memory.current.share, room.limit, _said_free(diagnosis.figures))
        share = min(share for share in shares if share is not None)
        sizes = fitted(memory, share, room, limits)
        if sizes is not None:
            return _next(memory, sizes, diagnosis, now)
    if shortage is None and memory.tries >= limits.tries:
        return GiveUp(memory, f"{limits.tries} starts found too little free memory")
    return _wait_or_same(memory, room)


def _said_free(figures: Figures) -> int | None:
    """Return the share that the engine found free, less a hundredth."""
    free, total = figures.free_gib, figures.total_gib
    if free is None or total is None or not 0 <= free <= total or total <= 0:
        return None
    return math.floor(_UNIT * free / total / _GRID) * _GRID - _GRID


def _wait_or_same(memory: Memory, room: Room) -> Wait | Same:
    shortage = _shortage(memory, room)
    if shortage is not None:
        return Wait(memory, shortage)
    return Same(replace(memory, tries=memory.tries + 1))  # it seems to be free by now


def _shortage(memory: Memory, room: Room) -> Shortage | None:
    if memory.is_cpu and memory.current.kv_bytes is not None:
        return None  # the share is not looked at (vllm/v1/worker/cpu_worker.py:80); on a GPU it is
    return room.shortage(memory.current.share)


def lacking_beside(memory: Memory, room: Room, host_bytes: int | None) -> str | None:
    """Return what a worker would lack beside one that serves, None where there is room for both.

    Stricter than `gate`: what is not known is not there, and a margin stays. `host_bytes` of host
    memory are available; on a GPU host the imports and buffers of another worker need some too.
    """
    if not room.devices:
        return "it is not known how much memory is free"
    if not memory.is_cpu and (host_bytes is None or host_bytes < _HOST_BESIDE_BYTES):
        return f"less than {_HOST_BESIDE_BYTES // GIB} GiB of host memory are available"
    sizes = memory.current
    return room.lacking_beside(sizes.share, sizes.kv_bytes or 0)


def gate(memory: Memory, room: Room, limits: MemoryLimits, now: float) -> Next | Wait | Same:
    """Decide before a start: go (Same), go with a share that fits what is free, or wait."""
    shortage = _shortage(memory, room)
    if shortage is None:
        return Same(memory)
    may_fit = limits.adapt and not shortage.is_ours
    sizes = fitted(memory, room.limit or 0, room, limits) if may_fit else None
    if sizes is None:
        return Wait(memory, shortage)
    return Next(changed(memory, sizes, Step(now, FITTED, str(shortage), ())))
