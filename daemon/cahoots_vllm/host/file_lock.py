"""The lock a daemon holds as long as it lives; the kernel gives it back, however it ends.

On its runtime directory itself (flock(2)): there is no file to leave behind.
"""

import fcntl
import os
from pathlib import Path

from cahoots_vllm.core.errors import CahootsError, Kind


def hold(path: Path) -> int:
    """Take a directory's lock and return its descriptor, which must stay open.

    Raises CahootsError (CONFLICT) while another process has it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise CahootsError(
            Kind.CONFLICT,
            f"another cahoots-vllmd is running: it uses {path}",
            "stop it first: systemctl stop cahoots-vllm, or Ctrl-C where it runs",
        ) from error
    return descriptor


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock; nobody does where there is no such directory."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared: those who only look do not get in each other's way.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
