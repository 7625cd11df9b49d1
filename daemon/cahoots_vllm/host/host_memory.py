"""The host's memory and its largest users, as /proc tells them. Blocking, but short."""

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
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
