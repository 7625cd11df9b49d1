"""What the lifecycle knows: the goal, the one worker, and what failed.

Owned by control.supervisor; changed by core.lifecycle only.
"""

from dataclasses import dataclass
from enum import StrEnum

from cahoots_vllm.core.diagnosis import Diagnosis
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory import Change, Memory, Room, Shortage
from cahoots_vllm.core.wire import Phase, SwapStrategy

_NOTHING_KNOWN = Room()


class Stage(StrEnum):
    """Where a live worker is; its values are a subset of the phases."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Plan:
    """A goal that passed preflight, and the launch spec to start for it.

    `launch` has the sizes of `memory`: those asked for, or others that work here.
    """

    goal: LaunchSpec
    launch: LaunchSpec
    memory: Memory


@dataclass(frozen=True, slots=True)
class Live:
    """A worker that exists; `is_leaving` means it must go even if its plan is the goal.

    `room` is what its devices had free before it started. `is_forgotten`: its sizes are not to be
    learned from, a person wants the next start to begin anew. `was_beside`: it started while
    another one served, so how long that took says nothing of the host alone.
    """

    generation: int
    plan: Plan
    stage: Stage
    since: float
    is_leaving: bool = False
    room: Room = _NOTHING_KNOWN
    is_forgotten: bool = False
    was_beside: bool = False

    @property
    def next_plan(self) -> Plan | None:
        """Return what to start in its place; None: to be looked for anew."""
        return None if self.is_forgotten else self.plan


@dataclass(frozen=True, slots=True)
class Failure:
    """What failed last and what was done about it."""

    at: float
    goal: LaunchSpec
    diagnosis: Diagnosis
    action: str
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class Strike:
    """A failure that counts; with the host memory that was left, where that is known."""

    at: float
    host_available_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Idle:
    """The worker was unloaded after so many seconds without a request; the next one wakes it."""

    since: float
    after_s: float


@dataclass(frozen=True, slots=True)
class State:
    """Everything `step` knows. Times are seconds of the caller's monotonic clock.

    Invariants (tests/unit/core/environment.py): `live` serves, or is the only one; `beside` it is
    one that starts to take its place, or one whose place it took; generations only grow;
    `checking`, `measuring`, `retry_at`, `is_failed` and `idle` exclude each other; without a goal
    none is set. `room` was measured for the next start. `shortage` is what it waits for.
    """

    goal: LaunchSpec | None = None
    plan: Plan | None = None
    live: Live | None = None
    beside: Live | None = None
    # What has no room beside the worker that serves, so waits for its end.
    alone: LaunchSpec | None = None
    # How the goal is to be reached, where a person has said so.
    strategy: SwapStrategy | None = None
    checking: LaunchSpec | None = None
    measuring: LaunchSpec | None = None
    room: Room | None = None
    shortage: Shortage | None = None
    last_good: Plan | None = None
    rejected: Failure | None = None
    last_failure: Failure | None = None
    is_failed: bool = False
    idle: Idle | None = None
    # Damaged files of the goal are taken away once; a second damage needs a person.
    repairs: int = 0
    # So are the engine's caches moved aside.
    cache_moves: int = 0
    strikes: tuple[Strike, ...] = ()
    starts_in_a_row: int = 0
    retry_at: float | None = None
    generation: int = 0
    restarts: int = 0

    @property
    def is_served(self) -> bool:
        """Whether the goal is ready, and nothing is about to replace it."""
        live = self.live
        is_ready = live is not None and live.stage is Stage.READY and not live.is_leaving
        return is_ready and live is not None and live.plan.goal == self.goal

    @property
    def phase(self) -> Phase:
        """Return the phase shown to people."""
        there = self.live or self.beside
        if there is not None:
            return Phase(there.stage.value)
        if self.goal is None or self.idle is not None:
            return Phase.OFF
        if self.is_failed:
            return Phase.FAILED
        is_waiting = self.retry_at is not None or self.shortage is not None
        return Phase.BACKOFF if is_waiting else Phase.PREPARING
