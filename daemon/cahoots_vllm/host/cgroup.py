"""The worker's cgroup, where systemd delegated one to this daemon (cgroups(7)).

Works on the unified hierarchy and on the v2 tree of a hybrid one. Without delegation there is no
cgroup: writing elsewhere would break systemd's single-writer rule.
"""

import errno
import os
from pathlib import Path

_MOUNTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
_DELEGATED = "user.delegate"  # set by systemd >= 251 on delegated cgroups
_DAEMON, _WORKER, _STANDBY = "daemon", "worker-", "standby-"


def find_delegated() -> Path | None:
    """Return the directory of the cgroup that systemd delegated to us, None without one.

    It is our own, or the one above: where we have moved already, or systemd has put us
    (DelegateSubgroup=, systemd 254).
    """
    own = _own()
    if own is None:
        return None
    return next((place for place in (own, own.parent) if _is_delegated(place)), None)


def leave_to_workers(delegated: Path) -> None:
    """Move this process out of the delegated cgroup into one of its own below.

    Inner cgroups are to hold no process once controllers are enabled (cgroups(7)); none is enabled
    here: systemd 252 starts the next daemon in the delegated one while a worker lives below it.
    Raises OSError.
    """
    if _own() != delegated:
        return
    place = daemon_cgroup(delegated)
    place.mkdir(exist_ok=True)
    (place / "cgroup.procs").write_text("0")


def daemon_cgroup(delegated: Path) -> Path:
    """Return the daemon's own cgroup, and of whatever it starts for itself."""
    return delegated / _DAEMON


def worker_cgroups(delegated: Path) -> list[Path]:
    """Return every worker's cgroup there is, and every standby's."""
    return sorted([*delegated.glob(f"{_WORKER}*"), *standby_cgroups(delegated)])


def standby_cgroups(delegated: Path) -> list[Path]:
    """Return every standby's cgroup there is."""
    return sorted(delegated.glob(f"{_STANDBY}*"))


def _own() -> Path | None:
    own = next(
        (
            line.partition("::")[2]
            for line in Path("/proc/self/cgroup").read_text().splitlines()
            if line.startswith("0::")
        ),
        None,
    )
    if own is None:
        return None
    mount = next((m for m in _MOUNTS if (m / "cgroup.controllers").exists()), None)
    if mount is None:
        return None
    return mount / own.lstrip("/")


def _is_delegated(directory: Path) -> bool:
    try:
        is_delegated = os.getxattr(directory, _DELEGATED) == b"1"
    except OSError:
        return False  # no such attribute
    return is_delegated and os.access(directory, os.W_OK)


class WorkerCgroup:
    """One worker's cgroup below the delegated one, or a standby's."""

    def __init__(self, path: Path) -> None:
        """`make` creates it."""
        self.path = path

    @classmethod
    def of(cls, delegated: Path, generation: int) -> "WorkerCgroup":
        """Name the one of a generation."""
        return cls(delegated / f"{_WORKER}{generation}")

    @classmethod
    def of_standby(cls, delegated: Path, number: int) -> "WorkerCgroup":
        """Name the one of a standby."""
        return cls(delegated / f"{_STANDBY}{number}")

    def enter(self, pid: int) -> None:
        """Move a process in, with all its threads. Raises OSError."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def make(self) -> None:
        """Create the directory; a left-over empty one of the same number is taken."""
        self.path.mkdir(exist_ok=True)

    def kill(self) -> None:
        """SIGKILL everything in it at once (cgroup.kill, Linux 5.14)."""
        (self.path / "cgroup.kill").write_text("1")

    @property
    def is_populated(self) -> bool:
        """Whether any live process is in it or below."""
        try:
            events = (self.path / "cgroup.events").read_text()
        except FileNotFoundError:
            return False
        return "populated 1" in events

    def pids(self) -> list[int]:
        """Return the pids directly in it."""
        try:
            return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]
        except FileNotFoundError:
            return []

    def remove(self) -> bool:
        """Remove it once empty; False: somebody is still in it."""
        try:
            self.path.rmdir()
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
            if error.errno != errno.ENOENT:
                raise
        return True
