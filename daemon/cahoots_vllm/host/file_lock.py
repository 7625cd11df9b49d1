"""The lock a daemon holds as long as it lives; the kernel gives it back, however it ends.

On its runtime directory itself (flock(2)): there is no file to leave behind.
"""

import fcntl
import os
import time
from pathlib import Path

from cahoots_vllm.core.errors import CahootsError, Kind

_WAIT_S = 1.0
_POLL_S = 0.02


def hold(path: Path) -> int:
    """Take a directory's lock and return its descriptor, which must stay open. Blocking, 1 s.

    Raises CahootsError (CONFLICT) while another process has it. Not at once: whoever only looks
    (`is_held`) has it for a moment, too, and a worker's minder looks each second.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    deadline = time.monotonic() + _WAIT_S
    while not _can_lock(descriptor, fcntl.LOCK_EX):
        if time.monotonic() >= deadline:
            os.close(descriptor)
            raise CahootsError(
                Kind.CONFLICT,
                f"another cahoots-vllmd is running: it uses {path}",
                "stop it first: systemctl stop cahoots-vllm, or Ctrl-C where it runs",
            )
        time.sleep(_POLL_S)
    return descriptor


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock; nobody does where there is no such directory."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared: those who only look do not get in each other's way.
        return not _can_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _can_lock(descriptor: int, kind: int) -> bool:
    """Take the lock if that can be done at once."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
