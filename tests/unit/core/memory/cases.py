"""What the tests of the memory policy are made of."""

from dataclasses import replace

from cahoots_vllm.core.diagnosis.causes import NO_FIGURES, Figures, Trait
from cahoots_vllm.core.evidence import Device, Holder
from cahoots_vllm.core.memory import (
    DEFAULT_MEMORY_LIMITS,
    GIB,
    HOST_KEY,
    Answer,
    Memory,
    MemoryLimits,
    Next,
    Room,
    Sizes,
    plan,
)
from unit.core.memory.engine import fails

ANN = Holder(7, "ann", "train", 30 * GIB)
OURS = Holder(9, "vllm", "VLLM::Worker", 30 * GIB, is_ours=True)
NOTHING_KNOWN = Room()
OFF = MemoryLimits(adapt=False)


def gpu(free_gib: float, *holders: Holder, total_gib: float = 100.0, name: str = "GPU 0") -> Device:
    """Return a GPU, of 100 GiB where not said: a share of 0.5 is 50 GiB."""
    return Device(name, name, round(total_gib * GIB), round(free_gib * GIB), holders)


def room(free_gib: float, *holders: Holder) -> Room:
    """Return the room on one GPU of 100 GiB."""
    return Room((gpu(free_gib, *holders),))


def host(free_gib: float, *holders: Holder) -> Room:
    """Return the room on a host of 100 GiB."""
    return Room((replace(gpu(free_gib, *holders), key=HOST_KEY, name="host"),))


IDLE = room(99.0)


def asking(share: int = 900, length: int | None = 32768, **more: int) -> Memory:
    """Return a fresh search."""
    sizes = Sizes(share, length, **more)
    return Memory(sizes, sizes)


def answer(
    memory: Memory,
    trait: Trait,
    where: Room = IDLE,
    limits: MemoryLimits = DEFAULT_MEMORY_LIMITS,
    *,
    now: float = 0.0,
    said: Figures = NO_FIGURES,
) -> Answer:
    """Return the plan for a failure that is one of memory."""
    found = plan(memory, fails(trait, said), where, limits, now)
    assert found is not None
    return found


def following(found: Answer) -> Memory:
    """Return the search after an answer that starts again with other sizes."""
    assert isinstance(found, Next), found
    return found.memory


def sizes_after(memory: Memory, *traits: Trait, where: Room = IDLE) -> list[Sizes]:
    """Return what is tried after each of these failures in turn."""
    tried = []
    for trait in traits:
        memory = following(answer(memory, trait, where))
        tried.append(memory.current)
    return tried
