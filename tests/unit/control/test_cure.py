"""What was missing appears: the failed goal is tried again, and only then."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cahoots_vllm.control import cure
from cahoots_vllm.control.cure import CureWatch
from cahoots_vllm.control.gate import Gate
from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.core.events import Cured
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.settings import EngineInfo, Settings
from cahoots_vllm.core.state import Failure, State
from cahoots_vllm.host.gpu import Gpu

GIB = 1 << 30


class Gpus:
    """The GPUs of the moment."""

    def __init__(self) -> None:
        self.now: tuple[Gpu, ...] = ()

    async def read(self) -> tuple[Gpu, ...]:
        return self.now


class World:
    """A failed goal whose model and engine stand in files, and what was heard of a cure."""

    def __init__(self, root: Path) -> None:
        self.model, self.engine = root / "model", root / "engine"
        self.model.mkdir()
        (self.model / "config.json").write_text("{}")
        (self.engine / "bin").mkdir(parents=True)
        (self.engine / "bin" / "vllm").write_text("1")
        self.gpus = Gpus()
        self.heard: list[str] = []
        self.settings = Settings("local", "a", EngineInfo(str(self.engine), "0.32"), str(root), "")
        self.goal = LaunchSpec("a", str(self.model), str(self.engine))
        gate = Gate(self.gpus, "/run/test#")
        self.watch = CureWatch(gate, root, lambda cured: self.heard.append(cured.what))

    def failed(self, cause: Cause) -> State:
        diagnosis = Diagnosis(cause, "it failed", "mend it", is_retryable=False)
        failure = Failure(0.0, self.goal, diagnosis, "gave up")
        return State(goal=self.goal, is_failed=True, last_failure=failure)

    def update(self, state: State, tasks: asyncio.TaskGroup) -> None:
        self.watch.update(state, self.settings, tasks)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(cure, "_FIRST_POLL_S", 0.02)
    return World(tmp_path)


@contextmanager
def ended(world: World, tasks: asyncio.TaskGroup) -> Iterator[None]:
    """End the watch at the end: the group waits for its tasks."""
    yield
    world.update(State(), tasks)


async def hears(world: World) -> str | None:
    """Return the next good news, None when there is none for a while."""
    for _ in range(15):
        await asyncio.sleep(0.02)
        if world.heard:
            return world.heard[-1]
    return None


def a_gpu(used_gib: float = 0.0) -> Gpu:
    return Gpu(0, "A", 24 * GIB, int(used_gib * GIB), None, None, (), "GPU-1")


async def test_gpu_that_comes_late_is_a_cure(world: World) -> None:
    async with asyncio.TaskGroup() as tasks:
        with ended(world, tasks):
            world.update(world.failed(Cause.CUDA_DRIVER), tasks)
            assert await hears(world) is None
            world.gpus.now = (a_gpu(),)
            assert "a GPU appeared: GPU-1" in str(await hears(world))


async def test_mended_model_files_are_a_cure(world: World) -> None:
    async with asyncio.TaskGroup() as tasks:
        with ended(world, tasks):
            world.update(world.failed(Cause.CORRUPT_WEIGHTS), tasks)
            assert await hears(world) is None
            (world.model / "model.safetensors").write_bytes(b"whole")
            assert "files were changed" in str(await hears(world))


async def test_moment_without_a_thread_to_be_had_does_not_end_the_watch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    async with asyncio.TaskGroup() as tasks:
        with ended(world, tasks):
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", refuse)
                world.update(world.failed(Cause.CORRUPT_WEIGHTS), tasks)
                assert await hears(world) is None
            assert await hears(world) is None
            (world.model / "model.safetensors").write_bytes(b"whole")
            assert "files were changed" in str(await hears(world))


async def test_changed_engine_is_a_cure(world: World) -> None:
    async with asyncio.TaskGroup() as tasks:
        with ended(world, tasks):
            world.update(world.failed(Cause.MISSING_DEPENDENCY), tasks)
            assert await hears(world) is None
            (world.engine / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
            assert "the engine was changed" in str(await hears(world))


async def test_freed_memory_is_a_cure_for_memory(world: World) -> None:
    world.gpus.now = (a_gpu(20.0),)
    async with asyncio.TaskGroup() as tasks:
        with ended(world, tasks):
            world.update(world.failed(Cause.GPU_OOM_STARTUP_ALLOC), tasks)
            assert await hears(world) is None
            world.gpus.now = (a_gpu(2.0),)
            assert "memory was freed" in str(await hears(world))


async def test_freed_disk_space_is_a_cure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 1 << 30
    free = [(gib, gib)]
    monkeypatch.setattr(cure, "_free_space", lambda _: free[0])
    async with asyncio.TaskGroup() as tasks:
        with ended(world, tasks):
            world.update(world.failed(Cause.DISK_FULL), tasks)
            assert await hears(world) is None
            free[0] = (2 * gib, gib)
            assert "space or memory was freed" in str(await hears(world))


@pytest.mark.parametrize("cause", [Cause.HUB_AUTH, Cause.DISK_FULL, Cause.ENGINE_DEAD_OTHER])
async def test_what_has_nothing_to_do_with_the_cause_is_none(world: World, cause: Cause) -> None:
    async with asyncio.TaskGroup() as tasks:
        with ended(world, tasks):
            world.update(world.failed(cause), tasks)
            await hears(world)
            world.gpus.now = (a_gpu(),)
            (world.model / "new").write_text("x")
            (world.engine / "bin" / "vllm").write_text("2")
            assert await hears(world) is None


async def test_goal_that_has_not_failed_is_not_watched(world: World) -> None:
    async with asyncio.TaskGroup() as tasks:
        state = replace(world.failed(Cause.CUDA_DRIVER), is_failed=False)
        world.update(state, tasks)
        world.gpus.now = (a_gpu(),)
        assert await hears(world) is None


async def test_thing_that_comes_and_goes_is_looked_at_less_and_less_often(world: World) -> None:
    async with asyncio.TaskGroup() as tasks:
        with ended(world, tasks):
            for turn in range(3):
                world.update(world.failed(Cause.CORRUPT_WEIGHTS), tasks)
                await asyncio.sleep(0.02)
                (world.model / f"{turn}").write_text("x")
                world.heard.clear()
                assert await hears(world) is not None
                world.update(State(), tasks)
            world.update(world.failed(Cause.CORRUPT_WEIGHTS), tasks)
            await asyncio.sleep(0.01)
            (world.model / "again").write_text("x")
            world.heard.clear()
            await asyncio.sleep(0.06)
            assert world.heard == [], "looked again after 20 ms instead of 160"


def test_good_news_is_an_event_of_the_lifecycle() -> None:
    assert Cured("space").what == "space"
