"""What is known about a model's memory on this host: asked, current, what failed, what worked.

A configuration that asks for at least as much as one that took too much is known to fail, and so is
one that leaves at most as much as one that left too little. Nothing known to fail is tried again:
the search is a bracket, so it ends.
"""

from dataclasses import dataclass, replace
from itertools import takewhile

from cahoots_vllm.core.memory.sizes import CONTEXT, SHARE, Change, Sizes, changes_between

WEEK_S = 7 * 86400.0
DAY_S = 86400.0
# In place of vLLM's default, where that takes too much.
FIRST_BATCH, FIRST_SEQS = 2048, 128
KV_STEP = 0.85
# The cause of a step that fits a start to what others leave.
FITTED = "gpu_oom_startup_free"
_KEPT_STEPS = 20
_KEPT_ATTEMPTS = 50


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """What the search may do (`[memory]` of cahoots-vllm.toml); shares in thousandths.

    `tries` bounds the starts of one search: until a worker was ready for long or a person acts.
    """

    adapt: bool = True
    floor: int = 500
    step: int = 50
    min_context: int = 8192
    tries: int = 10


DEFAULT_MEMORY_LIMITS = MemoryLimits()


@dataclass(frozen=True, slots=True)
class Attempt:
    """Sizes that failed. `took_too_much`, or left too little for the KV cache.

    `fits_len`: the engine's own estimate of the longest context that would have fitted.
    """

    sizes: Sizes
    took_too_much: bool
    at: float
    fits_len: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One change, when and why."""

    at: float
    cause: str
    reason: str
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """One search; times are the caller's monotonic seconds."""

    asked: Sizes
    current: Sizes
    failed: tuple[Attempt, ...] = ()
    steps: tuple[Step, ...] = ()
    tries: int = 0
    loading_failures: int = 0
    # Whether `current` was ever ready.
    has_worked: bool = False
    # The last sizes that were ready: what a climb that fails goes back to.
    good: Sizes | None = None
    is_cpu: bool = False
    # The model's block of KV cache, in tokens: a context length is a multiple of it.
    block: int = 16

    @property
    def is_adapted(self) -> bool:
        """Whether a worker starts with other sizes than asked for."""
        return self.current != self.asked


def floor(memory: Memory, limits: MemoryLimits) -> int:
    """Return the lowest share that may be tried; who asks for less means it."""
    return min(limits.floor, memory.asked.share)


def shortest(memory: Memory, limits: MemoryLimits) -> int:
    """Return the shortest context that may be tried, in tokens."""
    asked = memory.asked.max_model_len
    return limits.min_context if asked is None else min(limits.min_context, asked)


def known_to_fail(memory: Memory, sizes: Sizes) -> bool:
    """Return whether an earlier failure already says that these sizes cannot work."""
    return any(_covers(attempt, sizes) for attempt in memory.failed)


def _covers(attempt: Attempt, sizes: Sizes) -> bool:
    known = attempt.sizes
    if (known.kv_bytes is None) != (sizes.kv_bytes is None):
        return False
    is_less = _at_most(known.max_num_batched_tokens, sizes.max_num_batched_tokens) and _at_most(
        known.max_num_seqs, sizes.max_num_seqs
    )
    if attempt.took_too_much:
        return is_less and amount(known) <= amount(sizes)
    is_long = _at_most(known.max_model_len, sizes.max_model_len) or (
        attempt.fits_len is not None and _at_most(attempt.fits_len + 1, sizes.max_model_len)
    )
    return is_less and is_long and amount(known) >= amount(sizes)


def amount(sizes: Sizes) -> int:
    """Return what bounds the KV cache: the bytes where they are set, else the share."""
    return sizes.share if sizes.kv_bytes is None else sizes.kv_bytes


def _at_most(first: int | None, second: int | None) -> bool:
    """Compare two sizes; an unset one is vLLM's default, above anything we set."""
    if second is None:
        return True
    return first is not None and first <= second


def begin(asked: Sizes, known: Memory | None, limits: MemoryLimits, now: float) -> Memory:
    """Return the search for a fresh start: what worked last, one step nearer to what is asked.

    Failures older than a week are forgotten. Other sizes asked for begin a new search; what limits
    that changed meanwhile do not allow any more is not started.
    """
    if known is None:
        return Memory(asked, asked)
    if known.asked != asked:
        return fresh(replace(known, asked=asked))
    kept = tuple(attempt for attempt in known.failed if now - attempt.at < WEEK_S)
    memory = replace(known, failed=kept, tries=0, loading_failures=0)
    if not memory.is_adapted:
        return memory
    if not limits.adapt or not _is_within(memory, limits):
        reason = "memory.adapt is off, or its limits changed: what is asked for"
        return changed(memory, asked, Step(now, "limits", reason, ()))
    return _climbed(_viable(_unfitted(memory, now), now), limits, now)


def fresh(memory: Memory) -> Memory:
    """Return a search that knows nothing yet, for the same sizes asked for."""
    return Memory(memory.asked, memory.asked, is_cpu=memory.is_cpu, block=memory.block)


def _unfitted(memory: Memory, now: float) -> Memory:
    """Take back what was done for memory that others held: the gate looks again before a start."""
    fits = list(takewhile(lambda step: step.cause == FITTED, reversed(memory.steps)))
    if not fits or not any(step.changes for step in fits):
        return memory
    share, length = memory.current.share, memory.current.max_model_len
    for change in (change for step in fits for change in step.changes):  # the newest step first
        if change.option == SHARE and isinstance(change.before, float):
            share = round(change.before * 1000)
        if change.option == CONTEXT:
            length = change.before if isinstance(change.before, int) else None
    sizes = replace(memory.current, share=share, max_model_len=length)
    if known_to_fail(memory, sizes):
        return memory
    reason = "it was lowered for what others held; what is free is looked at again"
    return changed(memory, sizes, Step(now, "climb", reason, ()))


def _viable(memory: Memory, now: float) -> Memory:
    """Leave sizes that are known to fail, e.g. of a search that was cut short."""
    if not known_to_fail(memory, memory.current):
        return memory
    for sizes in (memory.good, memory.asked):
        if sizes is not None and not known_to_fail(memory, sizes):
            return changed(memory, sizes, Step(now, "search", "the last sizes failed", ()))
    return memory


def _is_within(memory: Memory, limits: MemoryLimits) -> bool:
    length = memory.current.max_model_len
    is_long_enough = length is None or length >= shortest(memory, limits)
    return is_long_enough and memory.current.share >= floor(memory, limits)


def _climbed(memory: Memory, limits: MemoryLimits, now: float) -> Memory:
    """Take one step a clean start, after a day without change or failure, to no known failure."""
    times = [step.at for step in memory.steps] + [attempt.at for attempt in memory.failed]
    last = max(times, default=now - DAY_S)
    if not memory.has_worked or now - last < DAY_S:
        return memory
    for sizes in _nearer(memory, limits):
        if sizes != memory.current and not known_to_fail(memory, sizes):
            reason = "a day without trouble: one step nearer to what is asked for"
            return changed(memory, sizes, Step(now, "climb", reason, ()))
    return memory


def _nearer(memory: Memory, limits: MemoryLimits) -> tuple[Sizes, ...]:
    """Return the next steps from the current sizes towards the asked ones, the safest first."""
    asked, current = memory.asked, memory.current
    if current.share < asked.share:
        share = min(asked.share, current.share + limits.step)
    else:
        share = max(asked.share, current.share - limits.step)
    batch = current.max_num_batched_tokens
    seqs = _doubled(current.max_num_seqs, asked.max_num_seqs, FIRST_SEQS)
    if seqs is not None and batch is not None:
        seqs = min(seqs, batch)  # vllm/config/scheduler.py refuses more sequences than tokens
    batch = _doubled(batch, asked.max_num_batched_tokens, FIRST_BATCH)
    return (
        replace(current, share=share),
        replace(current, kv_bytes=_raised(current.kv_bytes, asked.kv_bytes)),
        replace(current, max_num_batched_tokens=batch),
        replace(current, max_num_seqs=seqs),
        replace(current, max_model_len=asked.max_model_len),
    )


def _doubled(now: int | None, asked: int | None, first: int) -> int | None:
    """Return the next larger size, so that a climb that fails is halved to what worked."""
    if now is None or (asked is None and 2 * now > first):
        return asked
    return 2 * now if asked is None else min(2 * now, asked)


def _raised(now: int | None, asked: int | None) -> int | None:
    return asked if now is None or asked is None else min(asked, int(now / KV_STEP))


def changed(memory: Memory, sizes: Sizes, step: Step) -> Memory:
    """Return the search with other sizes from now on; the step gets the changes."""
    step = replace(step, changes=changes_between(memory.current, sizes))
    return replace(
        memory, current=sizes, steps=(*memory.steps, step)[-_KEPT_STEPS:], has_worked=False
    )


def failed(memory: Memory, attempt: Attempt) -> Memory:
    """Return the search with one more known failure; the oldest go when there are too many."""
    kept = tuple(known for known in memory.failed if not _says_more(attempt, known))
    return replace(memory, failed=(*kept, attempt)[-_KEPT_ATTEMPTS:])


def _says_more(attempt: Attempt, known: Attempt) -> bool:
    """Whether an older failure need not be kept beside this one."""
    if attempt.took_too_much != known.took_too_much or not _covers(attempt, known.sizes):
        return False
    return known.fits_len is None or known.sizes == attempt.sizes


def worked(memory: Memory) -> Memory:
    """Return the search after a worker with the current sizes was ready."""
    return replace(memory, has_worked=True, good=memory.current)


def forgiven(memory: Memory) -> Memory:
    """Return the search after a worker was ready for long: the next failure begins a new one."""
    return replace(memory, tries=0, loading_failures=0)
