"""The kernel's counts of processes it killed for memory, where they concern a worker.

Three places count: the process's v2 cgroup, its v1 memory cgroup, and the host as a whole. All of
them count kills for a cgroup's limit and for the host's memory alike; a cgroup's count says that
one of its own processes was killed.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


def expose(pid: int, proc: Path = _PROC) -> None:
    """Let the kernel rather end this process than the daemon, which may stand behind others.

    The unit's OOMScoreAdjust= is inherited; raising it again is anybody's right
    (proc_pid_oom_score_adj(5)). What this process starts from now on inherits that.
    """
    file = proc / str(pid) / "oom_score_adj"
    with suppress(OSError):  # gone already
        if int(file.read_text()) < 0:
            file.write_text("0")


def prefer(pid: int, proc: Path = _PROC) -> None:
    """Let the kernel end this process before all others: it is there for convenience alone."""
    with suppress(OSError):  # gone already
        (proc / str(pid) / "oom_score_adj").write_text("1000")


def prefer_no_more(pid: int, proc: Path = _PROC) -> None:
    """Take `prefer` back: it is as much worth as this process."""
    with suppress(OSError):  # gone already
        own = (proc / "self" / "oom_score_adj").read_text()
        (proc / str(pid) / "oom_score_adj").write_text(own)


@dataclass(frozen=True, slots=True)
class OomGrowth:
    """Where the kernel killed for memory meanwhile; `on_host` alone may mean a stranger."""

    in_cgroup: bool
    on_host: bool


class OomCounters:
    """The counts when a worker started, to be compared at its end."""

    def __init__(self, pid: int, *, proc: Path = _PROC, cgroups: Path = _CGROUPS) -> None:
        """Note the counts that concern this process; where there are none, nothing grows."""
        cgroup_files = _cgroup_files(pid, proc, cgroups)
        self._in_cgroup = _counts(cgroup_files)
        self._on_host = _counts([proc / "vmstat"])
        self._next = self._in_cgroup, self._on_host

    @property
    def are_readable(self) -> bool:
        """Whether any count could be read."""
        counts = (*self._in_cgroup.values(), *self._on_host.values())
        return any(count is not None for count in counts)

    def forget_older(self) -> None:
        """Compare with the counts of the last call from now on: what is older concerns others."""
        self._in_cgroup, self._on_host = self._next
        self._next = _counts(self._in_cgroup), _counts(self._on_host)

    def grown(self) -> OomGrowth:
        """Compare with now. The process may be gone; ask before its cgroup is removed."""
        return OomGrowth(_has_grown(self._in_cgroup), _has_grown(self._on_host))


def _counts(files: Iterable[Path]) -> dict[Path, int | None]:
    return {file: _count(file) for file in files}


def _has_grown(before: dict[Path, int | None]) -> bool:
    for file, earlier in before.items():
        now = _count(file)
        if earlier is not None and now is not None and now > earlier:
            return True
    return False


def _count(file: Path) -> int | None:
    """Return the file's `oom_kill` row; None where it has none, or is gone with its cgroup."""
    try:
        rows = (line.split() for line in file.read_text().splitlines())
        return next((int(row[1]) for row in rows if row[:1] == ["oom_kill"]), None)
    except OSError:
        return None


def _cgroup_files(pid: int, proc: Path, cgroups: Path) -> list[Path]:
    """Return the files that count a process's cgroup (cgroups(7), /proc/PID/cgroup)."""
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []
    found: list[Path] = []
    for line in lines:
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0":
            found += _v2_file(path.lstrip("/"), cgroups)
        elif "memory" in controllers.split(","):
            # cgroup-v1/memory.txt: a directory counts its own processes only, so no other will do.
            found.append(cgroups / "memory" / path.lstrip("/") / "memory.oom_control")
    return found


def _v2_file(path: str, cgroups: Path) -> list[Path]:
    """Return the memory.events to look at: of the cgroup, else of its parent, else none.

    The one of the parent counts its children too (cgroup-v2.rst). A worker's cgroup has none where
    nobody enabled the memory controller for it; further up there are strangers.
    """
    for mount in (cgroups, cgroups / "unified"):
        own = mount / path
        for directory in (own, own.parent) if path else (own,):
            file = directory / "memory.events"
            if file.exists():
                return [file]
    return []
