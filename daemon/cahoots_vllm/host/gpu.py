"""GPUs as NVML sees them. A host without driver or GPU has an empty list, which is no error."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from cahoots_vllm.host.blocking import run_blocking

_DEADLINE_S = 2.0


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process holding GPU memory; `memory_used` in bytes, None where the driver hides it."""

    pid: int
    memory_used: int | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: memory in bytes, utilization in percent, temperature in degrees Celsius."""

    index: int
    name: str
    memory_total: int
    memory_used: int
    utilization: int | None
    temperature: int | None
    processes: tuple[GpuProcess, ...]


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
        self._is_stuck = False

    async def read(self) -> tuple[Gpu, ...]:
        """Return the GPUs now, or the last answer when NVML does not answer in time."""
        if not self._is_stuck:
            self._is_stuck = True
            try:
                self._last = await run_blocking(self._read_and_release, deadline_s=_DEADLINE_S)
            except TimeoutError:
                return self._last
        return self._last

    def _read_and_release(self) -> tuple[Gpu, ...]:
        try:
            return _read_all()
        finally:
            self._is_stuck = False


def _read_all() -> tuple[Gpu, ...]:
    # Loaded here, in the thread: it is a large module, and the first answer must not wait for it.
    import pynvml  # noqa: PLC0415

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()  # no driver library, no driver, or no device
    try:
        return tuple(_read_one(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return ()  # the GPU went away while we looked
    finally:
        with suppress(pynvml.NVMLError):  # a GPU that fell off the bus
            pynvml.nvmlShutdown()


def _read_one(nvml: Any, index: int) -> Gpu:  # noqa: ANN401 (pynvml ships no types)
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    return Gpu(
        index=index,
        name=str(nvml.nvmlDeviceGetName(handle)),
        memory_total=int(memory.total),
        memory_used=int(memory.used),
        utilization=_ask(nvml, lambda: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
        temperature=_ask(
            nvml, lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        ),
        processes=tuple(GpuProcess(int(p.pid), p.usedGpuMemory) for p in processes),
    )


def _ask(nvml: Any, question: Callable[[], int]) -> int | None:  # noqa: ANN401 (as above)
    """Return the answer, None where this GPU does not support the question (MIG)."""
    try:
        return question()
    except nvml.NVMLError:
        return None
