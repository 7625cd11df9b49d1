"""Whom the doctor examines: what is known of daemon, settings and worker before any look."""

import os
import pwd
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cahoots_vllm.core.doctor.expectations import Expectation, expectation_of
from cahoots_vllm.core.doctor.finding import Findings
from cahoots_vllm.core.doctor.service import WorkerFacts
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory.sizes import read_integer
from cahoots_vllm.core.settings import Settings, make_launch_spec
from cahoots_vllm.host import snapshots
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.gpu import GpuReader
from cahoots_vllm.host.gpu_health import GpuHealth
from cahoots_vllm.host.paths import Paths

_DISK_DEADLINE_S = 1.5


@dataclass(frozen=True, slots=True)
class Patient:
    """What the checks start from.

    `settings` None: they cannot be read. `daemon_pid` None: no daemon answers, `unreachable` says
    why. `is_engine_proven`: a worker of this engine serves.
    """

    paths: Paths
    gpus: GpuReader
    health: GpuHealth
    slow: Callable[[], Awaitable[Findings]]
    settings: Settings | None = None
    settings_error: str | None = None
    settings_remedy: str = ""
    daemon_pid: int | None = None
    unreachable: str = ""
    worker: WorkerFacts | None = None
    worker_pids: frozenset[int] = frozenset()
    is_engine_proven: bool = False
    is_delegated: bool = False

    @property
    def spec(self) -> LaunchSpec | None:
        """The launch spec of the model that is wanted."""
        settings = self.settings
        return make_launch_spec(settings, settings.wanted_model) if settings else None

    @property
    def expected(self) -> Expectation | None:
        """The guide's row for that model."""
        spec = self.spec
        return expectation_of(spec.source, spec.model) if spec is not None else None

    @property
    def processes(self) -> int:
        """How many GPUs that model is spread over."""
        spec = self.spec
        if spec is None:
            return 1
        sizes = (spec.option(name) for name in ("tensor-parallel-size", "pipeline-parallel-size"))
        count = 1
        for size in sizes:
            count *= max(1, read_integer(size) or 1)
        return count

    async def model_directory(self) -> Path | None:
        """Return where the wanted model is on disk, None where it is not. Raises OSError."""
        spec = self.spec
        if spec is None:
            return None
        look = partial(_find, spec, self.paths.cache_dir)
        return await run_blocking(look, deadline_s=_DISK_DEADLINE_S)


def _find(spec: LaunchSpec, cache_dir: Path) -> Path | None:
    if spec.source.startswith("/"):
        directory = Path(spec.source)
        return directory if snapshots.find_missing(directory) is None else None
    return snapshots.find_snapshot(cache_dir, spec.source, spec.revision)


def own_name() -> str:
    """Return the name of the user this process runs as."""
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
