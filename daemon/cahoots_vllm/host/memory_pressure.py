"""How hard memory is to get: pressure stalls, and the limit of a cgroup. Blocking, short."""

from pathlib import Path

from cahoots_vllm.core.standby import MemoryFacts
from cahoots_vllm.host.host_memory import read_host_memory

_PROC = Path("/proc")


def read_memory(cgroup: Path | None, proc: Path = _PROC) -> MemoryFacts:
    """Return the host's memory and pressure, and those of a cgroup (cgroup-v2.rst, psi.rst).

    What a kernel or a cgroup does not tell is None. Raises OSError where /proc cannot be read.
    """
    memory = read_host_memory(proc)
    files = [proc / "pressure" / "memory"]
    limit = used = None
    if cgroup is not None:
        files.append(cgroup / "memory.pressure")
        limits = [_integer(cgroup / name) for name in ("memory.high", "memory.max")]
        limit = min((each for each in limits if each is not None), default=None)
        used = _integer(cgroup / "memory.current")
    pressures = [pressure for file in files if (pressure := _pressure(file)) is not None]
    pressure = max(pressures, default=None)
    return MemoryFacts(memory.total_bytes, memory.available_bytes, pressure, limit, used)


def _pressure(file: Path) -> float | None:
    """Return `some avg10` in percent: `some avg10=0.00 avg60=... total=...`."""
    try:
        words = next(row.split() for row in file.read_text().splitlines() if row.startswith("some"))
        return float(words[1].removeprefix("avg10="))
    except (OSError, ValueError, IndexError, StopIteration):
        return None  # an older kernel, or psi=0 at boot


def _integer(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None  # not there, or "max"


def private_bytes(pid: int, proc: Path = _PROC) -> int | None:
    """Return what a process would give back with its end (proc_pid_smaps(5)), None: gone."""
    try:
        rows = (proc / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return sum(int(row.split()[1]) * 1024 for row in rows if row.startswith("Private_"))
