"""When a standby may be kept: it must never be what a host runs out of memory for."""

from dataclasses import dataclass
from typing import Final

from cahoots_vllm.core.amounts import GIB, MIB, size_text
from cahoots_vllm.core.settings import StandbyMode

# What one takes for itself, before one was measured (VLLM.md, 5: 611 MiB of RSS).
FIRST_NEED_BYTES: Final = 700 * MIB
# Left to everybody else, whatever the host has.
_LEAST_LEFT_BYTES: Final = GIB
_LEFT_SHARE: Final = 0.10
# Percent of the last ten seconds in which something waited for memory (PSI, some avg10).
_PRESSURE: Final = 10.0
_NEAR_LIMIT: Final = 0.95


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """The host's memory in bytes, and how hard it is to get.

    `pressure` is PSI's `some avg10` in percent, of the host or of our cgroup, whichever is more;
    None where the kernel does not say. `limit` and `used` are of our cgroup (memory.high or
    memory.max), None where there is no limit.
    """

    total: int
    available: int
    pressure: float | None = None
    limit: int | None = None
    used: int | None = None


def left_to_others(memory: MemoryFacts) -> int:
    """Return how many bytes are not ours to fill, whatever for."""
    return max(_LEAST_LEFT_BYTES, int(memory.total * _LEFT_SHARE))


def is_scarce(memory: MemoryFacts) -> bool:
    """Return whether somebody waits for memory already."""
    return memory.pressure is not None and memory.pressure >= _PRESSURE


def reason_against(mode: StandbyMode, memory: MemoryFacts, need: int, *, is_there: bool) -> str:
    """Return why no standby is to be kept, "" where one may be.

    `need`: what one takes, in bytes. One that `is_there` has taken it already.
    """
    if mode is StandbyMode.OFF:
        return "standby = off"
    if mode is StandbyMode.ON:
        return ""
    left = memory.available - (0 if is_there else need)
    least = left_to_others(memory)
    if is_there:
        least //= 2  # given back later than it is taken: no coming and going at the edge
    if left < least:
        return f"{size_text(max(left, 0))} of memory would be left, less than {size_text(least)}"
    if is_scarce(memory):
        return f"memory is scarce: processes waited for it {memory.pressure:.0f} % of the time"
    if memory.limit is not None and memory.used is not None:
        used = memory.used + (0 if is_there else need)
        if used > memory.limit * _NEAR_LIMIT:
            return f"the service's limit of {size_text(memory.limit)} of memory is near"
    return ""
