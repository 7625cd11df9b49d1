"""The doctor's checks of GPUs, engine, hub and speed."""

import os
from functools import partial

from cahoots_vllm.control.doctor import Check
from cahoots_vllm.control.examine import child_environment
from cahoots_vllm.control.patient import Patient
from cahoots_vllm.core.doctor import engine, gpus, hub, speed
from cahoots_vllm.core.doctor.finding import Findings, Group
from cahoots_vllm.core.launch import WORKER_MARK
from cahoots_vllm.core.settings import EngineInfo
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.disk_speed import measure_read
from cahoots_vllm.host.engine_probe import probe_engine, torch_build
from cahoots_vllm.host.gpu import Gpu
from cahoots_vllm.host.gpu_bus import GpuBus, read_gpu_bus
from cahoots_vllm.host.gpu_health import DriverHealth
from cahoots_vllm.host.host_limits import is_clock_synchronised
from cahoots_vllm.host.hub_probe import probe_hub, probe_repo
from cahoots_vllm.host.process_info import environ_value

_NVML_S = 3.0
_LOOK_S = 2.0
_IMPORT_S = 3.2
_HUB_S = 4.0
_SAMPLE_S = 0.7
_HUB_URL = "https://huggingface.co"
_TRUE = ("1", "true", "yes", "on")


class ModelChecks:
    """Reads facts of what the model needs, and lets core.doctor judge them."""

    def __init__(self, patient: Patient) -> None:
        """Nothing is looked at yet."""
        self._patient = patient

    def checks(self) -> tuple[Check, ...]:
        """Return them; without settings nobody knows which engine and hub are meant."""
        if self._patient.settings is None:
            return (Check("driver", Group.GPU, self._gpus, _NVML_S),)
        return (
            Check("driver", Group.GPU, self._gpus, _NVML_S),
            Check("engine", Group.ENGINE, self._engine, _IMPORT_S + 0.5),
            Check("hub", Group.HUB, self._hub, _HUB_S),
            Check("speed", Group.SPEED, self._speed, _NVML_S),
        )

    async def _gpus(self) -> Findings:
        patient = self._patient
        facts = await self._driver()
        build = await self._build()
        spec = patient.spec
        quantization = spec.option("quantization") if spec is not None else None
        method = quantization if isinstance(quantization, str) else None
        found = gpus.judge_driver(facts, build) + gpus.judge_gpus(facts, build, method)
        found += gpus.judge_cuda(facts, build)
        is_ready = bool(patient.worker_pids)
        return found + gpus.judge_vram(facts, build, patient.expected, is_ready=is_ready)

    async def _driver(self) -> gpus.DriverFacts:
        patient = self._patient
        bus = await run_blocking(read_gpu_bus, deadline_s=_LOOK_S)
        health = await run_blocking(patient.health.read, deadline_s=_LOOK_S)
        seen = await patient.gpus.read()
        mark = partial(_is_ours, patient.worker_pids, f"{patient.paths.runtime_dir}#")
        work = partial(_driver_facts, bus, health, seen, mark)
        return await run_blocking(work, deadline_s=_LOOK_S)

    async def _build(self) -> gpus.EngineBuild:
        loaded = self._patient.settings
        if loaded is None:
            return gpus.EngineBuild(is_cpu=True)  # not known: nothing is fatal then
        look = partial(torch_build, loaded.engine)
        _, cuda = await run_blocking(look, deadline_s=_LOOK_S)
        return gpus.EngineBuild(loaded.engine.is_cpu, cuda)

    async def _engine(self) -> Findings:
        patient, loaded, spec = self._patient, self._patient.settings, self._patient.spec
        if loaded is None or spec is None:
            return ()
        if patient.is_engine_proven:
            return engine.judge_engine(await _proven(loaded.engine))
        env = child_environment(spec, loaded, with_token=False)
        look = partial(probe_engine, loaded.engine, env, for_s=_IMPORT_S)
        return engine.judge_engine(await run_blocking(look, deadline_s=_IMPORT_S + 0.4))

    async def _hub(self) -> Findings:
        loaded, spec = self._patient.settings, self._patient.spec
        if loaded is None or spec is None:
            return ()
        is_needed = await self._patient.model_directory() is None and spec.is_repo
        env = dict(loaded.worker_env)
        at = env.get("HF_ENDPOINT") or _HUB_URL
        token = dict(loaded.secret_env).get("HF_TOKEN")
        facts = hub.HubFacts(at, hub.Reach.TIMEOUT, is_offline=True, has_token=token is not None)
        page = hub.RepoFacts(spec.source)
        if env.get("HF_HUB_OFFLINE", "").lower() not in _TRUE:
            facts = await probe_hub(at, token)
        if facts.reach is hub.Reach.ANSWERED and is_needed:
            page = await probe_repo(at, spec.source, token)
        is_kept = await run_blocking(is_clock_synchronised, deadline_s=_LOOK_S)
        found = hub.judge_hub(facts, is_needed=is_needed) + hub.judge_token(facts)
        found += hub.judge_repo(page, has_token=token is not None)
        return found + hub.judge_clock(facts.skew_s, is_synchronised=is_kept)

    async def _speed(self) -> Findings:
        found = await self._patient.slow()
        directory = await self._patient.model_directory()
        if directory is None:
            return found
        look = partial(measure_read, directory, for_s=_SAMPLE_S)
        facts = await run_blocking(look, deadline_s=_LOOK_S)
        return found + (speed.judge_read(facts) if facts is not None else ())


async def _proven(info: EngineInfo) -> engine.EngineFacts:
    torch, _ = await run_blocking(partial(torch_build, info), deadline_s=_LOOK_S)
    return engine.EngineFacts(info.path, info.version, torch=torch, is_imported=True)


def _is_ours(pids: frozenset[int], prefix: str, pid: int) -> bool:
    return pid in pids or (environ_value(pid, WORKER_MARK) or "").startswith(prefix)


def _driver_facts(
    bus: GpuBus, health: DriverHealth, seen: tuple[Gpu, ...], is_ours: "partial[bool]"
) -> gpus.DriverFacts:
    capabilities = {card.index: card.capability for card in health.cards}
    return gpus.DriverFacts(
        on_bus=bus.on_bus,
        nvml_error=health.error,
        module=bus.module,
        library=health.library,
        cuda=health.cuda,
        is_nouveau=bus.is_nouveau,
        closed=bus.closed if os.geteuid() else (),
        has_uvm=bus.has_uvm,
        gpus=tuple(_gpu_facts(gpu, capabilities.get(gpu.index), is_ours) for gpu in seen),
    )


def _gpu_facts(
    gpu: Gpu, capability: tuple[int, int] | None, is_ours: "partial[bool]"
) -> gpus.GpuFacts:
    holders = (
        gpus.GpuHolder(p.pid, p.user, p.command, p.memory_used, is_ours=is_ours(p.pid))
        for p in gpu.processes
    )
    return gpus.GpuFacts(
        index=gpu.index,
        name=gpu.name,
        memory_total=gpu.memory_total,
        memory_used=gpu.memory_used,
        capability=capability,
        holders=tuple(holders),
        is_unified=gpu.is_unified,
    )
