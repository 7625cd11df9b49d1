"""How much of a model's weights may be read into the page cache before its engine starts."""

from typing import Final

from cahoots_vllm.core.standby import MemoryFacts, is_scarce, left_to_others

# Of our cgroup's limit: what is read here counts towards it.
_OF_LIMIT: Final = 0.95


def budget_bytes(memory: MemoryFacts) -> int:
    """Return how many bytes may be read, 0 for none.

    The pages can be taken back, but what they displace would have to be read again, too.
    """
    if is_scarce(memory):
        return 0
    budget = memory.available - left_to_others(memory)
    if memory.limit is not None and memory.used is not None:
        budget = min(budget, int(memory.limit * _OF_LIMIT) - memory.used)
    return max(0, budget)
