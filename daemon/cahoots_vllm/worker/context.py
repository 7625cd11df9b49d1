"""What every worker and standby of this daemon shares, and what they are called."""

from dataclasses import dataclass
from pathlib import Path

from cahoots_vllm.core.settings import WorkerSettings
from cahoots_vllm.host.cgroup import WorkerCgroup
from cahoots_vllm.host.children import Children
from cahoots_vllm.host.fd_store import FdStore
from cahoots_vllm.host.kernel_log import KernelLog


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What every worker of this daemon shares."""

    children: Children
    runtime_dir: Path
    cgroup_parent: Path | None
    kernel_log: KernelLog
    settings: WorkerSettings
    store: FdStore

    def uds(self, generation: int) -> Path:
        """Return a generation's private socket."""
        return self.runtime_dir / f"worker-{generation}.sock"

    def cgroup(self, generation: int) -> WorkerCgroup | None:
        """Return a generation's cgroup, None where none is delegated."""
        if self.cgroup_parent is None:
            return None
        return WorkerCgroup.of(self.cgroup_parent, generation)

    def mark(self, generation: int) -> str:
        """Return what a generation's processes carry in their environment."""
        return f"{self.runtime_dir}#{generation}"

    @property
    def standby_mark(self) -> str:
        """What a standby carries in its environment until it is a generation's."""
        return f"{self.runtime_dir}#standby"
