"""A make-believe engine: it starts or fails by a hidden truth, and says so as vLLM would."""

from collections import Counter
from dataclasses import dataclass, field

from cahoots_vllm.core.diagnosis.causes import NO_FIGURES, Cause, Diagnosis, Figures, Trait
from cahoots_vllm.core.evidence import Device, Holder
from cahoots_vllm.core.memory import (
    GIB,
    Answer,
    Memory,
    MemoryLimits,
    Next,
    Room,
    Same,
    Sizes,
    Wait,
    gate,
    plan,
)
from cahoots_vllm.core.memory.moves import ceiling
from cahoots_vllm.core.memory.search import floor, shortest

_CAUSES = {
    Trait.FREE_TOO_SMALL: Cause.GPU_OOM_STARTUP_FREE,
    Trait.KV_NONE: Cause.KV_CACHE_NONE,
    Trait.KV_TOO_SMALL: Cause.KV_CACHE_TOO_SMALL,
    Trait.SERVING: Cause.GPU_OOM_SERVING,
}


def fails(trait: Trait, figures: Figures = NO_FIGURES) -> Diagnosis:
    """Return a diagnosis with this trait."""
    cause = _CAUSES.get(trait, Cause.GPU_OOM_STARTUP_ALLOC)
    return Diagnosis(cause, f"says {trait}", "", is_retryable=True, trait=trait, figures=figures)


@dataclass(frozen=True, slots=True)
class Truth:
    """What the engine really takes, in GiB; nobody but the engine knows it."""

    total: float
    held: float  # by somebody else
    weights: float
    per_token: float  # activation, by token of a batch
    per_seq: float  # sampler, after the KV cache
    graphs: float  # after the KV cache
    kv_per_token: float
    model_len: int = 131_072
    default_batch: int = 8192
    default_seqs: int = 256
    context: float = 0.4

    @property
    def free(self) -> float:
        """What a start finds, before its own context."""
        return self.total - self.held

    def room(self) -> Room:
        """Return what the driver says before a start."""
        holders = (Holder(7, "ann", "train", round(self.held * GIB)),) if self.held > 0 else ()
        return Room(
            (Device("GPU-0", "GPU 0", round(self.total * GIB), round(self.free * GIB), holders),)
        )

    def activation(self, sizes: Sizes) -> float:
        """Return the peak of the profile run."""
        return self.per_token * (sizes.max_num_batched_tokens or self.default_batch)

    def sampler(self, sizes: Sizes) -> float:
        """Return what warming up the sampler takes."""
        return self.per_seq * (sizes.max_num_seqs or self.default_seqs)

    def kv(self, sizes: Sizes) -> float:
        """Return what is left for the KV cache."""
        if sizes.kv_bytes is not None:
            return sizes.kv_bytes / GIB
        budget = sizes.share / 1000 * self.total
        return budget - self.context - self.weights - self.activation(sizes)

    def taken(self, sizes: Sizes) -> float:
        """Return what is taken when the KV cache is there."""
        return self.context + self.weights + self.activation(sizes) + max(0.0, self.kv(sizes))

    def start(self, sizes: Sizes) -> Diagnosis | None:
        """Start with these sizes: None when it serves."""
        return self._before_kv(sizes) or self._kv(sizes) or self._after_kv(sizes)

    def _before_kv(self, sizes: Sizes) -> Diagnosis | None:
        wanted = sizes.share / 1000 * self.total
        free = self.free - self.context
        if free < wanted:
            said = Figures(_said(free), _said(self.total), _said(wanted), sizes.share / 1000)
            return fails(Trait.FREE_TOO_SMALL, said)
        if free < self.weights:
            said = Figures(free_gib=0.1, total_gib=_said(self.total), tried_gib=0.2)
            return fails(Trait.LOADING, said)
        left = free - self.weights
        if left < self.activation(sizes):
            said = Figures(free_gib=_said(left), total_gib=_said(self.total), tried_gib=0.2)
            return fails(Trait.PROFILING, said)
        return None

    def _kv(self, sizes: Sizes) -> Diagnosis | None:
        left = self.kv(sizes)
        if left <= 0:
            return fails(Trait.KV_NONE, Figures(available_gib=_said(left)))
        length = sizes.max_model_len or self.model_len
        needed = length * self.kv_per_token
        if needed <= left:
            return None
        estimate = min(length, int(left / self.kv_per_token)) // 16 * 16
        said = Figures(
            needed_gib=_said(needed),
            available_gib=_said(left),
            max_model_len=length,
            estimated_len=estimate or None,
        )
        return fails(Trait.KV_TOO_SMALL, said)

    def _after_kv(self, sizes: Sizes) -> Diagnosis | None:
        taken = self.taken(sizes)
        if taken + self.graphs > self.free:
            return fails(Trait.AFTER_KV, Figures(free_gib=0.05, total_gib=_said(self.total)))
        if taken + self.graphs + self.sampler(sizes) > self.free:
            return fails(Trait.SAMPLER, Figures(free_gib=0.05, total_gib=_said(self.total)))
        return None

    def can_serve(self, memory: Memory, limits: MemoryLimits) -> bool:
        """Whether any sizes that may be tried serve."""
        asked, room = memory.asked, self.room()
        batch = min(512, asked.max_num_batched_tokens or self.default_batch)
        seqs = min(16, asked.max_num_seqs or self.default_seqs, batch)
        length = min(shortest(memory, limits), self.model_len)
        shares = {asked.share, *range(0, 1000, 10)}
        highest = max(asked.share, ceiling(memory, room))
        return any(
            self.start(Sizes(share, length, batch, seqs, asked.kv_bytes)) is None
            for share in shares
            if floor(memory, limits) <= share <= highest
        )


def _said(gib: float) -> float:
    return round(gib, 2)


@dataclass(slots=True)
class Outcome:
    """How a search went."""

    memory: Memory
    starts: int = 0
    end: Answer | None = None
    is_serving: bool = False
    said: Counter[Trait] = field(default_factory=Counter)
    tried: list[Sizes] = field(default_factory=list)


def search(
    truth: Truth, memory: Memory, limits: MemoryLimits, *, now: float = 0.0, most: int = 60
) -> Outcome:
    """Start, fail and plan until it serves, waits or is given up."""
    outcome = Outcome(memory)
    room = truth.room()
    while outcome.starts < most:
        outcome.end = gate(outcome.memory, room, limits, now + outcome.starts)
        outcome.memory = outcome.end.memory
        if isinstance(outcome.end, Wait):
            return outcome
        outcome.starts += 1
        outcome.tried.append(outcome.memory.current)
        failure = truth.start(outcome.memory.current)
        outcome.is_serving = failure is None
        if failure is None:
            return outcome
        outcome.said[failure.trait] += 1
        outcome.end = plan(outcome.memory, failure, room, limits, now + outcome.starts)
        assert outcome.end is not None
        outcome.memory = outcome.end.memory
        if not isinstance(outcome.end, Next | Same):
            return outcome
    return outcome
