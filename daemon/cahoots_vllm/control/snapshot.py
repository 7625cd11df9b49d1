"""Reads one status snapshot: the supervisor's state and what only the host knows."""

import asyncio
from dataclasses import dataclass

from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.control.state_file import StateFile
from cahoots_vllm.control.status import Facts, RequestStatus, Status, Wall, build_status
from cahoots_vllm.control.supervisor import Supervisor
from cahoots_vllm.host.gpu import GpuReader


@dataclass(frozen=True, slots=True)
class StatusReader:
    """Everything a snapshot is made of."""

    supervisor: Supervisor
    rotation: Rotation
    state_file: StateFile
    gpus: GpuReader
    loaded_at: str
    endpoints: tuple[str, ...]

    async def read(self) -> Status:
        """Return the snapshot now; a GPU that does not answer delays it by 2 s at most."""
        gpus = await self.gpus.read()
        worker = self.supervisor.worker
        settings = self.supervisor.settings
        warnings = settings.warnings
        if self.state_file.error is not None:
            warnings = (*warnings, self.state_file.error)
        facts = Facts(
            pid=worker.pid if worker is not None else None,
            progress=worker.progress if worker is not None else None,
            requests=RequestStatus(
                running=self.rotation.running, waiting=0, held=self.rotation.held
            ),
            gpus=gpus,
            loaded_at=self.loaded_at,
            endpoints=self.endpoints,
            warnings=warnings,
        )
        wall = Wall.read(asyncio.get_running_loop().time())
        return build_status(settings, self.supervisor.state, facts, wall)
