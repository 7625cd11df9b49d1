"""What benches have measured on this host: kept beside the state file, over all restarts.

Who measures is `cahootsctl bench`; what was measured (model, engine, GPU, options) is said here,
by the one who knows. A result of a worker that is no longer there is refused.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cahoots_vllm.control.gate import Gate
from cahoots_vllm.control.learned import memory_key
from cahoots_vllm.control.supervisor import Supervisor
from cahoots_vllm.core.bench.figures import Load, RouteFigures
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.memory import used_devices
from cahoots_vllm.core.state import Live, Stage
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.record_file import RecordFile

_KEPT = 500
_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class BenchTarget:
    """What is measured; results of equal targets compare. `model`: where it is loaded from."""

    model: str
    revision: str
    engine_version: str
    gpu: str
    options: str


@dataclass(frozen=True, slots=True)
class BenchWorker:
    """The ready worker: which one, its socket, the name it answers to, and what it is."""

    generation: int
    socket: str
    serving: str
    target: BenchTarget


class BenchResult(BaseModel):
    """What was measured. `is_shared`: others' requests ran meanwhile."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    generation: int
    seed: int
    load: Load
    is_shared: bool = False
    gateway: RouteFigures
    direct: RouteFigures | None = None


class BenchRecord(BaseModel):
    """One line of bench.jsonl; `at` is ISO 8601 in UTC."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    at: str = Field(max_length=40)
    target: BenchTarget
    seed: int
    load: Load
    is_shared: bool = False
    gateway: RouteFigures
    direct: RouteFigures | None = None


class BenchHistory:
    """The records, and what a bench needs to know of the worker."""

    def __init__(self, path: Path, supervisor: Supervisor, gate: Gate, runtime_dir: Path) -> None:
        """`path` is the file; it is made with the first result."""
        self._file = RecordFile(path, _KEPT)
        self._supervisor = supervisor
        self._gate = gate
        self._runtime_dir = runtime_dir

    async def worker(self) -> BenchWorker | None:
        """Return the ready worker; None where there is none."""
        live = self._supervisor.state.live
        if live is None or live.stage is not Stage.READY:
            return None
        return BenchWorker(
            generation=live.generation,
            socket=str(self._runtime_dir / f"worker-{live.generation}.sock"),
            serving=live.plan.launch.model,
            target=await self._target(live),
        )

    async def records(self) -> tuple[BenchRecord, ...]:
        """Return what is kept, the oldest first; a damaged line is passed over.

        Raises CahootsError (INTERNAL) when the file cannot be read.
        """
        try:
            lines = await run_blocking(self._file.read, deadline_s=_DEADLINE_S)
        except (OSError, TimeoutError) as error:
            raise _no_file(error, verb="read") from error
        return tuple(record for line in lines if (record := _parsed(line)) is not None)

    async def add(self, result: BenchResult) -> BenchRecord:
        """Keep a result.

        Raises CahootsError: CONFLICT when the worker is another one now, BAD_REQUEST for figures
        that are no numbers, INTERNAL when the file cannot be written.
        """
        worker = await self.worker()
        if worker is None or worker.generation != result.generation:
            raise CahootsError(
                Kind.CONFLICT,
                "cannot keep the result: the worker that was measured is gone",
                "measure again: `cahootsctl bench`",
            )
        record = BenchRecord(
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            target=worker.target,
            seed=result.seed,
            load=result.load,
            is_shared=result.is_shared,
            gateway=result.gateway,
            direct=result.direct,
        )
        line = record.model_dump_json()
        if _parsed(line) != record:  # JSON knows neither infinity nor "not a number"
            raise CahootsError(
                Kind.BAD_REQUEST, "cannot keep the result: a figure is no number", "measure again"
            )
        append = partial(self._file.append, line, lambda text: _parsed(text) is not None)
        try:
            await run_blocking(append, deadline_s=_DEADLINE_S)
        except (OSError, TimeoutError) as error:
            raise _no_file(error, verb="write") from error
        return record

    async def _target(self, live: Live) -> BenchTarget:
        engine = self._supervisor.settings.engine
        launch = live.plan.launch
        devices = await self._gate.read(is_cpu=engine.is_cpu)
        used = used_devices(launch, os.environ, devices)
        key = memory_key(live.plan.goal, launch, engine.version, used)
        names = "CPU" if engine.is_cpu else " + ".join(device.name for device in used)
        return BenchTarget(key.model, key.revision, key.engine, names or "unknown", key.options)


def _parsed(line: str) -> BenchRecord | None:
    try:
        return BenchRecord.model_validate_json(line)
    except ValidationError:
        return None


def _no_file(error: Exception, *, verb: str) -> CahootsError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return CahootsError(
        Kind.INTERNAL,
        f"cannot {verb} the bench history: {reason or 'the disk does not answer'}",
        "see to the state directory: its disk and its rights",
    )
