"""What was learned about memory, as plain frozen values for people and programs."""

from dataclasses import dataclass
from datetime import UTC, datetime

from cahoots_vllm.control.learned import MemoryRecord
from cahoots_vllm.control.status import ChangeStatus
from cahoots_vllm.core.launch import OptionValue
from cahoots_vllm.core.memory.sizes import (
    BATCH,
    CONTEXT,
    KV_BYTES,
    SEQS,
    SHARE,
    Change,
    Sizes,
    changes_between,
)


@dataclass(frozen=True, slots=True)
class StepStatus:
    """One change: when, because of what, from what to what."""

    at: str
    cause: str
    reason: str
    changed: tuple[ChangeStatus, ...]


@dataclass(frozen=True, slots=True)
class AttemptStatus:
    """Sizes that are known to fail, and which way: too much memory, or too little KV cache."""

    at: str
    sizes: dict[str, OptionValue]
    problem: str


@dataclass(frozen=True, slots=True)
class LessonStatus:
    """What is known about one launch spec on one set of devices with one engine."""

    model: str
    revision: str
    engine: str
    devices: tuple[str, ...]
    options: str
    adapted: tuple[ChangeStatus, ...]
    has_worked: bool
    steps: tuple[StepStatus, ...]
    failed: tuple[AttemptStatus, ...]


def lesson_status(record: MemoryRecord) -> LessonStatus:
    """Return one lesson; `adapted` is what differs from what was asked for."""
    key, memory = record.key, record.memory
    return LessonStatus(
        model=key.model,
        revision=key.revision,
        engine=key.engine,
        devices=key.devices,
        options=key.options,
        adapted=_changes(changes_between(memory.asked, memory.current)),
        has_worked=memory.has_worked,
        steps=tuple(
            StepStatus(_iso(step.at), step.cause, step.reason, _changes(step.changes))
            for step in memory.steps
        ),
        failed=tuple(
            AttemptStatus(
                _iso(attempt.at),
                _options(attempt.sizes),
                "too much memory" if attempt.took_too_much else "too little KV cache",
            )
            for attempt in memory.failed
        ),
    )


def _changes(changes: tuple[Change, ...]) -> tuple[ChangeStatus, ...]:
    return tuple(ChangeStatus(c.option, c.before, c.after) for c in changes)


def _options(sizes: Sizes) -> dict[str, OptionValue]:
    options = {
        CONTEXT: sizes.max_model_len,
        BATCH: sizes.max_num_batched_tokens,
        SEQS: sizes.max_num_seqs,
        KV_BYTES: sizes.kv_bytes,
    }
    chosen = {name: value for name, value in options.items() if value is not None}
    return {SHARE: sizes.share / 1000, **chosen}


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
