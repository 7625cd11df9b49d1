"""What may be tried next after a failure: the levers, their order, and the bounds they respect."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import assert_never

from cahoots_vllm.core.diagnosis.causes import Diagnosis, Figures, Trait
from cahoots_vllm.core.memory.room import GIB, Room
from cahoots_vllm.core.memory.search import (
    FIRST_BATCH,
    FIRST_SEQS,
    KV_STEP,
    Attempt,
    Memory,
    MemoryLimits,
    amount,
    floor,
    known_to_fail,
    shortest,
)
from cahoots_vllm.core.memory.sizes import Sizes

_UNIT = 1000
_GRID = 10
_MIB = 1 << 20
_LEAST_KV_BYTES = 64 * _MIB
_KV_ROUNDING = 1.02  # vLLM prints hundredths of a GiB
_LEAST_BATCH, _LEAST_SEQS = 512, 16
_HIGHEST = 980  # above it the GPU's own context does not fit beside
_ABSURD_GIB = 1 << 20


def next_sizes(
    memory: Memory, diagnosis: Diagnosis, room: Room, limits: MemoryLimits
) -> Sizes | None:
    """Return the best sizes that are allowed and not known to fail; None: nothing is left."""
    good = () if memory.good is None else (memory.good,)
    return _first((*good, *_moves(memory, diagnosis, room, limits)), memory, room, limits)


def fitted(memory: Memory, share: int, room: Room, limits: MemoryLimits) -> Sizes | None:
    """Return the current sizes at a lower share, None if that may not be tried.

    The context is shortened where it is known that the whole one does not fit there, best to what
    did fit in as little; else a start there will tell.
    """
    if share >= memory.current.share:
        return None
    sizes = replace(memory.current, share=share)
    lows = _too_little(memory)
    known = _shortened(memory, sizes, [low for low in lows if low.sizes.share <= share])
    return _first((sizes, *known, *_shortened(memory, sizes, lows)), memory, room, limits)


def _first(
    moves: tuple[Sizes, ...], memory: Memory, room: Room, limits: MemoryLimits
) -> Sizes | None:
    for sizes in moves:
        if is_allowed(memory, sizes, room, limits) and not known_to_fail(memory, sizes):
            return sizes
    return None


def ceiling(memory: Memory, room: Room) -> int:
    """Return the highest share that may be tried: what is free less a margin, else the asked."""
    limit = room.limit
    if limit is None:
        return memory.asked.share
    return min(limit, max(_HIGHEST, memory.asked.share))


def is_allowed(memory: Memory, sizes: Sizes, room: Room, limits: MemoryLimits) -> bool:
    """Return whether a change respects floor, ceiling and the shortest context."""
    now = memory.current
    if sizes == now:
        return False
    if sizes.share > now.share and sizes.share > ceiling(memory, room):
        return False
    if sizes.share < now.share and sizes.share < floor(memory, limits):
        return False
    return _is_length_allowed(memory, sizes, limits) and _is_kv_allowed(memory, sizes, room)


def _is_length_allowed(memory: Memory, sizes: Sizes, limits: MemoryLimits) -> bool:
    now, length = memory.current.max_model_len, sizes.max_model_len
    if length == now:
        return True
    is_shorter = length is not None and (now is None or length < now)
    return is_shorter and length is not None and length >= shortest(memory, limits)


def _is_kv_allowed(memory: Memory, sizes: Sizes, room: Room) -> bool:
    now, wanted = memory.current.kv_bytes, sizes.kv_bytes
    if now is None or wanted is None or wanted == now:
        return wanted == now
    if wanted < now:
        return wanted >= _LEAST_KV_BYTES
    spare = room.spare_bytes
    return wanted <= (spare if spare is not None else memory.asked.kv_bytes or 0)


def _moves(
    memory: Memory, diagnosis: Diagnosis, room: Room, limits: MemoryLimits
) -> Iterator[Sizes]:
    """Yield what to try, the best first; the caller drops what is not allowed or known to fail."""
    now = memory.current
    match diagnosis.trait:
        case Trait.AFTER_KV | Trait.SERVING:
            yield from _less(memory, limits)
            yield from _fewer(now)
        case Trait.SAMPLER:
            yield _fewer_seqs(now)
            yield from _less(memory, limits)
            yield from _fewer(now)
        case Trait.PROFILING:
            yield _fewer_both(now)
            yield from _less(memory, limits)
        case Trait.LOADING:
            yield from _less(memory, limits)
        case Trait.KV_TOO_SMALL:
            yield from _for_the_context(memory, diagnosis, room, limits)
        case Trait.KV_NONE:
            yield from _enough(now, diagnosis, room) or _more(memory, room, limits)
            yield _fewer_both(now)
        case Trait.HELD_OUTSIDE:
            yield from _more(memory, room, limits)
        case Trait.KV_BYTES_TOO_LARGE:
            yield from _what_is_free(memory, diagnosis.figures, limits)
        case (
            Trait.NONE | Trait.FREE_TOO_SMALL | Trait.PROFILE_DISTURBED | Trait.KV_OVERRIDE
            | Trait.HOST_MEMORY | Trait.SHARED_MEMORY | Trait.TRANSIENT | Trait.LIMIT
        ):  # fmt: skip
            return  # answered before
        case _:
            assert_never(diagnosis.trait)


def _for_the_context(
    memory: Memory, diagnosis: Diagnosis, room: Room, limits: MemoryLimits
) -> Iterator[Sizes]:
    """Yield room for the whole context, else a shorter one, else what makes that one longer."""
    yield from _enough(memory.current, diagnosis, room) or _more(memory, room, limits)
    yield from _shorter(memory, diagnosis)
    if memory.current.kv_bytes is None:
        yield replace(memory.current, share=ceiling(memory, room))
        yield from _more(memory, room, limits)
        yield _fewer_both(memory.current)


def _less(memory: Memory, limits: MemoryLimits) -> Iterator[Sizes]:
    """Yield smaller sizes: a step down, the middle of the bracket, at last a shorter context."""
    now = memory.current
    size = amount(now)
    lows = [low for low in _too_little(memory) if amount(low.sizes) < size]
    low = max((amount(low.sizes) for low in lows), default=0)
    if now.kv_bytes is None:
        yield replace(now, share=_grid(size - limits.step))
        yield replace(now, share=_grid((low + size) // 2))
        yield replace(now, share=min(floor(memory, limits), size))
    # Where what fits the GPU is too small for the context, the context gives way.
    for attempt in sorted(lows, key=lambda each: -amount(each.sizes)):
        known = attempt.sizes
        sizes = replace(now, share=min(now.share, known.share), kv_bytes=known.kv_bytes)
        yield from _shortened(memory, sizes, [attempt])
    if now.kv_bytes is not None:  # no grid: closing the bracket would take every try
        yield _fewer_bytes(memory, int(size * KV_STEP))
        yield _fewer_bytes(memory, (low + size) // 2)


def _fewer_bytes(memory: Memory, size: int) -> Sizes:
    """Return the sizes with so many KV bytes, and no longer a context than is known to fit them."""
    now = memory.current
    lengths = [
        low.fits_len * size // low.sizes.kv_bytes
        for low in _too_little(memory)
        if low.fits_len is not None and low.sizes.kv_bytes
    ]
    length = _blocks(max(lengths), memory.block) if lengths else None
    if length is not None and (now.max_model_len is None or length < now.max_model_len):
        now = replace(now, max_model_len=length)
    return replace(now, kv_bytes=_whole_mib(size))


def _too_little(memory: Memory) -> list[Attempt]:
    has_bytes = memory.current.kv_bytes is not None
    return [
        attempt
        for attempt in memory.failed
        if not attempt.took_too_much and (attempt.sizes.kv_bytes is not None) == has_bytes
    ]


def _shortened(memory: Memory, sizes: Sizes, lows: list[Attempt]) -> Iterator[Sizes]:
    """Yield the sizes with the contexts that the engine said would have fitted, longest first."""
    lengths = {low.fits_len for low in lows if low.fits_len is not None}
    for length in sorted(lengths, reverse=True):
        yield replace(sizes, max_model_len=_blocks(length, memory.block))


def _enough(now: Sizes, diagnosis: Diagnosis, room: Room) -> tuple[Sizes, ...]:
    """Return what the message says is missing, best with a little more; empty if it does not."""
    figures = diagnosis.figures
    total, missing = figures.total_gib or room.smallest_gib, _missing_gib(figures)
    if now.kv_bytes is not None:
        needed = figures.needed_gib
        if needed is None or not 0 < needed < _ABSURD_GIB:
            return ()
        return (replace(now, kv_bytes=_whole_mib(needed * _KV_ROUNDING * GIB) + _MIB),)
    if missing is None or missing < 0 or total is None or total <= 0:
        return ()
    share = now.share + math.ceil(_UNIT * min(missing / total, 1.0) / _GRID) * _GRID
    return (replace(now, share=share + _GRID), replace(now, share=share))


def _missing_gib(figures: Figures) -> float | None:
    """Return how much the KV cache lacks, None where the message does not say."""
    if figures.available_gib is None or (figures.needed_gib is None and figures.available_gib >= 0):
        return None
    return (figures.needed_gib or 0.0) - figures.available_gib


def _more(memory: Memory, room: Room, limits: MemoryLimits) -> Iterator[Sizes]:
    """Yield larger sizes: a step, the middle of the bracket, all."""
    now = memory.current
    if now.kv_bytes is not None:
        yield replace(now, kv_bytes=2 * now.kv_bytes)
        return
    yield replace(now, share=now.share + limits.step)
    highs = (a.sizes.share for a in memory.failed if a.took_too_much and a.sizes.kv_bytes is None)
    high = min((share for share in highs if share > now.share), default=None)
    if high is not None:
        yield replace(now, share=_grid((high + now.share) // 2))
    yield replace(now, share=ceiling(memory, room))


def _shorter(memory: Memory, diagnosis: Diagnosis) -> Iterator[Sizes]:
    """Yield a shorter context: the engine's own estimate, else half."""
    now = memory.current
    length = now.max_model_len or diagnosis.figures.max_model_len
    if length is None:
        return
    estimate = diagnosis.figures.estimated_len or length // 2
    shorter = _blocks(min(estimate, length - 1), memory.block)
    yield replace(now, max_model_len=shorter)


def _fewer(now: Sizes) -> Iterator[Sizes]:
    yield _fewer_seqs(now)
    yield _fewer_both(now)


def _fewer_seqs(now: Sizes) -> Sizes:
    """Return half of the sequences, or a modest number in place of the default."""
    seqs = _halved(now.max_num_seqs, FIRST_SEQS, _LEAST_SEQS)
    batch = now.max_num_batched_tokens
    if batch is not None:
        seqs = min(seqs, batch)  # vllm/config/scheduler.py refuses more sequences than tokens
    return replace(now, max_num_seqs=seqs)


def _fewer_both(now: Sizes) -> Sizes:
    batch = _halved(now.max_num_batched_tokens, FIRST_BATCH, _LEAST_BATCH)
    return _fewer_seqs(replace(now, max_num_batched_tokens=batch))


def _halved(value: int | None, first: int, least: int) -> int:
    if value is None:
        return first
    return value if value <= least else max(least, value // 2)


def _what_is_free(memory: Memory, figures: Figures, limits: MemoryLimits) -> Iterator[Sizes]:
    now, free = memory.current.kv_bytes, figures.free_gib
    if now is None:
        return  # set by VLLM_CPU_KVCACHE_SPACE: not ours to change
    if free is not None and 0 < free * GIB < now:
        yield _fewer_bytes(memory, int(free * GIB * KV_STEP))
    yield from _less(memory, limits)


def _grid(share: int) -> int:
    return share // _GRID * _GRID


def _blocks(length: int, block: int) -> int:
    return length // block * block


def _whole_mib(size: float) -> int:
    return int(size) // _MIB * _MIB
