"""Reads one status snapshot: the supervisor's state and what only the host knows."""

import asyncio
from dataclasses import dataclass

from cahoots_vllm.control.findings import SlowFindings
from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.control.settings_source import SettingsSource
from cahoots_vllm.control.sleepers import Sleepers
from cahoots_vllm.control.standby import StandbyKeeper
from cahoots_vllm.control.state_file import StateFile
from cahoots_vllm.control.status import DaemonStatus, RequestStatus, Status
from cahoots_vllm.control.status_view import Facts, Wall, build_status
from cahoots_vllm.control.supervisor import Supervisor
from cahoots_vllm.core.addresses import is_exposed
from cahoots_vllm.host.gpu import GpuReader
from cahoots_vllm.host.sockets import is_here
from cahoots_vllm.host.watch import FileWatch
from cahoots_vllm.worker.process import Worker


@dataclass(frozen=True, slots=True)
class StatusReader:
    """Everything a snapshot is made of."""

    supervisor: Supervisor
    rotation: Rotation
    state_file: StateFile
    gpus: GpuReader
    source: SettingsSource
    watch: FileWatch
    daemon: DaemonStatus
    # What people should know for as long as this daemon lives.
    warnings: tuple[str, ...]
    slow: SlowFindings
    standby: StandbyKeeper
    sleepers: Sleepers

    async def read(self) -> Status:
        """Return the snapshot now; a GPU that does not answer delays it by 2 s at most."""
        worker, beside = self.supervisor.worker, self.supervisor.beside
        settings = self.supervisor.settings
        warnings = (*settings.warnings, *self.state_file.warnings, *self.warnings)
        if self.watch.reason:
            text = f"edits of settings are noticed after a second, not at once: {self.watch.reason}"
            warnings += (text,)
        for host in settings.gateway.listen:
            if is_exposed(host) and not is_here(host):
                warnings += (f"{host} in gateway.listen is no address of this host, or not yet",)
        # At once: a GPU that hangs holds up two of them.
        requests, gpus, findings = await asyncio.gather(
            self._requests(worker), self.gpus.read(), self.slow.read()
        )
        facts = Facts(
            pid=worker.pid if worker is not None else None,
            progress=worker.progress if worker is not None else None,
            beside_pid=beside.pid if beside is not None else None,
            beside_progress=beside.progress if beside is not None else None,
            requests=requests,
            gpus=gpus,
            loaded_at=self.source.loaded_at,
            config_error=self.source.error,
            endpoints=settings.gateway.endpoints,
            warnings=warnings,
            daemon=self.daemon,
            findings=findings,
            standby=self.standby.status,
            asleep=self.sleepers.status,
        )
        wall = Wall.read(asyncio.get_running_loop().time())
        return build_status(settings, self.supervisor.state, facts, wall)

    async def _requests(self, worker: Worker | None) -> RequestStatus:
        """Return the engine's own counts, else what the gateway knows."""
        counts = await worker.request_counts() if worker is not None else None
        running, waiting = counts if counts is not None else (self.rotation.running, 0)
        return RequestStatus(running=running, waiting=waiting, held=self.rotation.held)
