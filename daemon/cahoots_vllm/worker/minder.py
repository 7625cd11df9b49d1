"""Stays beside one worker and ends it when no daemon comes back: an engine nobody supervises.

`python -I -m cahoots_vllm.worker.minder LOCK PID STARTED TIMEOUT_S [CGROUP]`. The daemon holds a
lock as long as it lives (flock(2)); whoever can have it knows that there is none. Started by the
daemon, survives it, ends with the worker. Standard library only: it is there for as long as the
worker is.
"""

import os
import sys
import time
from pathlib import Path

from cahoots_vllm.host import systemd
from cahoots_vllm.host.cgroup import WorkerCgroup
from cahoots_vllm.host.file_lock import is_held
from cahoots_vllm.host.process_tree import session_processes
from cahoots_vllm.worker.reap import end_tree, forget_shared_memory

_LOOK_S = 1.0
_LOOKS = 2
# Not coming back, in systemd's words: stopped, or given up on.
_ENDED = ("inactive", "failed")


def main() -> int:
    """Watch until the worker is gone, or has to go."""
    lock, pid, started, timeout_s = (
        Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]),
    )  # fmt: skip
    cgroup = Path(sys.argv[5]) if len(sys.argv) > 5 else None  # noqa: PLR2004 (optional argument)
    unit = systemd.own_unit()
    alone_since: float | None = None
    given_up = 0
    while is_anybody_there(cgroup, pid, started):
        now = time.monotonic()
        if is_held(lock):
            alone_since, given_up = None, 0
        elif alone_since is None:
            alone_since = now
        else:
            given_up = given_up + 1 if _is_given_up(unit) else 0
        if alone_since is not None and (now - alone_since >= timeout_s or given_up >= _LOOKS):
            # A warning, in the journal's words (sd-daemon(3)); plain where a person reads it.
            level = "<4>" if unit is not None else "cahoots-vllm: "
            sys.stderr.write(f"{level}no daemon comes back: ending worker {pid}\n")
            sys.stderr.flush()
            if unit is not None:
                forget_shared_memory(unit)  # now: this process is in the cgroup that is ended
            end_tree(cgroup, pid, started)
            return 0
        time.sleep(_LOOK_S)
    return 0


def is_anybody_there(cgroup: Path | None, pid: int, started: int) -> bool:
    """Whether a process of the worker lives; its first one may be gone before the others."""
    if cgroup is not None:
        return any(member != os.getpid() for member in WorkerCgroup(cgroup).pids())
    return bool(session_processes(pid, started))


def _is_given_up(unit: systemd.Unit | None) -> bool:
    if unit is None or systemd.active_state(unit) not in _ENDED:
        return False
    # In a restart that waits for another unit it is inactive, too, with the job to start it queued.
    return systemd.pending_job(unit) in ("", "stop", None)


if __name__ == "__main__":
    sys.exit(main())
