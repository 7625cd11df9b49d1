"""Memory policy: which sizes to start with, and what to change after a failure (DESIGN §5)."""

from cahoots_vllm.core.memory.plan import (
    Answer,
    GiveUp,
    Next,
    Same,
    Wait,
    gate,
    lacking_beside,
    plan,
)
from cahoots_vllm.core.memory.room import GIB, HOST_KEY, Room, Shortage, used_devices
from cahoots_vllm.core.memory.search import (
    DEFAULT_MEMORY_LIMITS,
    Attempt,
    Memory,
    MemoryLimits,
    Step,
    begin,
    forgiven,
    fresh,
    known_to_fail,
    worked,
)
from cahoots_vllm.core.memory.sizes import Change, Sizes, apply_sizes, read_sizes

__all__ = [
    "DEFAULT_MEMORY_LIMITS", "GIB", "HOST_KEY", "Answer", "Attempt", "Change", "GiveUp", "Memory",
    "MemoryLimits", "Next", "Room", "Same", "Shortage", "Sizes", "Step", "Wait", "apply_sizes",
    "begin", "forgiven", "fresh", "gate", "known_to_fail", "lacking_beside", "plan", "read_sizes",
    "used_devices", "worked",
]  # fmt: skip
