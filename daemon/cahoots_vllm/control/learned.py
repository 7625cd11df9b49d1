"""What starts have taught about memory, kept in the state file over restarts of the daemon.

Keyed by all that decides how much memory a start takes. The core counts in the loop's seconds, the
file in Unix time; this module is where the two meet.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cahoots_vllm.core.evidence import Device
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory import Memory, Sizes, apply_sizes, read_sizes
from cahoots_vllm.core.memory.sizes import SIZE_OPTIONS, changes_between
from cahoots_vllm.core.secret import is_secret_name

_KEPT = 50
# Options that change what the server says, not what it holds in memory.
_IMMATERIAL = (
    "enable-auto-tool-choice", "tool-call-parser", "reasoning-parser", "chat-template",
    "response-role", "allowed-", "log-", "disable-log-", "enable-log-", "max-log-len",
    "uvicorn-", "disable-uvicorn-", "generation-config", "override-generation-config", "seed",
    "return-tokens-as-token-ids", "enable-request-id-headers", "middleware", "shutdown-timeout",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MemoryKey:
    """What a lesson is about; `revision` is the snapshot's commit, empty for a directory."""

    model: str
    revision: str
    engine: str
    devices: tuple[str, ...]
    options: str


class MemoryRecord(BaseModel):
    """One lesson as it stands in the state file; times are Unix seconds."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: MemoryKey
    memory: Memory


def memory_key(
    goal: LaunchSpec, launch: LaunchSpec, engine_version: str, devices: Iterable[Device]
) -> MemoryKey:
    """Return the key of a plan whose launch spec still has, or had, the sizes asked for."""
    is_directory = goal.source.startswith("/")
    options = sorted(
        f"{name}={value}"
        for name, value in launch.options
        if name not in SIZE_OPTIONS and not name.startswith(_IMMATERIAL)
        if not is_secret_name(name)
    )
    # By value: 0.9 and "0.90" ask for the same.
    options += (str(change) for change in changes_between(Sizes(0), read_sizes(launch)))
    return MemoryKey(
        model=goal.source,
        revision="" if is_directory else Path(launch.source).name,
        engine=engine_version,
        devices=tuple(device.key for device in devices),
        options=" ".join(options),
    )


class Learned:
    """The lessons of this daemon and the ones before it."""

    def __init__(
        self,
        records: tuple[MemoryRecord, ...],
        save: Callable[[tuple[MemoryRecord, ...]], None],
        clock: Callable[[], float],
    ) -> None:
        """`save` writes all of them; `clock` is the loop's time, which the core counts in."""
        self._records = {record.key: record.memory for record in records}
        self._save = save
        self._clock = clock

    def find(self, key: MemoryKey) -> Memory | None:
        """Return what is known, its times in the loop's seconds."""
        memory = self._records.get(key)
        return None if memory is None else _shifted(memory, self._clock() - time.time())

    def put(self, key: MemoryKey, memory: Memory) -> None:
        """Keep a lesson; the oldest go when there are too many."""
        self._records.pop(key, None)
        self._records[key] = _shifted(memory, time.time() - self._clock())
        while len(self._records) > _KEPT:
            self._records.pop(next(iter(self._records)))
        self._save(self.records())

    def records(self) -> tuple[MemoryRecord, ...]:
        """Return all lessons, the oldest first, their times in Unix seconds."""
        return tuple(MemoryRecord(key=k, memory=m) for k, m in self._records.items())

    def reset(self, model: str | None) -> int:
        """Forget the lessons about a model, or all; return how many there were."""
        gone = [key for key in self._records if model is None or key.model == model]
        for key in gone:
            del self._records[key]
        if gone:
            self._save(self.records())
        return len(gone)


def _shifted(memory: Memory, seconds: float) -> Memory:
    return replace(
        memory,
        failed=tuple(replace(attempt, at=attempt.at + seconds) for attempt in memory.failed),
        steps=tuple(replace(step, at=step.at + seconds) for step in memory.steps),
    )


def asked_for(launch: LaunchSpec, memory: Memory) -> LaunchSpec:
    """Return a plan's launch spec with the sizes that were asked for: the key's form."""
    return apply_sizes(launch, memory.asked)
