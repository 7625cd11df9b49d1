"""What the kernel said since we last looked: whom it killed for memory, which GPU failed.

Reads /dev/kmsg (the kernel's Documentation/ABI/testing/dev-kmsg); nothing is written there.
"""

import contextlib
import errno
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

_KMSG = Path("/dev/kmsg")
_PID_NAMESPACE = Path("/proc/self/ns/pid")
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, linux/proc_ns.h
_RECORD_BYTES = 8192  # a read gives one record; into less than its size it fails with EINVAL
_MAX_RECORDS = 2000  # a flood must not hold the caller; the rest comes with the next call
# No /dev/kmsg (a container), not for us (dmesg_restrict), or something else put in its place.
_NOT_READABLE = (
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENXIO, errno.ENODEV, errno.ESPIPE,
)  # fmt: skip

# mm/oom_kill.c: "Out of memory: Killed process 123 (name) total-vm:...", with "Memory cgroup out
# of memory" where a cgroup's limit was met, and no such words in front before Linux 5.1.
_OOM_KILL = re.compile(r"(?:^|: )Killed process (\d+) \(")
_XID = re.compile(r"NVRM: Xid \([^)]*\): (\d+)(?:, pid='?(\d+))?")
# The driver logs 45 for every killed process that was using the GPU: the end, not its cause.
_XID_OF_A_KILL = "45"


class KernelLog:
    """The kernel's messages from now on; empty for ever where they may not be read."""

    def __init__(self, path: Path = _KMSG) -> None:
        """Open the log and pass over what is in it. Raises OSError when out of descriptors."""
        self._descriptor = _open_at_end(path)

    @property
    def is_readable(self) -> bool:
        """Whether `take` can ever return something."""
        return self._descriptor is not None

    def take(self) -> tuple[str, ...]:
        """Return the messages since the last call, the oldest first; never waits.

        At most 2000 at once. What the kernel overwrote before we came is missing.
        """
        if self._descriptor is None:
            return ()
        found: list[str] = []
        for _ in range(_MAX_RECORDS):
            try:
                record = os.read(self._descriptor, _RECORD_BYTES)
            except BrokenPipeError:
                continue  # EPIPE: overrun; the next read gives the oldest record still there
            except BlockingIOError:
                break  # EAGAIN: that was the last one
            if not record:
                break  # something else in its place, /dev/null for one
            found.append(_message(record))
        return tuple(found)

    def close(self) -> None:
        """Close it; nothing can be read any more."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _open_at_end(path: Path) -> int | None:
    with contextlib.ExitStack() as undo:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            undo.callback(os.close, descriptor)
            os.lseek(descriptor, 0, os.SEEK_END)
        except OSError as error:
            if error.errno in _NOT_READABLE:
                return None
            raise
        undo.pop_all()
        return descriptor


def _message(record: bytes) -> str:
    """Return the text of "prio,seq,time,flags;text", without the " KEY=value" lines below it."""
    text = record.partition(b"\n")[0].partition(b";")[2]
    return text.decode(errors="replace")


def has_initial_pids(namespace: Path = _PID_NAMESPACE) -> bool:
    """Whether our pids are those that the kernel's messages name (pid_namespaces(7))."""
    try:
        return namespace.stat().st_ino == _INITIAL_PID_NAMESPACE
    except OSError:
        return False  # unknown: better no name than a stranger's


def find_oom_kill(messages: Iterable[str], pids: Collection[int]) -> str | None:
    """Return the first message that says the kernel killed one of these processes for memory.

    The kernel names pids of the initial namespace: ask `has_initial_pids` before trusting it.
    """
    for message in messages:
        found = _OOM_KILL.search(message)
        if found is not None and int(found[1]) in pids:
            return message
    return None


def find_xid(messages: Iterable[str], pids: Collection[int] | None = None) -> str | None:
    """Return the first GPU error of NVIDIA's driver (its "Xid Errors" guide), the others' cause.

    Xid 45 is passed over: it comes with every killed process, our own kills included. With `pids`,
    so is one that names another process; one that names none concerns the GPU as a whole.
    """
    for message in messages:
        found = _XID.search(message)
        if found is None or found[1] == _XID_OF_A_KILL:
            continue
        if pids is None or found[2] is None or int(found[2]) in pids:
            return message
    return None
