"""Limits of this process, the CPU's governor, and the kernel's word on NTP. Blocking, short."""

import ctypes
import resource
from pathlib import Path

from cahoots_vllm.core.doctor.service import LimitFacts

_CPUS = Path("/sys/devices/system/cpu")
_TIMEX_BYTES = 208  # struct timex on 64-bit Linux; modes 0, in its first word, only reads
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


def read_limits(cpus: Path = _CPUS) -> LimitFacts:
    """Return the hard limits: soft ones are raised by whoever needs more."""
    frequency = cpus / "cpu0" / "cpufreq"
    return LimitFacts(
        files=_hard(resource.RLIMIT_NOFILE),
        locked_bytes=_hard(resource.RLIMIT_MEMLOCK),
        processes=_hard(resource.RLIMIT_NPROC),
        governor=_read(frequency / "scaling_governor"),
        frequency_driver=_read(frequency / "scaling_driver"),
        preference=_read(frequency / "energy_performance_preference"),
    )


def _hard(which: int) -> int | None:
    _, hard = resource.getrlimit(which)
    return None if hard == resource.RLIM_INFINITY else hard


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None  # virtual machines have none


def is_clock_synchronised() -> bool | None:
    """Return whether NTP keeps the clock, by adjtimex(2); None where the kernel does not say."""
    libc = ctypes.CDLL(None, use_errno=True)
    state: int = libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return None if state < 0 else state != _TIME_ERROR
