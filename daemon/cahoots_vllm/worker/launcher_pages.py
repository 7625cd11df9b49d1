"""Puts the memory of a forked worker of the CPU engine into huge pages, once it is ready.

What starts within a second of another engine's end gets that one's pages, single ones from all over
the memory, and reads all its weights there for each token: up to a tenth slower in a virtual
machine than the plain command, whose imports take those pages (tests/bench/README.md).

Part of launcher.py, run by the engine's own Python: the standard library and vLLM only.
"""

import contextlib
import ctypes
import errno
import importlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

THREAD = "huge-pages"  # its name in proc(5)
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_HUGE_BYTES = 2 << 20
_PAGE_BYTES = 4 << 10
_MADV_COLLAPSE = 25  # madvise(2), since Linux 6.1; EINVAL before
# The first answers to those who waited for this start come first.
_DELAY_S = 1.0
# The host has no huge page left, or the cgroup no memory (madvise(2)): more asking only costs.
_NO_MEMORY, _MOST_REFUSALS = (errno.ENOMEM, errno.EBUSY), 8
# The last byte of an entry of pagemap (proc_pid_pagemap(5)): it is there; and no other process's.
_IS_THERE, _IS_OWN = 0x80, 0x81
_NOT_OWN = bytes(byte for byte in range(256) if byte & _IS_OWN != _IS_OWN)
_NOT_SHARED = bytes(byte for byte in range(256) if byte & _IS_OWN != _IS_THERE)


def arrange() -> None:
    """Let the workers forked from here do it after the last step of their start.

    Raises ImportError in an engine that is not known.
    """
    if not importlib.import_module("vllm.platforms").current_platform.is_cpu():
        return  # the weights are elsewhere
    worker = importlib.import_module("vllm.v1.worker.cpu_worker").CPUWorker
    last_step = getattr(worker, "compile_or_warm_up_model", None)
    if last_step is None:
        why = "vllm.v1.worker.cpu_worker has no compile_or_warm_up_model"
        raise ImportError(why)
    cpus = os.sched_getaffinity(0)  # a worker's threads are bound where it computes

    def warm_up_and_collapse(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (vLLM's)
        result = last_step(*args, **kwargs)
        with contextlib.suppress(RuntimeError):  # no thread can be had: it serves all the same
            threading.Thread(target=collapse_all, args=(cpus,), daemon=True).start()
        return result

    worker.compile_or_warm_up_model = warm_up_and_collapse


def collapse_all(cpus: set[int]) -> None:
    """Put this process's own memory into huge pages, from a thread that may run on these CPUs.

    Whatever forbids it, the memory stays as it is then, and nothing is said: it serves all the
    same, and a traceback here would be taken for the cause of its end some day.
    """
    with contextlib.suppress(Exception):
        _collapse_all(cpus)


def _collapse_all(cpus: set[int]) -> None:
    Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(THREAD)
    if "[never]" in _SETTING.read_text():
        return  # the admin's wish, which MADV_COLLAPSE would not ask about
    os.sched_setaffinity(0, cpus)
    time.sleep(_DELAY_S)
    libc = ctypes.CDLL(None, use_errno=True)
    refusals = 0
    for start in _own_memory():
        begun = time.monotonic()
        if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(_HUGE_BYTES), _MADV_COLLAPSE):
            refusals += ctypes.get_errno() in _NO_MEMORY
            if refusals > _MOST_REFUSALS:
                return
        time.sleep(time.monotonic() - begun)  # whoever waits for this memory gets it half the time


def _own_memory() -> Iterator[int]:
    """Yield the addresses of huge pages' worth of memory that is all ours, and nearly all there.

    What is shared with the parent would be copied, and what is not there be made.
    """
    lines = Path("/proc/self/maps").read_bytes().rstrip().split(b"\n")  # names may be any bytes
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        for line in lines:
            span, flags, _offset, _device, inode = line.split()[:5]
            if flags == b"rw-p" and inode == b"0":
                begin, end = (int(address, 16) for address in span.split(b"-"))
                first = -(-begin // _HUGE_BYTES) * _HUGE_BYTES
                for start in range(first, end - _HUGE_BYTES + 1, _HUGE_BYTES):
                    if _is_own(pagemap, start):
                        yield start


def _is_own(pagemap: BinaryIO, start: int) -> bool:
    pages = _HUGE_BYTES // _PAGE_BYTES
    pagemap.seek(start // _PAGE_BYTES * 8)
    last_bytes = pagemap.read(pages * 8)[7::8]  # less where the memory has gone meanwhile
    own, shared = (last_bytes.translate(None, others) for others in (_NOT_OWN, _NOT_SHARED))
    return len(own) * 8 >= pages * 7 and not shared
