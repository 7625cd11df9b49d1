"""What a worker leaves in /dev/shm when it is killed: vLLM's processes share memory by names there.

Python's resource tracker takes them away after its parents, but is killed with them; 400 MB a death
were seen (shm_overview(7), multiprocessing.shared_memory).
"""

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_PLACE = "/dev/shm/"  # noqa: S108 (names of others are looked at, none is made)
_LOOK_S = 2.0
# multiprocessing's, torch's, NCCL's, OpenMP's: whatever else a user has mapped is left alone.
_KINDS = ("psm_", "sem.mp-", "torch_", "nccl-", "__KMP_")


def mapped(pids: Iterable[int], proc: Path = Path("/proc"), place: Path = Path(_PLACE)) -> set[str]:
    """Return the names in /dev/shm that these processes share memory by."""
    inodes: set[int] = set()
    for pid in pids:
        with suppress(OSError):  # gone, or not for us to see
            rows = (proc / str(pid) / "maps").read_text(errors="replace").splitlines()
            # Address, rights, offset, device, inode, path (proc_pid_maps(5)). Not by the path:
            # glibc makes a semaphore by another name, which is gone by the time it has its own.
            inodes.update(int(row.split(maxsplit=5)[4]) for row in rows if f" {_PLACE}" in row)
    return {name for name, inode in _names(place) if inode in inodes} if inodes else set()


def mapped_in_time(pids: Iterable[int]) -> set[str]:
    """Return as `mapped`, but nothing where that takes more than 2 s, or no thread can be had.

    For those who are killed in any case: a process that hangs in its memory's lock (mmap_lock) lets
    nobody read its mappings.
    """
    found: set[str] = set()
    look = threading.Thread(target=lambda: found.update(mapped(pids)), daemon=True)
    with suppress(RuntimeError):  # none can be had, maybe for all those that are to be killed
        look.start()
        look.join(_LOOK_S)
    return set(found)


def _names(place: Path) -> Iterator[tuple[str, int]]:
    with suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith(_KINDS):
                yield entry.path, entry.inode()


def of_our_user(place: Path = Path(_PLACE)) -> set[str]:
    """Return all such names of our user: for a service whose user runs nothing else, and not root.

    A process may have made a name, or let go of it, between a look and its end.
    """
    found = set()
    for path in place.iterdir() if os.geteuid() != 0 else ():
        name = f"{_PLACE}{path.name}"
        with suppress(OSError):  # gone meanwhile
            if path.name.startswith(_KINDS) and path.lstat().st_uid == os.geteuid():
                found.add(name)
    return found


def unlink(paths: Iterable[str]) -> None:
    """Take names away that are our user's; memory that is still mapped stays until it is not."""
    for path in paths:
        with suppress(OSError):  # gone already, or somebody else's
            if os.lstat(path).st_uid == os.geteuid():
                os.unlink(path)  # noqa: PTH108 (a name of the kernel's, not a path of ours)
