"""The worker's cgroup, where systemd delegated one to this daemon (cgroups(7)).

Works on the unified hierarchy and on the v2 tree of a hybrid one. Without delegation there is no
cgroup: writing elsewhere would break systemd's single-writer rule.
"""

import errno
import os
from pathlib import Path

_MOUNTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
_DELEGATED = "user.delegate"  # set by systemd >= 251 on delegated cgroups


def find_delegated() -> Path | None:
    """Return our own cgroup's directory if systemd delegated it to us, else None."""
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
    directory = mount / own.lstrip("/")
    try:
        is_delegated = os.getxattr(directory, _DELEGATED) == b"1"
    except OSError:
        return None  # no such attribute: not delegated
    return directory if is_delegated and os.access(directory, os.W_OK) else None


class WorkerCgroup:
    """One generation's cgroup below the delegated one."""

    def __init__(self, parent: Path, generation: int) -> None:
        """Name it; `make` creates it."""
        self.path = parent / f"worker-{generation}"

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

    def remove(self) -> None:
        """Remove it once empty; a busy one is left for the next start of this number."""
        try:
            self.path.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EBUSY):
                raise
