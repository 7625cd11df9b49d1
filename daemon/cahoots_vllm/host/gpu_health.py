"""What NVML tells of the driver and of the GPUs' health, beside memory and holders (host.gpu).

Blocking, and NVML can hang: the caller has a deadline, and a call that hangs is not asked again.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from cahoots_vllm.core.doctor.speed import ClockFacts

_MILLI = 1000
_TURN_S = 1.5  # two may ask at the same time; both are in threads
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU: compute capability, and why its clocks are low; None where it does not say."""

    index: int
    capability: tuple[int, int] | None
    clocks: ClockFacts | None


@dataclass(frozen=True, slots=True)
class DriverHealth:
    """`error`: NVML's name for why it gives no answer; `library` its version, `cuda` the newest."""

    error: str | None = None
    library: str | None = None
    cuda: tuple[int, int] | None = None
    cards: tuple[Card, ...] = ()


class GpuHealth:
    """Reads it; one thread at a time is in NVML."""

    def __init__(self) -> None:
        """Nothing is loaded before the first read."""
        self._inside = threading.Lock()

    def read(self) -> DriverHealth:
        """Return it. Raises TimeoutError while an earlier call is still stuck in the driver."""
        if not self._inside.acquire(timeout=_TURN_S):
            raise TimeoutError
        try:
            return _read()
        finally:
            self._inside.release()


def _read() -> DriverHealth:
    import pynvml  # noqa: PLC0415 (large: loaded in the thread)

    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError) as error:
        return DriverHealth(error=_name(error))
    try:
        count = _ask(pynvml, pynvml.nvmlDeviceGetCount) or 0
        cards = [_card(pynvml, index) for index in range(count)]
        return DriverHealth(
            library=_ask(pynvml, lambda: str(pynvml.nvmlSystemGetDriverVersion())),
            cuda=_cuda(_ask(pynvml, lambda: int(pynvml.nvmlSystemGetCudaDriverVersion_v2()))),
            cards=tuple(card for card in cards if card is not None),
        )
    finally:
        with suppress(pynvml.NVMLError):  # a GPU that fell off the bus
            pynvml.nvmlShutdown()


def _name(error: Exception) -> str:
    """Return pynvml's class name: it makes one for each error code."""
    return type(error).__name__


def _cuda(number: int | None) -> tuple[int, int] | None:
    """Split CUDA's number: 12040 is 12.4."""
    return (number // 1000, number % 1000 // 10) if number else None


def _card(nvml: Any, index: int) -> Card | None:  # noqa: ANN401 (pynvml ships no types)
    handle = _ask(nvml, lambda: nvml.nvmlDeviceGetHandleByIndex(index))
    if handle is None:
        return None
    capability = _ask(nvml, lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle))
    return Card(
        index=index,
        capability=(int(capability[0]), int(capability[1])) if capability else None,
        clocks=_clocks(nvml, index, handle),
    )


def _clocks(nvml: Any, index: int, handle: object) -> ClockFacts | None:  # noqa: ANN401 (as above)
    # The name of NVML 11; newer ones call it ClocksEventReasons and keep the old one.
    reasons = _ask(nvml, lambda: int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)))
    if reasons is None:
        return None
    return ClockFacts(
        index=index,
        name=_ask(nvml, lambda: str(nvml.nvmlDeviceGetName(handle))) or "?",
        reasons=reasons,
        temperature=_ask(
            nvml, lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        ),
        power_limit_w=_watts(nvml, lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle)),
        power_default_w=_watts(nvml, lambda: nvml.nvmlDeviceGetPowerManagementDefaultLimit(handle)),
    )


def _watts(nvml: Any, question: Callable[[], int]) -> float | None:  # noqa: ANN401 (as above)
    milliwatts = _ask(nvml, question)
    return None if milliwatts is None else milliwatts / _MILLI


def _ask(nvml: Any, question: Callable[[], _T]) -> _T | None:  # noqa: ANN401 (as above)
    """Return the answer, None where the GPU or an old driver does not know the question."""
    try:
        return question()
    except (nvml.NVMLError, nvml.NVMLLibraryMismatchError):
        return None
