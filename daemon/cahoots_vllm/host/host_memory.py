"""The host's memory and its largest users, as /proc tells them. Blocking, but short."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cahoots_vllm.core.doctor.memory import RamFacts

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_KIB = 1024  # /proc/meminfo says kB and means KiB (proc_meminfo(5))


@dataclass(frozen=True, slots=True)
class HostMemory:
    """`available_bytes`: what a new process could get without swapping, caches given up."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class ResidentProcess:
    """A process and what it holds of the memory; pages shared with others count in each."""

    pid: int
    resident_bytes: int


def read_host_memory(proc: Path = _PROC) -> HostMemory:
    """Return MemTotal and MemAvailable (proc_meminfo(5)).

    In a container these are the host's too. Raises OSError where /proc cannot be read.
    """
    rows = (line.split() for line in (proc / "meminfo").read_text().splitlines())
    found = {row[0]: int(row[1]) * _KIB for row in rows if row[0] in ("MemTotal:", "MemAvailable:")}
    return HostMemory(found["MemTotal:"], found["MemAvailable:"])


def largest_processes(count: int, proc: Path = _PROC) -> tuple[ResidentProcess, ...]:
    """Return the `count` processes with the most resident memory, the largest first.

    From proc_pid_statm(5), which may lag a little behind. Kernel threads and zombies have no
    memory of their own and are left out, as is what ends while we look.
    """
    pids = (int(entry.name) for entry in proc.iterdir() if entry.name.isdigit())
    rows = (ResidentProcess(pid, _resident_bytes(proc / str(pid))) for pid in pids)
    holding = (row for row in rows if row.resident_bytes > 0)
    return tuple(sorted(holding, key=lambda row: (-row.resident_bytes, row.pid))[:count])


def _resident_bytes(process: Path) -> int:
    try:
        fields = (process / "statm").read_text().split()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0  # gone, or another user's behind hidepid (proc(5))
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def read_ram(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> RamFacts:
    """Return memory and swap, with the limit of this process's cgroup. Raises OSError."""
    rows = (line.split() for line in (proc / "meminfo").read_text().splitlines())
    kib = {row[0].rstrip(":"): int(row[1]) * _KIB for row in rows if len(row) > 1}
    return RamFacts(
        total=kib["MemTotal"],
        available=kib["MemAvailable"],
        swap_total=kib.get("SwapTotal", 0),
        swap_free=kib.get("SwapFree", 0),
        limit=_memory_limit(proc, cgroups),
        swappiness=_integer(proc / "sys/vm/swappiness"),
    )


def _memory_limit(proc: Path, cgroups: Path) -> int | None:
    """Return the least memory.max from this process's cgroup up (cgroups(7)), None without one."""
    lines = (proc / "self/cgroup").read_text().splitlines()
    own = next((line[len("0::/") :] for line in lines if line.startswith("0::/")), None)
    if own is None:
        return None
    place = cgroups / own
    places = [place, *(p for p in place.parents if p.is_relative_to(cgroups))]
    limits = [limit for p in places if (limit := _integer(p / "memory.max")) is not None]
    return min(limits, default=None)


def _integer(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None  # not there, or "max"


def swapped_bytes(pids: Iterable[int], proc: Path = _PROC) -> int:
    """Return what is swapped out of these processes (VmSwap, proc_pid_status(5))."""
    return sum(_swapped(proc / str(pid)) for pid in pids)


def _swapped(process: Path) -> int:
    try:
        lines = (process / "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0  # gone, or another user's behind hidepid (proc(5))
    return sum(int(line.split()[1]) * _KIB for line in lines if line.startswith("VmSwap:"))
