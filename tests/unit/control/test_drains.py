"""Effects that are taken back or asked for again: only what was asked last is answered."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cahoots_vllm.control.effects import Effects
from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.core.events import Admit, Drain, Drained, Effect, Event
from cahoots_vllm.core.settings import EngineInfo, GatewaySettings, Settings

SETTINGS = Settings(
    "local", "a", EngineInfo("/e", "1"), "/c", "/.env", gateway=GatewaySettings(drain_timeout_s=0.3)
)


class Drains:
    """A worker in rotation with a request on it that never ends, and when its drains did."""

    def __init__(self) -> None:
        self.rotation = Rotation()
        self.rotation.admit(1, Path("/nonexistent/worker.sock"))
        self.answers: asyncio.Queue[tuple[Event, float]] = asyncio.Queue()
        parts: Any = SimpleNamespace(rotation=self.rotation)
        self._effects = Effects(parts, self._take, lambda *_: None, lambda _: None)

    def _take(self, event: Event) -> None:
        self.answers.put_nowait((event, asyncio.get_running_loop().time()))

    def perform(self, effect: Effect, tasks: asyncio.TaskGroup) -> None:
        self._effects.perform(effect, SETTINGS, tasks)


@pytest.mark.parametrize("between", [(Admit(1),), ()], ids=["taken back", "asked for twice"])
async def test_earlier_drain_does_not_end_the_next_one_early(between: tuple[Admit, ...]) -> None:
    world = Drains()
    backend = world.rotation.open_backend
    assert backend is not None
    async with backend.request(), asyncio.TaskGroup() as tasks:
        world.perform(Drain(1), tasks)
        await asyncio.sleep(0.15)
        begun = asyncio.get_running_loop().time()
        for effect in between:
            world.perform(effect, tasks)
        world.perform(Drain(1), tasks)
        event, ended = await world.answers.get()
    assert event == Drained(1)
    assert ended - begun >= 0.3
    assert world.answers.empty()
    await world.rotation.retire(1)


async def test_drain_that_is_taken_back_at_once_closes_nothing() -> None:
    world = Drains()
    async with asyncio.TaskGroup() as tasks:
        world.perform(Drain(1), tasks)
        world.perform(Admit(1), tasks)
    assert world.rotation.is_open
    assert world.answers.empty()
    await world.rotation.retire(1)
