"""When a standby may be kept."""

import pytest

from cahoots_vllm.core.amounts import GIB, MIB
from cahoots_vllm.core.settings import StandbyMode
from cahoots_vllm.core.standby import FIRST_NEED_BYTES, MemoryFacts, reason_against

PLENTY = MemoryFacts(total=24 * GIB, available=16 * GIB, pressure=0.0)


def against(
    memory: MemoryFacts, mode: StandbyMode = StandbyMode.AUTO, *, is_there: bool = False
) -> str:
    return reason_against(mode, memory, FIRST_NEED_BYTES, is_there=is_there)


def test_memory_to_spare_is_enough() -> None:
    assert against(PLENTY) == ""
    assert against(PLENTY, is_there=True) == ""


def test_off_is_off_and_on_asks_for_nothing() -> None:
    assert against(PLENTY, StandbyMode.OFF) == "standby = off"
    none = MemoryFacts(total=GIB, available=0, pressure=90.0, limit=GIB, used=GIB)
    assert against(none, StandbyMode.ON) == ""


@pytest.mark.parametrize(
    ("total", "available", "may_start", "may_stay"),
    [
        # A tenth of 24 GiB is to be left, by one that is there half of it.
        (24 * GIB, int(2.4 * GIB) + FIRST_NEED_BYTES, True, True),
        (24 * GIB, int(2.4 * GIB) + FIRST_NEED_BYTES - MIB, False, True),
        (24 * GIB, int(1.2 * GIB), False, True),
        (24 * GIB, int(1.2 * GIB) - MIB, False, False),
        # And 1 GiB whatever there is.
        (4 * GIB, GIB + FIRST_NEED_BYTES, True, True),
        (4 * GIB, GIB + FIRST_NEED_BYTES - MIB, False, True),
        (4 * GIB, GIB // 2 - MIB, False, False),
    ],
)
def test_memory_is_left_to_the_others(
    total: int, available: int, *, may_start: bool, may_stay: bool
) -> None:
    memory = MemoryFacts(total, available)
    assert (against(memory) == "") is may_start
    assert (against(memory, is_there=True) == "") is may_stay


def test_reason_has_the_sizes() -> None:
    few = MemoryFacts(total=24 * GIB, available=2 * GIB)
    assert against(few) == "1.3 GiB of memory would be left, less than 2.4 GiB"
    assert against(MemoryFacts(24 * GIB, 0)).startswith("0.0 MiB ")


def test_pressure_ends_it() -> None:
    assert against(MemoryFacts(24 * GIB, 16 * GIB, pressure=9.9), is_there=True) == ""
    scarce = against(MemoryFacts(24 * GIB, 16 * GIB, pressure=12.3), is_there=True)
    assert scarce == "memory is scarce: processes waited for it 12 % of the time"


def test_limit_of_the_service_counts() -> None:
    room = FIRST_NEED_BYTES
    near = MemoryFacts(24 * GIB, 16 * GIB, limit=8 * GIB, used=int(8 * GIB * 0.95) - room + MIB)
    assert against(near) == "the service's limit of 8.0 GiB of memory is near"
    assert against(near, is_there=True) == "", "it is in there already"
    assert against(MemoryFacts(24 * GIB, 16 * GIB, limit=8 * GIB, used=4 * GIB)) == ""
