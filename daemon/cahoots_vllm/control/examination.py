"""Examines the host: from within the daemon, or alone where no daemon answers."""

import os
from dataclasses import dataclass

from cahoots_vllm.control.doctor import Examination, examine
from cahoots_vllm.control.doctor_host import HostChecks
from cahoots_vllm.control.doctor_model import ModelChecks
from cahoots_vllm.control.findings import SlowFindings
from cahoots_vllm.control.patient import Patient, own_name
from cahoots_vllm.control.settings_files import CommandLine, load_settings
from cahoots_vllm.control.settings_source import SettingsSource
from cahoots_vllm.control.supervisor import Supervisor
from cahoots_vllm.core.doctor.finding import Findings
from cahoots_vllm.core.doctor.service import WorkerFacts
from cahoots_vllm.core.doctor.speed import judge_cpu_engine
from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.core.settings import Settings
from cahoots_vllm.core.wire import Phase
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.gpu import GpuReader, NvmlReader
from cahoots_vllm.host.gpu_bus import read_gpu_bus
from cahoots_vllm.host.gpu_health import GpuHealth
from cahoots_vllm.host.paths import Paths

_LOOK_S = 2.0


@dataclass(frozen=True, slots=True)
class Doctor:
    """The daemon's own: knows its worker and its last good settings."""

    supervisor: Supervisor
    source: SettingsSource
    gpus: GpuReader
    health: GpuHealth
    slow: SlowFindings
    paths: Paths
    is_delegated: bool

    async def examine(self) -> Examination:
        """Return what is found now."""
        supervisor = self.supervisor
        worker, phase = supervisor.worker, supervisor.state.phase
        patient = Patient(
            paths=self.paths,
            gpus=self.gpus,
            health=self.health,
            slow=self.slow.read,
            settings=supervisor.settings,
            settings_error=self.source.error,
            daemon_pid=os.getpid(),
            worker=_worker_facts(supervisor),
            worker_pids=frozenset(worker.pids() if worker is not None else ()),
            # Past its imports: they work, and another one would only slow it.
            is_engine_proven=worker is not None
            and (phase is Phase.READY or worker.progress.rank > 0),
            is_delegated=self.is_delegated,
        )
        return await _examine(patient, by="daemon")


def _worker_facts(supervisor: Supervisor) -> WorkerFacts:
    state, settings = supervisor.state, supervisor.settings
    failure = state.last_failure if state.phase in (Phase.FAILED, Phase.BACKOFF) else None
    why_off = "stopped by hand" if settings.is_local else f"LLM_PROVIDER is {settings.provider}"
    if state.idle is not None:
        why_off = "unloaded until the next request"
    facts = WorkerFacts(state.phase.value, settings.wanted_model, why_off=why_off)
    if failure is None:
        return facts
    found = failure.diagnosis
    return WorkerFacts(
        facts.phase, facts.model, found.cause.value, found.evidence, found.remedy, why_off
    )


async def examine_alone(paths: Paths, line: CommandLine, unreachable: str) -> Examination:
    """Return what this user's process finds where no daemon answers; `unreachable` says why."""
    settings, error = None, None
    try:
        settings = await run_blocking(lambda: load_settings(paths, line), deadline_s=_LOOK_S)
    except CahootsError as raised:
        error = raised
    except TimeoutError:
        unreachable += "; the disk of its settings does not answer"
    health = GpuHealth()

    async def slow() -> Findings:
        return await _slow_alone(settings, health)

    patient = Patient(
        paths=paths,
        gpus=NvmlReader(),
        health=health,
        slow=slow,
        settings=settings,
        settings_error=error.message if error else None,
        settings_remedy=error.remedy if error else "",
        unreachable=unreachable,
    )
    return await _examine(patient, by="cahootsctl")


async def _slow_alone(settings: Settings | None, health: GpuHealth) -> Findings:
    if settings is None:
        return ()
    cards = (await run_blocking(health.read, deadline_s=_LOOK_S)).cards
    names = tuple(card.clocks.name for card in cards if card.clocks is not None)
    on_bus = (await run_blocking(read_gpu_bus, deadline_s=_LOOK_S)).on_bus
    return judge_cpu_engine(is_cpu=settings.engine.is_cpu, gpu_names=names, on_bus=on_bus)


async def _examine(patient: Patient, *, by: str) -> Examination:
    checks = (*HostChecks(patient).checks(), *ModelChecks(patient).checks())
    return await examine(checks, by=by, user=own_name())
