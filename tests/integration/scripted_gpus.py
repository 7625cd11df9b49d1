"""The GPUs that a daemon under test sees: the file that tests/fake_nvml plays."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import fake_nvml
from fake_nvml import pynvml

LIBRARY = str(next(iter(fake_nvml.__path__)))
TOTAL_MIB = 24 * 1024


@dataclass
class Gpu:
    """One GPU; the fields are those of tests/fake_nvml/README.md."""

    uuid: str = "GPU-0"
    name: str = "Scripted 24"
    total_mib: int = TOTAL_MIB
    used_mib: int = 300
    processes: list[dict[str, int | None]] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    hangs_s: dict[str, float] = field(default_factory=dict)
    capability: tuple[int, int] = (8, 9)
    clock_reasons: int = 0
    power_limit_w: float = 450
    power_default_w: float = 450

    def held_by(self, pid: int, mib: int | None) -> "Gpu":
        """Let a process hold memory of it."""
        self.processes.append({"pid": pid, "used_mib": mib})
        return self


class ScriptedGpus:
    """The file, and the environment that makes a process see it."""

    def __init__(self, path: Path) -> None:
        """One free GPU to begin with."""
        self.path = path
        self.show(Gpu())

    @property
    def environment(self) -> dict[str, str]:
        """What to add to a daemon's; PYTHONPATH goes before what is there already."""
        return {pynvml.VARIABLE: str(self.path), "PYTHONPATH": LIBRARY}

    def show(self, *gpus: Gpu, cuda: int = 13000) -> None:
        """Let these be the GPUs from now on, of a driver that runs CUDA up to `cuda`."""
        content = {"driver": True, "cuda": cuda, "gpus": [asdict(gpu) for gpu in gpus]}
        self._write(content)

    def take_driver_away(self) -> None:
        self._write({"driver": False, "gpus": []})

    def _write(self, content: object) -> None:
        # In one step: the daemon may be reading it.
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(content), encoding="utf-8")
        os.replace(new, self.path)  # noqa: PTH105 (rename's atomicity is the point)
