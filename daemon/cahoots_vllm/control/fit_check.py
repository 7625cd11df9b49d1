"""Looks whether a model can be served before anything is stopped, and says it check by check.

In an operation only a certain failure ends it: what a shorter context could cure is left to the
memory policy, and said in the log.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cahoots_vllm.control.fit_records import About, FitRecord, FitRecords, fit_key
from cahoots_vllm.control.gate import Gate
from cahoots_vllm.control.log_buffer import LogBuffer
from cahoots_vllm.control.state_file import StateFile
from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.core.fit.checks import (
    MEMORY,
    Check,
    check_gpus,
    check_memory,
    model_checks,
    worth_telling,
)
from cahoots_vllm.core.fit.dtypes import check_dtype, fallback_dtype
from cahoots_vllm.core.fit.estimate import Ask, Fit, judge
from cahoots_vllm.core.fit.shape import ModelShape, read_shape
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.level import Level
from cahoots_vllm.core.memory import used_devices
from cahoots_vllm.core.settings import Settings
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.engine_models import read_architectures
from cahoots_vllm.host.model_files import ModelFiles, read_model_files

_DISK_DEADLINE_S = 30.0
_CAUSES = {MEMORY: Cause.GPU_OOM_STARTUP_ALLOC, "gpus": Cause.CUDA_DRIVER}


@dataclass(frozen=True, slots=True)
class Looked:
    """What the files and the devices say; `fit` is None where either says too little."""

    checks: tuple[Check, ...]
    about: About
    fit: Fit | None = None


class FitCheck:
    """Estimates by files and devices, corrected by what earlier starts have shown."""

    def __init__(self, gate: Gate, records: FitRecords, tell: Callable[[str], None]) -> None:
        """`tell` takes a warning for the log."""
        self._on_look: Callable[[str, tuple[Check, ...]], None] = _hear_nothing
        self._gate = gate
        self._records = records
        self._tell = tell
        self._about: About | None = None

    def listen(self, on_look: Callable[[str, tuple[Check, ...]], None]) -> None:
        """Let `on_look` have what is worth telling of a model that may start."""
        self._on_look = on_look

    async def refuse(self, launch: LaunchSpec, settings: Settings) -> Diagnosis | None:
        """Return why a start of a directory is out of the question, None where it may go."""
        files = await run_blocking(
            lambda: read_model_files(Path(launch.source)), deadline_s=_DISK_DEADLINE_S
        )
        looked = await self.look(launch, settings, files)
        for check in looked.checks:
            if check.level is Level.FAIL:
                cause = _CAUSES.get(check.name, Cause.BAD_ARGUMENTS)
                # A driver may bring its GPUs late, at boot.
                may_come = cause is Cause.CUDA_DRIVER
                return Diagnosis(cause, check.sentence, check.remedy, is_retryable=may_come)
            if check.level is Level.WARN and looked.fit is not None:
                self._tell(f"{launch.model}: {check.name}: {check.sentence}; {check.remedy}")
        # Of what is about to start, not of what is refused, or asked about meanwhile.
        self._about = looked.about
        self._on_look(launch.model, worth_telling(looked.checks))
        return None

    async def look(self, launch: LaunchSpec, settings: Settings, files: ModelFiles) -> Looked:
        """Return every check that these files allow."""
        is_cpu = settings.engine.is_cpu
        about = await self._read_about(launch, settings)
        shape = read_shape(files.config)
        if shape is None:
            said = "its config.json does not tell its size: whether it fits cannot be told"
            return Looked((Check(MEMORY, Level.WARN, said),), about)
        ask = self._ask(shape, files, launch, about, is_cpu=is_cpu)
        if (dtype := fallback_dtype(shape, launch, about.devices)) is not None:
            ask = replace(ask, launch=launch.with_option("dtype", dtype))
        fit = judge(ask, about.devices)
        implemented = await run_blocking(
            lambda: read_architectures(Path(settings.engine.path)), deadline_s=_DISK_DEADLINE_S
        )
        gpus = () if is_cpu else check_gpus(launch, len(about.devices))
        dtype_checks = check_dtype(shape, launch, about.devices)
        checks = (*model_checks(shape, launch, implemented), *dtype_checks, *gpus)
        return Looked((*checks, check_memory(fit, is_cpu=is_cpu)), about, fit)

    async def _read_about(self, launch: LaunchSpec, settings: Settings) -> About:
        found = await self._gate.read(is_cpu=settings.engine.is_cpu)
        return About(settings.engine.version, used_devices(launch, os.environ, found))

    def _ask(
        self,
        shape: ModelShape,
        files: ModelFiles,
        launch: LaunchSpec,
        about: About,
        *,
        is_cpu: bool,
    ) -> Ask:
        seen = self._records.find(fit_key(launch, about.engine, about.devices))
        return Ask(shape, launch, files.tensors, files.stored_bytes or None, is_cpu, seen)

    def line(self, generation: int, text: str, launch: LaunchSpec) -> None:
        """Learn from one more line of a worker's log."""
        self._records.line(generation, text, launch, self._about)


def _hear_nothing(_model: str, _checks: tuple[Check, ...]) -> None:
    pass


def fit_check(
    gate: Gate, records: tuple[FitRecord, ...], state: StateFile, logs: LogBuffer
) -> FitCheck:
    """Return one that keeps its figures in the state file and warns in the log."""
    kept = FitRecords(records, lambda fits: state.save(fits=fits))
    return FitCheck(gate, kept, lambda text: logs.add("daemon", text, level="WARNING"))
