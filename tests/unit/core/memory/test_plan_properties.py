"""Whatever fails, in whatever order: the search ends, keeps its bounds and repeats no failure."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cahoots_vllm.core.diagnosis.causes import Diagnosis, Figures, Trait
from cahoots_vllm.core.evidence import Device, Holder
from cahoots_vllm.core.memory import (
    GIB,
    HOST_KEY,
    Answer,
    Memory,
    MemoryLimits,
    Next,
    Room,
    Sizes,
    Wait,
    begin,
    forgiven,
    gate,
    known_to_fail,
    plan,
    worked,
)
from cahoots_vllm.core.memory.moves import ceiling
from cahoots_vllm.core.memory.search import DAY_S, WEEK_S, floor, shortest
from unit.core.memory.engine import fails

pytestmark = pytest.mark.timeout(60)

# What says that the sizes themselves cannot work; the others say so of the moment.
TELLING = frozenset(
    {
        Trait.PROFILING, Trait.SAMPLER, Trait.AFTER_KV, Trait.SERVING, Trait.KV_NONE,
        Trait.KV_TOO_SMALL, Trait.KV_BYTES_TOO_LARGE, Trait.HELD_OUTSIDE,
    }
)  # fmt: skip

GIBS = st.none() | st.floats(0, 200) | st.floats(allow_nan=False)
LENGTHS = st.none() | st.integers(0, 200_000) | st.integers()
FIGURES = st.builds(Figures, GIBS, GIBS, GIBS, GIBS, GIBS, GIBS, LENGTHS, LENGTHS, GIBS)
DIAGNOSES = st.builds(fails, st.sampled_from(Trait), FIGURES)
HOLDERS = st.lists(
    st.builds(Holder, st.just(7), st.just("ann"), st.just("train"), is_ours=st.booleans()),
    max_size=2,
).map(tuple)
DEVICES = st.builds(
    Device,
    st.sampled_from(("GPU-0", HOST_KEY)),
    st.just("GPU 0"),
    st.sampled_from((0, 8 * GIB, 24 * GIB, 80 * GIB)),
    st.integers(0, 80).map(lambda gib: gib * GIB),
    HOLDERS,
)
ROOMS = st.lists(DEVICES, max_size=2).map(lambda devices: Room(tuple(devices)))
LIMITS = st.builds(
    MemoryLimits,
    st.sampled_from((True, True, True, False)),
    st.integers(1, 1000),
    st.integers(1, 300),
    st.integers(1, 40_000),
    st.integers(1, 20),
)
ASKED = st.builds(
    Sizes,
    st.integers(1, 1000),
    st.none() | st.integers(1, 200_000),
    st.none() | st.integers(1, 20_000),
    st.none() | st.integers(1, 2000),
    st.none() | st.none() | st.integers(1, 100 * GIB),
)
MEMORIES = st.builds(
    lambda asked, is_cpu, block: Memory(asked, asked, is_cpu=is_cpu, block=block),
    ASKED,
    st.booleans(),
    st.sampled_from((1, 16, 784)),
)


@dataclass(slots=True)
class Life:
    """A model's memory through failures, successes and restarts, with every promise checked."""

    memory: Memory
    limits: MemoryLimits
    now: float = 0.0
    changes: int = 0  # since ready, a new start of the daemon, or a wait
    failures: dict[Sizes, float] = field(default_factory=dict)

    def fail(self, diagnosis: Diagnosis, room: Room) -> Answer | None:
        before = self.memory
        found = plan(before, diagnosis, room, self.limits, self.now)
        if found is None:
            return None
        if self.limits.adapt and diagnosis.trait in TELLING:
            self.failures[before.current] = self.now
        self._take(found, room)
        return found

    def pass_gate(self, room: Room) -> None:
        self._take(gate(self.memory, room, self.limits, self.now), room, is_try=False)

    def ready(self) -> None:
        self.memory, self.changes = forgiven(worked(self.memory)), 0

    def restart(self, after_s: float) -> None:
        self.now += after_s
        self.failures = {s: at for s, at in self.failures.items() if self.now - at < WEEK_S}
        before = self.memory
        self.memory = begin(before.asked, before, self.limits, self.now)
        self.changes = 0
        if self.memory.current != before.current and self.limits.adapt:
            assert self.memory.current not in self.failures
            self._check_bounds()

    def _take(self, found: Answer, room: Room, *, is_try: bool = True) -> None:
        before, self.memory = self.memory, found.memory
        if isinstance(found, Next):
            assert self.limits.adapt
            assert self.memory.current != before.current
            assert found.step.changes
            self._check_next(before, room)
        elif isinstance(found, Wait):
            if self.memory.current != before.current:  # nothing serves in this room: anew, later
                self.changes, self.failures = 0, {}
        else:
            assert self.memory.current == before.current
        self.changes += is_try and isinstance(found, Next)
        assert self.changes <= self.limits.tries
        self._check_bounds()

    def _check_next(self, before: Memory, room: Room) -> None:
        sizes = self.memory.current
        assert not known_to_fail(self.memory, sizes)
        assert sizes not in self.failures
        if sizes.share > before.current.share:
            assert sizes.share <= ceiling(before, room)

    def _check_bounds(self) -> None:
        """Between what was asked for and what the limits allow, whatever happened before."""
        asked, sizes = self.memory.asked, self.memory.current
        assert floor(self.memory, self.limits) <= sizes.share <= max(980, asked.share)
        assert _is_between(shortest(self.memory, self.limits), sizes.max_model_len, asked)
        for now, first in (
            (sizes.max_num_seqs, asked.max_num_seqs),
            (sizes.max_num_batched_tokens, asked.max_num_batched_tokens),
        ):
            assert now is None if first is None and now is None else now is not None
            assert first is None or now is None or 0 < now <= first
        assert (sizes.kv_bytes is None) == (asked.kv_bytes is None)
        assert sizes.kv_bytes is None or sizes.kv_bytes >= min(64 << 20, asked.kv_bytes or 0)
        if sizes.max_num_seqs and sizes.max_num_batched_tokens and sizes != asked:
            was_valid = (asked.max_num_seqs or 0) <= (asked.max_num_batched_tokens or 10**9)
            assert sizes.max_num_seqs <= sizes.max_num_batched_tokens or not was_valid


def _is_between(least: int, length: int | None, asked: Sizes) -> bool:
    if length is None:
        return asked.max_model_len is None
    return least <= length and (asked.max_model_len is None or length <= asked.max_model_len)


Event = Callable[[Life], object]
EVENTS = st.one_of(
    st.builds(lambda why, room: lambda life: life.fail(why, room), DIAGNOSES, ROOMS),
    st.builds(lambda why, room: lambda life: life.fail(why, room), DIAGNOSES, ROOMS),
    st.builds(lambda room: lambda life: life.pass_gate(room), ROOMS),
    st.just(Life.ready),
    st.builds(
        lambda after_s: lambda life: life.restart(after_s),
        st.sampled_from((1.0, 3600.0, DAY_S, 3 * DAY_S, WEEK_S)),
    ),
)


@given(MEMORIES, LIMITS, st.lists(EVENTS, max_size=40))
@settings(derandomize=True, max_examples=1200)
def test_every_promise_is_kept_in_any_life(
    memory: Memory, limits: MemoryLimits, events: list[Event]
) -> None:
    life = Life(memory, limits)
    for event in events:
        event(life)


@given(MEMORIES, LIMITS, st.lists(st.tuples(DIAGNOSES, ROOMS), min_size=1, max_size=6))
@settings(derandomize=True, max_examples=400)
def test_any_failures_in_any_circle_end_within_the_tries(
    memory: Memory, limits: MemoryLimits, circle: list[tuple[Diagnosis, Room]]
) -> None:
    life, starts = Life(memory, limits), 1
    while isinstance(life.fail(*circle[starts % len(circle)]), Next):
        starts += 1
        life.now += 60.0
    assert starts <= limits.tries + 1


@given(MEMORIES, LIMITS, st.lists(st.tuples(DIAGNOSES, ROOMS), min_size=1, max_size=3))
@settings(derandomize=True, max_examples=150)
def test_successes_between_do_not_keep_a_search_going(
    memory: Memory, limits: MemoryLimits, circle: list[tuple[Diagnosis, Room]]
) -> None:
    """Ready gives back the tries; what failed stays known, so it ends all the same."""
    telling = [each for each in circle if each[0].trait in TELLING]
    memory, limits = replace(memory, block=4096), replace(limits, step=max(20, limits.step))
    life, changes, idle = Life(memory, limits), 0, 0
    while telling and idle < len(telling):
        found = life.fail(*telling[changes % len(telling)])
        idle = 0 if isinstance(found, Next) else idle + 1
        changes += 1
        life.ready()
        assert changes < 400
