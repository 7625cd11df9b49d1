"""Stays beside one worker and ends it when no daemon comes back: an engine nobody supervises.

`python -I -m cahoots_vllm.worker.minder LOCK PID STARTED TIMEOUT_S [CGROUP]`. The daemon holds a
lock as long as it lives (flock(2)); whoever can have it knows that there is none. Started by the
daemon, survives it, ends with the worker. Standard library only: it is there for as long as the
worker is.
"""

import sys
import time
from pathlib import Path

from cahoots_vllm.host import systemd
from cahoots_vllm.host.file_lock import is_held
from cahoots_vllm.host.process_tree import read_process
from cahoots_vllm.worker.reap import end_tree

_LOOK_S = 1.0
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
    while True:
        row = read_process(pid)
        if row is None or row.started != started or row.is_zombie:
            return 0
        now = time.monotonic()
        if is_held(lock):
            alone_since = None
        elif alone_since is None:
            alone_since = now
        elif now - alone_since >= timeout_s or _is_given_up(unit):
            sys.stderr.write(f"cahoots-vllm: no daemon comes back: ending worker {pid}\n")
            sys.stderr.flush()
            end_tree(cgroup, pid, started)
            return 0
        time.sleep(_LOOK_S)


def _is_given_up(unit: systemd.Unit | None) -> bool:
    return unit is not None and systemd.active_state(unit) in _ENDED


if __name__ == "__main__":
    sys.exit(main())
