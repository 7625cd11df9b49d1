"""GPUs through a scripted NVML: lost ones hide nobody, a stuck or cancelled call blocks nobody."""

import asyncio
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import cast

import pytest

from cahoots_vllm.host import gpu
from cahoots_vllm.host.gpu import Gpu, GpuProcess, NvmlReader


class NVMLError(Exception):
    """Any error of NVML."""


class NVMLError_NotSupported(NVMLError):  # noqa: N801, N818 (pynvml's name)
    """This GPU does not know the question."""


class NVMLError_GpuIsLost(NVMLError):  # noqa: N801, N818 (pynvml's name)
    """It fell off the bus."""


class NVMLLibraryMismatchError(Exception):
    """The driver is older than pynvml; no NVMLError."""


@dataclass
class Card:
    """One GPU; what is an exception is raised."""

    memory: object = field(default_factory=lambda: SimpleNamespace(total=100, used=40))
    compute: object = ()
    graphics: object = ()
    uuid: object = "GPU-1"
    load: object = field(default_factory=lambda: SimpleNamespace(gpu=7))
    handle: object = None
    capability: object = (8, 9)


def answer(value: object) -> object:
    if isinstance(value, Exception):
        raise value
    return value


def process(pid: int, used: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=used)


class Nvml:
    """The part of pynvml that is used."""

    NVML_TEMPERATURE_GPU = 0
    NVMLError = NVMLError
    NVMLError_NotSupported = NVMLError_NotSupported
    NVMLLibraryMismatchError = NVMLLibraryMismatchError

    def __init__(self, *cards: Card) -> None:
        self.cards = cards
        self.on_init: Callable[[], object] = lambda: None
        self.shutdowns = 0

    def nvmlInit(self) -> None:  # noqa: N802 (pynvml's names, to the end of the class)
        self.on_init()

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.shutdowns += 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:  # noqa: N802
        answer(self.cards[index].handle)
        return self.cards[index]

    def nvmlDeviceGetName(self, card: Card) -> str:  # noqa: N802
        return f"Card {self.cards.index(card)}"

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> object:  # noqa: N802
        return answer(card.memory)

    def nvmlDeviceGetUtilizationRates(self, card: Card) -> object:  # noqa: N802
        return answer(card.load)

    def nvmlDeviceGetTemperature(self, _: Card, sensor: int) -> int:  # noqa: N802
        return 50 + sensor

    def nvmlDeviceGetCudaComputeCapability(self, card: Card) -> object:  # noqa: N802
        return answer(card.capability)

    def nvmlDeviceGetUUID(self, card: Card) -> object:  # noqa: N802
        return answer(card.uuid)

    def nvmlDeviceGetComputeRunningProcesses(self, card: Card) -> object:  # noqa: N802
        return answer(card.compute)

    def nvmlDeviceGetGraphicsRunningProcesses(self, card: Card) -> object:  # noqa: N802
        return answer(card.graphics)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    fake = Nvml(Card())
    monkeypatch.setitem(sys.modules, "pynvml", cast("ModuleType", fake))
    return fake


async def read_cards(nvml: Nvml, *cards: Card) -> tuple[Gpu, ...]:
    nvml.cards = cards
    return await NvmlReader().read()


async def test_gpu_is_read_and_nvml_closed(nvml: Nvml) -> None:
    expected = Gpu(0, "Card 0", 100, 40, 7, 50, (), "GPU-1", is_unified=False, capability=(8, 9))
    assert await read_cards(nvml, Card()) == (expected,)
    assert nvml.shutdowns == 1


async def test_host_without_driver_has_no_gpu(nvml: Nvml) -> None:
    nvml.on_init = lambda: answer(NVMLError("no driver"))
    assert await NvmlReader().read() == ()


async def test_lost_gpu_does_not_hide_the_others(nvml: Nvml) -> None:
    lost = NVMLError_GpuIsLost()
    found = await read_cards(nvml, Card(memory=lost), Card(uuid="GPU-2"), Card(handle=lost))
    assert [(g.index, g.uuid) for g in found] == [(1, "GPU-2")]


async def test_question_a_gpu_does_not_know_is_left_open(nvml: Nvml) -> None:
    no, old = NVMLError_NotSupported(), NVMLLibraryMismatchError()
    (found,) = await read_cards(
        nvml, Card(uuid=no, load=no, compute=old, graphics=no, capability=no)
    )
    assert (found.uuid, found.utilization, found.processes) == ("", None, ())
    assert found.capability is None
    assert not found.is_unified


@pytest.mark.parametrize("memory", [NVMLError_NotSupported(), SimpleNamespace(total=0, used=0)])
async def test_gpu_without_memory_of_its_own_has_the_hosts(
    nvml: Nvml, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, memory: object
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable: 30 kB\n")
    monkeypatch.setattr(gpu, "_MEMINFO", tmp_path / "meminfo")
    (found,) = await read_cards(nvml, Card(memory=memory))
    assert (found.memory_total, found.memory_used) == (100 * 1024, 70 * 1024)
    assert found.is_unified


async def test_processes_are_merged_by_pid(nvml: Nvml) -> None:
    gone = 2**22
    compute = (process(gone, 5), process(gone + 1, None), process(gone + 2, 9))
    graphics = (
        process(gone + 1, 3),
        process(gone + 2, None),
        process(gone, 5),
        process(gone + 3, 1),
    )
    (found,) = await read_cards(nvml, Card(compute=compute, graphics=graphics))
    used = {p.pid - gone: p.memory_used for p in found.processes}
    assert used == {0: 5, 1: 3, 2: 9, 3: 1}
    assert {(p.user, p.command) for p in found.processes} == {("", "")}


async def test_process_has_its_user_and_command(nvml: Nvml) -> None:
    child = await asyncio.create_subprocess_exec("/bin/sleep", "30")
    (found,) = await read_cards(nvml, Card(compute=(process(child.pid, 5),)))
    child.kill()
    await child.wait()
    (shown,) = found.processes
    assert shown.user
    assert shown == GpuProcess(child.pid, 5, shown.user, "sleep")


class Stuck:
    """A driver that hangs until it is let go."""

    def __init__(self, nvml: Nvml) -> None:
        self.calls = 0
        self.entered = threading.Event()
        self.go = threading.Event()
        nvml.on_init = self.hang

    def hang(self) -> None:
        self.calls += 1
        self.entered.set()
        self.go.wait(5)

    async def let_go(self, reader: NvmlReader) -> None:
        self.go.set()
        # Nobody outside sees when the call that was given up is over.
        assert await asyncio.to_thread(reader._inside.acquire, timeout=5)  # noqa: SLF001
        reader._inside.release()  # noqa: SLF001


async def test_stuck_driver_is_asked_once_and_the_last_answer_stands(
    nvml: Nvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = NvmlReader()
    before = await reader.read()
    monkeypatch.setattr(gpu, "_DEADLINE_S", 0.05)
    stuck = Stuck(nvml)
    nvml.cards = (Card(), Card())
    assert [await reader.read() for _ in range(3)] == [before] * 3
    assert stuck.calls == 1
    await stuck.let_go(reader)
    assert len(await reader.read()) == 2


async def test_cancelled_read_does_not_stop_the_next(nvml: Nvml) -> None:
    reader, stuck = NvmlReader(), Stuck(nvml)
    cancelled = asyncio.ensure_future(reader.read())
    await asyncio.to_thread(stuck.entered.wait, 5)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    await stuck.let_go(reader)
    assert len(await reader.read()) == 1
    assert stuck.calls == 2


async def test_read_cancelled_before_it_got_a_thread_does_not_stop_the_next(
    nvml: Nvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "_DEADLINE_S", 0.05)
    reader, calls = NvmlReader(), []
    nvml.on_init = lambda: calls.append(1)

    async def never_runs(_: object, *, deadline_s: float) -> None:
        async with asyncio.timeout(deadline_s):
            await asyncio.sleep(5)

    with monkeypatch.context() as patch:
        patch.setattr(gpu, "run_blocking", never_runs)
        assert await reader.read() == ()
    assert len(await reader.read()) == 1
    assert calls == [1]


async def test_who_comes_meanwhile_gets_an_answer_of_now(nvml: Nvml) -> None:
    reader, stuck = NvmlReader(), Stuck(nvml)
    both = asyncio.gather(reader.read(), reader.read())
    await asyncio.to_thread(stuck.entered.wait, 5)
    stuck.go.set()
    assert [len(found) for found in await both] == [1, 1]
