"""What a worker's processes hold of each GPU, told by the driver or by the whole GPU's use."""

from dataclasses import replace

import pytest

from cahoots_vllm.control.gpu_release import GpuRelease
from cahoots_vllm.host.gpu import Gpu, GpuProcess


class Gpus:
    """What NVML says now."""

    def __init__(self, *gpus: Gpu) -> None:
        self.gpus = gpus

    async def read(self) -> tuple[Gpu, ...]:
        return self.gpus


def gpu(used: int, *processes: tuple[int, int | None], index: int = 0) -> Gpu:
    rows = tuple(GpuProcess(pid, size) for pid, size in processes)
    return Gpu(index, "A", 1000, used, None, None, rows, f"GPU-{index}")


@pytest.mark.parametrize(
    ("now", "held"),
    [
        (gpu(900, (7, 600), (8, 100), (9, 50)), 700),
        (gpu(900, (9, 50)), 800),  # another pid namespace: ours are not listed
        (gpu(900, (7, None), (8, 100)), 800),  # the driver hides one
        (gpu(90), 0),  # less than before it started
    ],
)
async def test_held_is_the_processes_own_or_what_came_on_top(now: Gpu, held: int) -> None:
    gpus = Gpus(gpu(100))
    release = GpuRelease(gpus)
    await release.remember()
    gpus.gpus = (now,)
    (found,) = await release.held([7, 8])
    assert (found.total_bytes, found.held_bytes) == (1000, held)


async def test_gpu_without_any_of_its_processes_is_not_its_own() -> None:
    gpus = Gpus(gpu(0), gpu(0, index=1))
    release = GpuRelease(gpus)
    await release.remember()
    gpus.gpus = (gpu(600, (7, 500)), gpu(400, (9, 400), index=1))
    assert [each.held_bytes for each in await release.held([7])] == [500, 0]


async def test_gpu_whose_memory_is_the_hosts_has_nothing_to_give_back() -> None:
    release = GpuRelease(Gpus(replace(gpu(600, (7, 500)), is_unified=True)))
    assert await release.held([7]) == ()
