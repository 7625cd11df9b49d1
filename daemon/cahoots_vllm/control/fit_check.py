"""Looks whether a model can be served before anything is stopped, and says it check by check.

In an operation only a certain failure ends it: what a shorter context could cure is left to the
memory policy, and said in the log.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cahoots_vllm.control.fit_records import About, FitRecord, FitRecords, fit_key
from cahoots_vllm.control.gate import Gate
from cahoots_vllm.control.log_buffer import LogBuffer
from cahoots_vllm.control.state_file import StateFile
from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.core.fit.checks import Check, Level, check_gpus, check_memory, model_checks
from cahoots_vllm.core.fit.estimate import Ask, Fit, judge
from cahoots_vllm.core.fit.shape import ModelShape, read_shape
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory import used_devices
from cahoots_vllm.core.settings import Settings
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.engine_models import read_architectures
from cahoots_vllm.host.model_files import ModelFiles, read_model_files

_DISK_DEADLINE_S = 30.0
_CAUSES = {"memory": Cause.GPU_OOM_STARTUP_ALLOC, "gpus": Cause.CUDA_DRIVER}


@dataclass(frozen=True, slots=True)
class Looked:
    """What the files and the devices say; `fit` is None where either says too little."""

    checks: tuple[Check, ...]
    fit: Fit | None = None


class FitCheck:
    """Estimates by files and devices, corrected by what earlier starts have shown."""

    def __init__(self, gate: Gate, records: FitRecords, tell: Callable[[str], None]) -> None:
        """`tell` takes a warning for the log."""
        self._gate = gate
        self._records = records
        self._tell = tell
        self._about: About | None = None

    async def refuse(self, launch: LaunchSpec, settings: Settings) -> Diagnosis | None:
        """Return why a start of a directory is out of the question, None where it may go."""
        files = await run_blocking(
            lambda: read_model_files(Path(launch.source)), deadline_s=_DISK_DEADLINE_S
        )
        # Of what is about to start, not of what somebody asks about meanwhile.
        self._about = await self._read_about(launch, settings)
        looked = await self.look(launch, settings, files)
        for check in looked.checks:
            if check.level is Level.FAIL:
                cause = _CAUSES.get(check.name, Cause.BAD_ARGUMENTS)
                # A driver may bring its GPUs late, at boot.
                may_come = cause is Cause.CUDA_DRIVER
                return Diagnosis(cause, check.sentence, check.remedy, is_retryable=may_come)
            if check.level is Level.WARN and looked.fit is not None:
                self._tell(f"{launch.model}: {check.name}: {check.sentence}; {check.remedy}")
        return None

    async def look(self, launch: LaunchSpec, settings: Settings, files: ModelFiles) -> Looked:
        """Return every check that these files allow."""
        is_cpu = settings.engine.is_cpu
        about = await self._read_about(launch, settings)
        shape = read_shape(files.config)
        if shape is None:
            said = "its config.json does not tell its size: whether it fits cannot be told"
            return Looked((Check("memory", Level.WARN, said),))
        fit = judge(self._ask(shape, files, launch, about, is_cpu=is_cpu), about.devices)
        implemented = await run_blocking(
            lambda: read_architectures(Path(settings.engine.path)), deadline_s=_DISK_DEADLINE_S
        )
        gpus = () if is_cpu else check_gpus(launch, len(about.devices))
        checks = (*model_checks(shape, launch, implemented), *gpus)
        return Looked((*checks, check_memory(fit, is_cpu=is_cpu)), fit)

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


def fit_check(
    gate: Gate, records: tuple[FitRecord, ...], state: StateFile, logs: LogBuffer
) -> FitCheck:
    """Return one that keeps its figures in the state file and warns in the log."""
    kept = FitRecords(records, lambda fits: state.save(fits=fits))
    return FitCheck(gate, kept, lambda text: logs.add("daemon", text, level="WARNING"))
