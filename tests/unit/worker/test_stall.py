import asyncio
from collections.abc import Callable

import pytest

from cahoots_vllm.worker.probe import Probe
from cahoots_vllm.worker.stall import notice_stall

_SOON_S = 0.01
_TIMEOUT_S = 20 * _SOON_S


class Engine(Probe):
    """An engine whose figures and answers a test sets."""

    def __init__(self) -> None:
        self.steps = 0
        self.is_moving = False
        self.has_page = True
        self.is_answering = False
        self.asked = 0
        self.is_asked = asyncio.Event()

    async def engine_figures(self) -> str | None:
        self.steps += self.is_moving
        return f"vllm:generation_tokens_total {self.steps}" if self.has_page else None

    async def answers(self, timeout_s: float) -> bool:
        self.asked += 1
        self.is_asked.set()
        if not self.is_answering:
            await asyncio.sleep(timeout_s)
        return self.is_answering


async def watch(engine: Engine, is_asked: Callable[[], bool] = lambda: True) -> str | None:
    """Return what is noticed within many times the timeout, None if nothing is."""
    notice = notice_stall(engine, is_asked, timeout_s=_TIMEOUT_S, interval_s=_SOON_S)
    try:
        async with asyncio.timeout(8 * _TIMEOUT_S):
            return await notice
    except TimeoutError:
        return None


async def test_engine_in_which_nothing_moves_is_noticed() -> None:
    engine = Engine()
    noticed = await watch(engine)
    assert noticed is not None
    assert "nothing in the engine has moved" in noticed
    assert engine.asked == 1


async def test_api_server_that_does_not_answer_is_noticed() -> None:
    engine = Engine()
    engine.has_page = False
    assert await watch(engine) is not None


async def test_engine_that_moves_is_left_alone() -> None:
    engine = Engine()
    engine.is_moving = True
    assert await watch(engine) is None
    assert engine.asked == 0


async def test_engine_nobody_asks_is_left_alone() -> None:
    engine = Engine()
    assert await watch(engine, lambda: False) is None
    assert engine.asked == 0


async def test_engine_that_answers_is_left_alone() -> None:
    """A client that does not take its answer is on the worker, and asks nothing of it."""
    engine = Engine()
    engine.is_answering = True
    assert await watch(engine) is None
    assert engine.asked > 1


async def test_engine_that_moves_while_our_request_waits_is_left_alone() -> None:
    engine = Engine()

    async def move() -> None:
        await engine.is_asked.wait()
        engine.is_moving = True

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(move(), name="move")
        assert await watch(engine) is None
    assert engine.asked == 1


async def test_client_that_gives_up_does_not_hide_the_stall() -> None:
    """Its request is counted by an engine that lives."""
    asked = iter([True])
    assert await watch(Engine(), lambda: next(asked, False)) is not None


@pytest.mark.parametrize("count", [1, 5])
async def test_stall_begins_anew_with_each_movement(count: int) -> None:
    """Each time it moves, the whole patience begins again."""
    engine = Engine()
    noticed = asyncio.ensure_future(watch(engine))
    for _ in range(count):
        await engine.is_asked.wait()
        engine.is_asked.clear()
        engine.steps += 1
        assert not noticed.done()
    assert await noticed is not None
