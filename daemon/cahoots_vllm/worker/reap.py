"""Ends the workers of a daemon that will not come back: the unit's `ExecStopPost=`.

`python -I -m cahoots_vllm.worker.reap`, run by systemd in the unit's cgroup after each
end of the daemon. Does nothing where systemd is about to start the daemon again: it will find its
worker. Standard library only, since it stands between an end and the next start.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from cahoots_vllm.host import cgroup, process_tree, shared_memory, systemd

_DEADLINE_S = 15.0
_POLL_S = 0.02
_NEVER_AGAIN = "78"  # RestartPreventExitStatus= in the unit


def comes_back(job: str | None, environ: Mapping[str, str]) -> bool:
    """Whether the daemon is about to be started again, as ExecStopPost= sees it.

    `job` is the unit's in systemd's queue, None if it could not be asked. The environment is that
    of systemd.exec(5): SERVICE_RESULT, EXIT_STATUS.
    """
    if job:
        return job != "stop"
    if environ.get("EXIT_STATUS") == _NEVER_AGAIN:
        return False
    # Restart=on-failure: what did not end well is started again.
    return environ.get("SERVICE_RESULT", "success") != "success"


def end_tree(group: Path | None, pid: int, started: int) -> None:
    """SIGKILL a worker's whole tree, by its cgroup, else by its session; 15 s at most."""
    if group is not None:
        end_cgroup(group)
        return
    deadline = time.monotonic() + _DEADLINE_S
    shared: set[str] = set()
    look = partial(process_tree.session_processes, pid, started)
    while left := process_tree.look_twice(look):
        shared |= shared_memory.mapped_in_time(process.pid for process in left)
        process_tree.kill(left, signal.SIGKILL)
        if time.monotonic() > deadline:
            return  # in an uninterruptible wait
        time.sleep(_POLL_S)
    shared_memory.unlink(shared)


def end_cgroup(path: Path) -> bool:
    """SIGKILL everything in a worker's cgroup and remove it; False: somebody cannot be killed."""
    worker = cgroup.WorkerCgroup(path)
    # First of all: one of them may be this process.
    shared = shared_memory.mapped_in_time(worker.pids())
    shared_memory.unlink(shared)
    deadline = time.monotonic() + _DEADLINE_S
    while worker.is_populated:
        worker.kill()
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    worker.remove()
    return True


def main() -> int:
    """Reap, or leave it to the next daemon."""
    unit = systemd.own_unit()
    job = systemd.pending_job(unit) if unit is not None else None
    delegated = cgroup.find_delegated()
    if delegated is None or comes_back(job, os.environ):
        return 0
    workers = cgroup.worker_cgroups(delegated)
    # What the daemon had started for itself: a download.
    end_cgroup(cgroup.daemon_cgroup(delegated))
    for path in workers:
        is_gone = end_cgroup(path)
        said = "ended" if is_gone else "cannot be killed: a driver or a disk hangs"
        sys.stderr.write(f"<4>{path.name}, left by the daemon: {said}\n")
    forget_shared_memory(unit)
    return 0


def forget_shared_memory(unit: systemd.Unit | None) -> None:
    """Take away what is left in /dev/shm, where all of our user's is this service's."""
    if unit is not None and not unit.is_user:
        shared_memory.unlink(shared_memory.of_our_user())


if __name__ == "__main__":
    sys.exit(main())
