"""The queue of requests that wait: its order, its bounds, and who leaves it."""

import asyncio
from pathlib import Path

import pytest

from cahoots_vllm.control.backend import Backend
from cahoots_vllm.control.hold import Ask
from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.core.errors import CahootsError, Kind

_UDS = Path("/nonexistent/worker.sock")
_MANY = 1000


def ask(size_bytes: int = 0, *, is_urgent: bool = False, timeout_s: float = 5.0) -> Ask:
    return Ask(timeout_s, _MANY, 10_000, size_bytes=size_bytes, is_urgent=is_urgent)


async def waiting(rotation: Rotation, *asks: Ask) -> list[asyncio.Task[Backend]]:
    tasks = [asyncio.create_task(rotation.backend(one)) for one in asks]
    await asyncio.sleep(0)
    return tasks


async def test_thousand_are_let_go_in_their_order_and_newcomers_after_them() -> None:
    rotation, order = Rotation(), []

    async def one(number: int) -> None:
        await rotation.backend(ask())
        order.append(number)

    tasks = [asyncio.create_task(one(number)) for number in range(_MANY)]
    await asyncio.sleep(0)
    rotation.admit(1, _UDS)
    assert rotation.backend_now(ask()) is None, "who comes now does not overtake"
    tasks.append(asyncio.create_task(one(_MANY)))
    await asyncio.gather(*tasks)
    assert order == list(range(_MANY + 1))
    assert rotation.backend_now(ask()) is not None
    await rotation.retire(1)


async def test_worker_that_goes_again_leaves_the_rest_in_the_queue() -> None:
    rotation = Rotation()
    tasks = await waiting(rotation, *[ask() for _ in range(100)])
    rotation.admit(1, _UDS)
    rotation.lose(1)
    await asyncio.sleep(0.05)
    assert 0 < rotation.held < 100
    rotation.admit(2, _UDS)
    backends = await asyncio.gather(*tasks)
    generations = [backend.generation for backend in backends]
    assert generations == sorted(generations)
    assert {1, 2} == set(generations)
    for generation in (1, 2):
        await rotation.retire(generation)


async def test_bytes_are_bounded_and_given_back() -> None:
    rotation = Rotation()
    first, second = await waiting(rotation, ask(6000), ask(4000))
    with pytest.raises(CahootsError) as refused:
        await rotation.backend(ask(1))
    assert refused.value.kind is Kind.BUSY
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    (third,) = await waiting(rotation, ask(6000))
    assert rotation.held == 2
    rotation.admit(1, _UDS)
    await asyncio.gather(second, third)
    await rotation.retire(1)


async def test_half_of_a_thousand_hanging_up_leave_nothing_behind() -> None:
    rotation = Rotation()
    tasks = await waiting(rotation, *[ask(10) for _ in range(_MANY)])
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks[::2], return_exceptions=True)
    assert rotation.held == _MANY / 2
    rotation.admit(1, _UDS)
    await asyncio.gather(*tasks[1::2])
    assert rotation.held == 0
    # All their bytes are free again.
    rotation.close(1)
    (task,) = await waiting(rotation, ask(10_000))
    assert rotation.held == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await rotation.retire(1)


async def test_listing_of_models_goes_first_and_is_not_counted() -> None:
    rotation, order = Rotation(), []

    async def one(name: str, wish: Ask) -> None:
        await rotation.backend(wish)
        order.append(name)

    tasks = [asyncio.create_task(one("chat", ask())) for _ in range(_MANY)]
    tasks.append(asyncio.create_task(one("models", ask(is_urgent=True))))
    await asyncio.sleep(0)
    assert rotation.held == _MANY + 1
    rotation.admit(1, _UDS)
    await asyncio.gather(*tasks)
    assert order[0] == "models"
    await rotation.retire(1)


async def test_refused_request_is_told_when_to_come_again() -> None:
    rotation = Rotation()
    rotation.expected_at = asyncio.get_running_loop().time() + 41.5
    with pytest.raises(CahootsError) as raised:
        await rotation.backend(ask(timeout_s=0.01))
    assert raised.value.more["retry_after_s"] == "42"
    rotation.expected_at = 0.0
    with pytest.raises(CahootsError) as raised:
        await rotation.backend(ask(20_000))
    assert raised.value.more["retry_after_s"] == "1"
