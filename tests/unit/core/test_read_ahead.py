import pytest

from cahoots_vllm.core.amounts import GIB
from cahoots_vllm.core.read_ahead import budget_bytes
from cahoots_vllm.core.standby import MemoryFacts


@pytest.mark.parametrize(
    ("memory", "budget"),
    [
        (MemoryFacts(64 * GIB, 40 * GIB), 40 * GIB - 64 * GIB // 10),
        (MemoryFacts(8 * GIB, 4 * GIB), 3 * GIB),
        (MemoryFacts(8 * GIB, GIB // 2), 0),
        # somebody waits for memory
        (MemoryFacts(64 * GIB, 40 * GIB, pressure=9.9), 40 * GIB - 64 * GIB // 10),
        (MemoryFacts(64 * GIB, 40 * GIB, pressure=10.0), 0),
        # the service's own limit
        (MemoryFacts(64 * GIB, 40 * GIB, limit=20 * GIB, used=9 * GIB), 10 * GIB),
        (MemoryFacts(64 * GIB, 40 * GIB, limit=20 * GIB, used=20 * GIB), 0),
        (MemoryFacts(8 * GIB, 4 * GIB, limit=20 * GIB, used=GIB), 3 * GIB),
    ],
)
def test_only_memory_that_nobody_else_needs_is_filled(memory: MemoryFacts, budget: int) -> None:
    assert budget_bytes(memory) == budget
