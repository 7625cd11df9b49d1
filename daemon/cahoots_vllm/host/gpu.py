"""GPUs as NVML sees them. A host without driver or GPU has an empty list, which is no error."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.process_info import owner_name, shown_command

_DEADLINE_S = 2.0
_MEMINFO = Path("/proc/meminfo")
_KIB = 1024
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process holding GPU memory; `memory_used` in bytes, None where the driver hides it.

    `user` and `command` are for people, "" where the process is gone or not of our pid namespace.
    """

    pid: int
    memory_used: int | None
    user: str = ""
    command: str = ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: memory in bytes, utilization in percent, temperature in degrees Celsius.

    `uuid` is stable over restarts, "" where the driver tells none. `is_unified`: the GPU has no
    memory of its own but the host's, and that is what the figures say. `capability` is CUDA's.
    """

    index: int
    name: str
    memory_total: int
    memory_used: int
    utilization: int | None
    temperature: int | None
    processes: tuple[GpuProcess, ...]
    uuid: str = ""
    is_unified: bool = False
    capability: tuple[int, int] | None = None


class GpuReader(Protocol):
    """The seam to NVML."""

    async def read(self) -> tuple[Gpu, ...]:
        """Return the GPUs now."""
        ...


class NvmlReader:
    """Reads through NVML, which can hang: while a call is stuck the last answer stands."""

    def __init__(self) -> None:
        """Nothing is loaded before the first read."""
        self._last: tuple[Gpu, ...] = ()
        self._turn = asyncio.Lock()
        # Held by the thread that is in NVML, and by nothing else: a caller that is cancelled, or
        # whose call never got a thread, cannot leave it taken.
        self._inside = threading.Lock()

    async def read(self) -> tuple[Gpu, ...]:
        """Return the GPUs now, or the last answer when NVML does not answer in time."""
        async with self._turn:  # whoever comes meanwhile waits for an answer of now
            with suppress(TimeoutError):
                await run_blocking(self._refresh, deadline_s=_DEADLINE_S)
            return self._last

    def _refresh(self) -> None:
        if not self._inside.acquire(blocking=False):
            return  # a call that its reader gave up is still in there
        try:
            self._last = _read_all()
        finally:
            self._inside.release()


def _read_all() -> tuple[Gpu, ...]:
    # Loaded here, in the thread: it is a large module, and the first answer must not wait for it.
    import pynvml  # noqa: PLC0415

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()  # no driver library, no driver, or no device
    try:
        found = [_read_one(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return ()  # the driver went away while we looked
    finally:
        with suppress(pynvml.NVMLError):  # a GPU that fell off the bus
            pynvml.nvmlShutdown()
    return tuple(gpu for gpu in found if gpu is not None)


def _read_one(nvml: Any, index: int) -> Gpu | None:  # noqa: ANN401 (pynvml ships no types)
    """Return one GPU; None for one that is lost, which must not hide the others."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name = str(nvml.nvmlDeviceGetName(handle))
        own = _own_memory(nvml, handle)
    except nvml.NVMLError:
        return None
    total, used = own or _host_memory()
    return Gpu(
        index=index,
        name=name,
        memory_total=total,
        memory_used=used,
        utilization=_ask(nvml, lambda: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
        temperature=_ask(
            nvml, lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        ),
        processes=_processes(nvml, handle),
        uuid=_ask(nvml, lambda: str(nvml.nvmlDeviceGetUUID(handle))) or "",
        is_unified=own is None,
        capability=_ask(nvml, lambda: _capability(nvml, handle)),
    )


def _capability(nvml: Any, handle: object) -> tuple[int, int]:  # noqa: ANN401 (as above)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return int(major), int(minor)


def _own_memory(nvml: Any, handle: object) -> tuple[int, int] | None:  # noqa: ANN401 (as above)
    """Return a GPU's total and used bytes; None: it has none of its own (GB10, Jetson)."""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError_NotSupported:
        return None  # docs.nvidia.com/dgx/dgx-spark/known-issues.html
    return (int(memory.total), int(memory.used)) if memory.total else None


def _host_memory() -> tuple[int, int]:
    """Return the host's total bytes and those no new process could get (proc_meminfo(5))."""
    rows = (line.split() for line in _MEMINFO.read_text().splitlines())
    kib = {row[0]: int(row[1]) for row in rows if row[0] in ("MemTotal:", "MemAvailable:")}
    return kib["MemTotal:"] * _KIB, (kib["MemTotal:"] - kib["MemAvailable:"]) * _KIB


def _processes(nvml: Any, handle: object) -> tuple[GpuProcess, ...]:  # noqa: ANN401 (as above)
    """Return who holds memory, by pid: a process may both compute and draw."""
    used: dict[int, int | None] = {}
    for question in (
        partial(nvml.nvmlDeviceGetComputeRunningProcesses, handle),
        partial(nvml.nvmlDeviceGetGraphicsRunningProcesses, handle),
    ):
        for process in _ask(nvml, question) or ():
            known = used.get(process.pid)
            here = process.usedGpuMemory
            # Both lists name a process's whole memory, so nothing is added up.
            used[process.pid] = here if known is None else max(known, here or 0)
    return tuple(GpuProcess(p, m, owner_name(p), shown_command(p)) for p, m in used.items())


def _ask(nvml: Any, question: Callable[[], _T]) -> _T | None:  # noqa: ANN401 (as above)
    """Return the answer, None where the GPU (MIG) or an old driver does not know the question."""
    try:
        return question()
    except (nvml.NVMLError, nvml.NVMLLibraryMismatchError):
        return None
