"""Processor time shared process by process, as in a service's cgroup."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")
_V1 = Path("/sys/fs/cgroup/cpu")


@contextmanager
def cpu_group() -> Iterator[bool]:
    """Be in a CPU cgroup of one's own, with whatever is started meanwhile; False: cannot be made.

    Outside of one the kernel shares the processors by session (autogroups, sched(7)). Each worker
    is a session: on Linux 6.18 one that pins itself to a CPU on which another session is busy was
    seen to get next to nothing of it, for minutes.
    """
    if not _AUTOGROUP.exists() or _AUTOGROUP.read_text().strip() == "0":
        yield True
        return
    parent = _parent()
    place, control = parent / f"cahoots-test-{os.getpid()}", parent / "cgroup.subtree_control"
    try:
        if control.exists():  # version 2
            control.write_text("+cpu")
        place.mkdir()
        (place / "cgroup.procs").write_text("0")
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        (parent / "cgroup.procs").write_text("0")
        with suppress(OSError):  # something of the test's still ends
            place.rmdir()


def _parent() -> Path:
    """Return our cgroup in the hierarchy of the CPU controller (cgroups(7), version 1 or 2)."""
    rows = [row.split(":", 2) for row in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, path in rows:
        if "cpu" in controllers.split(","):
            return _V1 / path.lstrip("/")
    return Path("/sys/fs/cgroup") / rows[-1][2].lstrip("/")
