"""The gate: at once when there is room, named holders, orphans ended, memory still."""

import asyncio
import os
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from cahoots_vllm.control import gate as module
from cahoots_vllm.control.gate import Gate, Sleeping
from cahoots_vllm.core.evidence import Device
from cahoots_vllm.core.launch import WORKER_MARK, LaunchSpec
from cahoots_vllm.core.memory import HOST_KEY
from cahoots_vllm.host import host_memory, process_info
from cahoots_vllm.host.gpu import Gpu, GpuProcess

GIB = 1 << 30
MARK = "/run/test#"
SPEC = LaunchSpec("a", "/a", "/e", options=(("gpu-memory-utilization", 0.9),))


def gpu(used_gib: float, *pids: int, index: int = 0) -> Gpu:
    processes = tuple(GpuProcess(pid, int(used_gib * GIB)) for pid in pids)
    return Gpu(index, "A", 24 * GIB, int(used_gib * GIB), None, None, processes, f"GPU-{index}")


class Gpus:
    """Plays one reading after the other; the last one stays. A reading may ask who still lives."""

    def __init__(self, *readings: tuple[Gpu, ...]) -> None:
        self.readings = list(readings)
        self.asked = 0

    async def read(self) -> tuple[Gpu, ...]:
        self.asked += 1
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]


@pytest.fixture
def orphan() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["/bin/sleep", "60"], env={WORKER_MARK: f"{MARK}7"})
    end = time.monotonic() + 5
    while _mark(process.pid) is None and time.monotonic() < end:
        time.sleep(0.01)
    yield process
    process.kill()
    process.wait()


def _mark(pid: int) -> str | None:
    with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123 (proc(5))
        return WORKER_MARK if WORKER_MARK.encode() in file.read() else None


async def measure(gpus: Gpus, ended: list[int] | None = None) -> tuple[Device, ...]:
    gate = Gate(gpus, MARK)
    told = [] if ended is None else ended
    return await gate.measure(SPEC, is_cpu=False, on_ended=told.append)


async def test_enough_memory_is_not_waited_for() -> None:
    gpus = Gpus((gpu(1.0),))
    (device,) = await measure(gpus)
    assert gpus.asked == 1
    assert (device.key, device.name, device.free_bytes) == ("GPU-0", "GPU 0 (A)", 23 * GIB)


async def test_workers_that_sleep_are_ended_before_anybody_waits() -> None:
    gpus = Gpus((gpu(4.0),), (gpu(3.0),), (gpu(2.0),))
    sleepers = ["a", "b", "c"]

    async def end_one() -> bool:
        return bool(sleepers and sleepers.pop(0))

    sleeping = Sleeping(frozenset(), end_one)
    gate = Gate(gpus, MARK)
    await gate.measure(SPEC, is_cpu=False, on_ended=lambda _: None, sleeping=sleeping)
    assert sleepers == ["c"]


async def test_what_is_left_of_the_one_that_wakes_is_its_own_again() -> None:
    gpus = Gpus((gpu(4.0, 4242),))

    async def end_one() -> bool:
        raise AssertionError

    sleeping = Sleeping(frozenset((4242,)), end_one)
    gate = Gate(gpus, MARK)
    (device,) = await gate.measure(SPEC, is_cpu=False, on_ended=lambda _: None, sleeping=sleeping)
    assert (device.free_bytes, device.holders) == (24 * GIB, ())


async def test_memory_on_its_way_back_is_waited_for() -> None:
    gpus = Gpus((gpu(20.0),), (gpu(12.0),), (gpu(1.0),))
    (device,) = await measure(gpus)
    assert device.free_bytes == 23 * GIB
    assert gpus.asked == 3


async def test_foreign_holder_is_named_after_one_more_look_and_lives_on() -> None:
    holder = os.getppid()
    gpus = Gpus((gpu(18.0, holder),))
    ended: list[int] = []
    (device,) = await measure(gpus, ended)
    assert gpus.asked == 2
    assert ended == []
    (named,) = device.holders
    assert (named.pid, named.memory_bytes, named.is_ours) == (holder, 18 * GIB, False)
    assert named.user
    assert named.command


async def test_orphan_of_ours_is_ended(orphan: subprocess.Popen[bytes]) -> None:
    gpus = Gpus((gpu(18.0, orphan.pid),), (gpu(1.0),))
    ended: list[int] = []
    (device,) = await measure(gpus, ended)
    assert ended == [orphan.pid]
    assert device.free_bytes == 23 * GIB
    assert await asyncio.to_thread(orphan.wait, 5) == -9


async def test_orphan_of_another_daemon_is_foreign(orphan: subprocess.Popen[bytes]) -> None:
    gate = Gate(Gpus((gpu(18.0, orphan.pid),)), "/run/other#")
    (device,) = await gate.measure(SPEC, is_cpu=False, on_ended=lambda _: None)
    assert not device.holders[0].is_ours
    assert orphan.poll() is None


async def test_only_the_gpus_that_are_used_count() -> None:
    gpus = Gpus((gpu(1.0), gpu(23.0, index=1)))
    devices = await measure(gpus)
    assert [device.key for device in devices] == ["GPU-0"]


async def test_host_without_gpus_has_no_devices() -> None:
    assert await measure(Gpus(())) == ()


async def test_cpu_engine_has_the_hosts_memory() -> None:
    (device,) = await Gate(Gpus(()), MARK).read(is_cpu=True)
    assert device.key == HOST_KEY
    assert 0 < device.free_bytes <= device.total_bytes


@pytest.mark.parametrize("error", [OSError("gone"), TimeoutError()])
async def test_host_that_does_not_tell_holders_still_tells_the_memory(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_pid: int) -> str:
        raise error

    monkeypatch.setattr(process_info, "owner_name", fail)
    (device,) = await Gate(Gpus((gpu(20.0, os.getpid()),)), MARK).read(is_cpu=False)
    assert device.free_bytes == 4 * GIB
    assert device.holders == ()


async def test_host_that_does_not_answer_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError

    monkeypatch.setattr(host_memory, "read_host_memory", fail)
    assert await Gate(Gpus(()), MARK).read(is_cpu=True) == ()


async def test_process_that_hangs_costs_one_thread_however_often_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hangs, hung = threading.Event(), threading.Event()
    inside: list[int] = []

    def hang(pid: int) -> str:
        inside.append(pid)
        hangs.set()
        hung.wait(20)
        return ""

    monkeypatch.setattr(process_info, "owner_name", hang)
    monkeypatch.setattr(module, "_READ_DEADLINE_S", 0.05)
    gate = Gate(Gpus((gpu(20.0, os.getpid()),)), MARK)
    (device,) = await gate.read(is_cpu=False)
    assert hangs.wait(5)
    monkeypatch.setattr(module, "_READ_DEADLINE_S", 5.0)
    monkeypatch.setattr(module, "_COMES_BACK_S", 0.05)
    for _ in range(5):
        (device,) = await gate.read(is_cpu=False)
        assert (device.free_bytes, device.holders) == (4 * GIB, ())
        assert await gate.read(is_cpu=True) == ()
    assert inside == [os.getpid()]
    hung.set()
    while not device.holders:  # it came back: the next look sees them again
        (device,) = await gate.read(is_cpu=False)
    assert [holder.pid for holder in device.holders] == [os.getpid()]


async def test_look_after_one_that_was_given_up_sees_all(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = threading.Event()

    def look(_: int) -> str:
        looks.set()
        time.sleep(0.1)
        return "somebody"

    monkeypatch.setattr(process_info, "owner_name", look)
    gate = Gate(Gpus((gpu(20.0, os.getpid()),)), MARK)
    given_up = asyncio.ensure_future(gate.read(is_cpu=False))
    await asyncio.to_thread(looks.wait, 5)
    given_up.cancel()
    (device,) = await gate.read(is_cpu=False)
    assert [holder.pid for holder in device.holders] == [os.getpid()]


async def test_all_who_look_at_once_see_the_holders(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(_: int) -> str:
        time.sleep(0.02)
        return "somebody"

    monkeypatch.setattr(process_info, "owner_name", look)
    gate = Gate(Gpus((gpu(20.0, os.getpid()),)), MARK)
    found = await asyncio.gather(*(gate.read(is_cpu=False) for _ in range(8)))
    assert [len(device.holders) for (device,) in found] == [1] * 8
