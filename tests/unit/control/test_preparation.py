"""A look at the memory that nobody waits for any more is over: it must not act on what it sees."""

import asyncio
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from cahoots_vllm.control.gate import NOBODY_SLEEPS, Gate
from cahoots_vllm.control.preparation import Preparation
from cahoots_vllm.core.events import Event, Measure, Measured
from cahoots_vllm.core.launch import WORKER_MARK, LaunchSpec
from cahoots_vllm.core.settings import EngineInfo, Settings
from cahoots_vllm.core.state import State
from cahoots_vllm.host.gpu import Gpu, GpuProcess

GIB = 1 << 30
MARK = "/run/test#"
LARGE, SMALL = (
    LaunchSpec(name, f"/{name}", "/e", options=(("gpu-memory-utilization", share),))
    for name, share in (("large", 0.9), ("small", 0.3))
)
SETTINGS = Settings("local", "large", EngineInfo("/e", "1"), "/c", "/.env")


class Loading:
    """A GPU that somebody else loads more and more on; of our workers, who is there by now."""

    def __init__(self) -> None:
        self.used = 8 * GIB
        self.workers: tuple[int, ...] = ()

    async def read(self) -> tuple[Gpu, ...]:
        self.used += GIB // 8
        processes = tuple(GpuProcess(pid, GIB) for pid in self.workers)
        return (Gpu(0, "A", 24 * GIB, self.used, None, None, processes, "GPU-0"),)


class World:
    """What it works with, and what it has answered and said."""

    def __init__(self) -> None:
        self.gpus, self.said = Loading(), list[str]()
        self.answers: asyncio.Queue[Event] = asyncio.Queue()

        async def print_of(*_: object) -> str:
            return ""

        parts: Any = SimpleNamespace(
            gate=Gate(self.gpus, MARK),
            sleepers=SimpleNamespace(print_of=print_of, beside=lambda _: NOBODY_SLEEPS),
            logs=SimpleNamespace(add=lambda _, text, **__: self.said.append(text)),
        )
        self.made = Preparation(parts, self.answers.put_nowait, lambda *_: None)


@pytest.fixture
def worker() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["/bin/sleep", "60"], env={WORKER_MARK: f"{MARK}1"}) as process:
        yield process
        process.kill()


async def test_look_for_another_goal_does_not_end_the_worker_started_meanwhile(
    worker: "subprocess.Popen[bytes]",
) -> None:
    world = World()
    async with asyncio.TaskGroup() as tasks:
        world.made.perform(Measure(LARGE), SETTINGS, tasks)
        await asyncio.sleep(0.1)
        world.made.perform(Measure(SMALL), SETTINGS, tasks)
        answer = await world.answers.get()
        world.gpus.workers = (worker.pid,)
        await asyncio.sleep(0.6)
        world.made.update(State())
    assert worker.poll() is None
    assert isinstance(answer, Measured)
    assert answer.launch == SMALL
    assert (world.said, world.answers.qsize()) == ([], 0)


@pytest.mark.parametrize("state", [State(), State(goal=SMALL, checking=SMALL)], ids=["off", "swap"])
async def test_look_ends_when_its_goal_is_not_wanted_any_more(state: State) -> None:
    world = World()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        world.made.perform(Measure(LARGE), SETTINGS, tasks)
        world.made.update(State(goal=LARGE, measuring=LARGE))
        await asyncio.sleep(0.1)
        world.made.update(state)
    assert world.answers.empty()


async def test_look_that_is_waited_for_goes_on() -> None:
    world = World()
    async with asyncio.TaskGroup() as tasks:
        world.made.perform(Measure(SMALL), SETTINGS, tasks)
        world.made.update(State(goal=SMALL, measuring=SMALL))
    assert isinstance(world.answers.get_nowait(), Measured)
