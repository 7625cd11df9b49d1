"""What the control API offers beside the worker's life: doctor, check, bench, models on disk."""

import asyncio
from dataclasses import dataclass

from cahoots_vllm.api import bench, doctor
from cahoots_vllm.api.check import CheckHandlers, check_routes
from cahoots_vllm.api.models import ModelHandlers, model_routes
from cahoots_vllm.api.routes import Route
from cahoots_vllm.control.announcer import Announcer
from cahoots_vllm.control.bench_history import BenchHistory
from cahoots_vllm.control.event_hub import EventHub
from cahoots_vllm.control.examination import Doctor
from cahoots_vllm.control.findings import SlowFindings
from cahoots_vllm.control.fit_check import FitCheck
from cahoots_vllm.control.gate import Gate
from cahoots_vllm.control.last_used import LastUsed
from cahoots_vllm.control.model_check import ModelCheck
from cahoots_vllm.control.models import Models
from cahoots_vllm.control.pulls import Pulls
from cahoots_vllm.control.settings_source import SettingsSource
from cahoots_vllm.control.shared_hub import SharedHub
from cahoots_vllm.control.supervisor import Supervisor
from cahoots_vllm.host.gpu import NvmlReader
from cahoots_vllm.host.gpu_health import GpuHealth
from cahoots_vllm.host.hub_answer import HubLook
from cahoots_vllm.host.paths import Paths


@dataclass(frozen=True, slots=True)
class Needs:
    """What they work with; `has_cgroup`: workers have cgroups of their own."""

    supervisor: Supervisor
    source: SettingsSource
    paths: Paths
    gpus: NvmlReader
    gate: Gate
    fit: FitCheck
    last_used: LastUsed
    hub: SharedHub
    look: HubLook
    events: EventHub
    has_cgroup: bool


class Services:
    """Builds them, runs what they have to run, and has their rows of the route table."""

    def __init__(self, needs: Needs) -> None:
        """Nothing is looked at before `begin` or a request."""
        supervisor, paths = needs.supervisor, needs.paths
        health = GpuHealth()
        self.slow = SlowFindings(supervisor, health)
        self._pulls = Pulls(supervisor, needs.hub, Announcer(needs.events))
        self._models = Models(supervisor, needs.hub, needs.last_used, paths.cache_dir)
        self._check = ModelCheck(needs.fit, needs.look, paths.cache_dir)
        self._doctor = Doctor(
            supervisor, needs.source, needs.gpus, health, self.slow, paths, needs.has_cgroup
        )
        results = paths.state_file.with_name("bench.jsonl")
        self._benches = BenchHistory(results, supervisor, needs.gate, paths.runtime_dir)
        self._supervisor = supervisor

    def routes(self) -> tuple[Route, ...]:
        """Return the rows."""
        return (
            *model_routes(ModelHandlers(self._models, self._pulls)),
            *check_routes(CheckHandlers(self._check, self._supervisor)),
            *doctor.routes(doctor.DoctorHandlers(self._doctor)),
            *bench.routes(bench.BenchHandlers(self._benches)),
        )

    def begin(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Begin what runs beside the supervisor."""
        return [
            tasks.create_task(self.slow.run(), name="slow findings"),
            tasks.create_task(self._pulls.run(), name="pulls"),
        ]
