"""Builds the supervisor and what it works with, and has it want what an earlier daemon wanted."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from cahoots_vllm.control.announcer import Announcer
from cahoots_vllm.control.event_hub import EventHub
from cahoots_vllm.control.fit_check import fit_check
from cahoots_vllm.control.gate import Gate
from cahoots_vllm.control.gpu_release import GpuRelease
from cahoots_vllm.control.handover import Handover
from cahoots_vllm.control.last_used import last_used
from cahoots_vllm.control.learned import Learned
from cahoots_vllm.control.load_times import LoadTimes
from cahoots_vllm.control.log_buffer import LogBuffer
from cahoots_vllm.control.option_check import OptionCheck
from cahoots_vllm.control.parts import Parts
from cahoots_vllm.control.preflight import Preflight
from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.control.shared_hub import SharedHub
from cahoots_vllm.control.sleepers import Sleepers
from cahoots_vllm.control.standby import StandbyKeeper
from cahoots_vllm.control.state_file import StateFile, StateRecord
from cahoots_vllm.control.supervisor import Supervisor
from cahoots_vllm.control.worker_log import WorkerLog
from cahoots_vllm.core.settings import Settings
from cahoots_vllm.host.children import Children
from cahoots_vllm.host.engine_options import EngineOptions
from cahoots_vllm.host.fd_store import FdStore
from cahoots_vllm.host.gpu import NvmlReader
from cahoots_vllm.host.kernel_log import KernelLog
from cahoots_vllm.host.paths import Paths
from cahoots_vllm.worker.context import WorkerContext


@dataclass(frozen=True, slots=True)
class Ground:
    """What is there before it; `cgroup` is that of all workers, None where none is delegated."""

    settings: Settings
    paths: Paths
    state_file: StateFile
    handover: Handover
    store: FdStore
    cgroup: Path | None
    children: Children
    rotation: Rotation
    hub: SharedHub
    gpus: NvmlReader
    gate: Gate
    logs: LogBuffer
    worker_log: WorkerLog
    events: EventHub


def build_supervisor(ground: Ground, *, keeps_override: bool) -> tuple[Supervisor, Parts]:
    """Return it and its parts; `keeps_override`: what `swap-model` chose earlier still holds."""
    record = ground.state_file.load()
    parts = _build_parts(ground, record)
    settings = ground.settings
    is_same = record.configured_model == settings.configured_model
    if record.override is not None and is_same and keeps_override:
        settings = replace(settings, override=record.override)
    return Supervisor(settings, record.generation, parts, Announcer(ground.events)), parts


def _build_parts(ground: Ground, record: StateRecord) -> Parts:
    state_file, cache_dir = ground.state_file, ground.paths.cache_dir
    context = WorkerContext(
        children=ground.children,
        runtime_dir=ground.paths.runtime_dir,
        cgroup_parent=ground.cgroup,
        kernel_log=KernelLog(),
        settings=ground.settings.worker,
        store=ground.store,
    )
    release = GpuRelease(ground.gpus)
    return Parts(
        context=context,
        standby=StandbyKeeper(context, ground.gpus, ground.handover),
        sleepers=Sleepers(context, release),
        preflight=Preflight(ground.hub, cache_dir),
        options=OptionCheck(EngineOptions(cache_dir, ground.children)),
        fit=fit_check(ground.gate, record.fits, state_file, ground.logs),
        rotation=ground.rotation,
        release=release,
        gate=ground.gate,
        learned=Learned(
            record.memory, lambda lessons: state_file.save(memory=lessons), time.monotonic
        ),
        load_times=LoadTimes(
            record.load_times,
            lambda times: state_file.save(load_times=dict(times)),
            ground.rotation,
        ),
        last_used=last_used(record.last_used, state_file),
        state_file=state_file,
        handover=ground.handover,
        logs=ground.logs,
        worker_log=ground.worker_log,
    )
