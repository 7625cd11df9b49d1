"""Reads files into the page cache before somebody else wants them. Blocking."""

import ctypes
import mmap
import os
import platform
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cahoots_vllm.core.amounts import MIB

_PIECE_BYTES: Final = 4 * MIB
# ioprio_set(2) has no wrapper in the C library: its number, the calling thread, the idle class.
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}
_WHO_PROCESS, _CALLER, _IDLE = 1, 0, 3 << 13
_NICEST: Final = 19


def read_ahead(files: Iterable[Path], budget_bytes: int, stop: threading.Event) -> int:
    """Read what of the files is not in the page cache; return how many bytes that was.

    It is the budget at most, and ends within a piece when `stop` is set. To be called in a thread
    of its own, whose priority it lowers for good. Raises OSError.
    """
    _yield_to_others()
    done = 0
    # Not from the heap: each thread has its own, and keeps what was freed there.
    with mmap.mmap(-1, _PIECE_BYTES) as piece, memoryview(piece) as buffer:
        for path in files:
            with path.open("rb", buffering=0) as stream:
                size = os.fstat(stream.fileno()).st_size
                for at in range(0, size, _PIECE_BYTES):
                    count = min(_PIECE_BYTES, size - at, budget_bytes - done)
                    if stop.is_set() or count <= 0:
                        return done
                    if not _is_cached(stream.fileno(), at, at + count - 1):
                        done += os.preadv(stream.fileno(), [buffer[:count]], at)
    return done


def _is_cached(file: int, *places: int) -> bool:
    """Return whether the bytes at these places can be read without the disk (preadv2(2))."""
    try:
        return all(os.preadv(file, [bytearray(1)], at, os.RWF_NOWAIT) for at in places)
    except OSError:
        return False  # EAGAIN, or a filesystem that does not say


def _yield_to_others() -> None:
    """Give this thread the lowest priority for disk and processor."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICEST)
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:  # where a kernel refuses, -1 is returned, and the priority stays
        ctypes.CDLL(None).syscall(number, _WHO_PROCESS, _CALLER, _IDLE)
