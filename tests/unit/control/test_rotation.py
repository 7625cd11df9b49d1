"""The rotation: who waits, who is refused, who is on which worker."""

import asyncio
from pathlib import Path

import pytest

from cahoots_vllm.control.hold import Ask
from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.control.terms import Refusal, Terms
from cahoots_vllm.core.errors import CahootsError, Kind

_UDS = Path("/nonexistent/worker.sock")


async def wait(rotation: Rotation, timeout_s: float = 5, hold_max: int = 9) -> int:
    backend = await rotation.backend(Ask(timeout_s, hold_max, hold_bytes=1000))
    return backend.generation


async def error_of(rotation: Rotation, **how: float) -> CahootsError:
    with pytest.raises(CahootsError) as raised:
        await wait(rotation, **how)  # type: ignore[arg-type]
    return raised.value


async def test_waiting_requests_get_the_worker_oldest_first() -> None:
    rotation = Rotation()
    order: list[int] = []

    async def one(number: int) -> None:
        assert await wait(rotation) == 1
        order.append(number)

    tasks = [asyncio.create_task(one(number)) for number in range(3)]
    await asyncio.sleep(0)
    assert rotation.held == 3
    rotation.admit(1, _UDS)
    await asyncio.gather(*tasks)
    assert (order, rotation.held) == ([0, 1, 2], 0)
    await rotation.retire(1)


async def test_caller_that_is_cancelled_leaves_the_queue() -> None:
    rotation = Rotation()
    task = asyncio.create_task(wait(rotation))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert rotation.held == 0


async def test_bounds_of_the_queue() -> None:
    rotation = Rotation()
    assert (await error_of(rotation, timeout_s=0.01)).kind is Kind.TIMED_OUT
    assert (await error_of(rotation, hold_max=0)).kind is Kind.BUSY
    assert rotation.held == 0


async def test_refusal_reaches_those_who_wait_and_those_who_come() -> None:
    rotation = Rotation()
    task = asyncio.create_task(error_of(rotation))
    await asyncio.sleep(0)
    rotation.take(Terms(Refusal("it failed", "mend it")))
    for error in (await task, await error_of(rotation)):
        assert (error.kind, error.message, error.remedy) == (
            Kind.WORKER_FAILED, "it failed", "mend it",
        )  # fmt: skip
    rotation.take(Terms())
    assert (await error_of(rotation, timeout_s=0.01)).kind is Kind.TIMED_OUT


async def test_drain_waits_for_what_is_in_flight_and_closes_for_the_rest() -> None:
    rotation = Rotation()
    rotation.admit(1, _UDS)
    backend = await rotation.backend(Ask(1, 1, 1000))
    async with backend.request():
        assert rotation.running == 1
        assert not await rotation.drain(1, 0.01)
        assert not rotation.is_open
        draining = asyncio.create_task(rotation.drain(1, 5))
        await asyncio.sleep(0)
    assert await draining
    assert rotation.running == 0
    rotation.admit(1, _UDS)  # the swap was taken back
    assert await wait(rotation) == 1
    await rotation.retire(1)


async def test_cut_off_ends_a_drain_at_once() -> None:
    rotation = Rotation()
    rotation.admit(1, _UDS)
    backend = await rotation.backend(Ask(1, 1, 1000))
    async with backend.request():
        draining = asyncio.create_task(rotation.drain(1, 60))
        await asyncio.sleep(0)
        rotation.cut_off()
        assert await draining
    await rotation.retire(1)


async def test_retire_ends_what_is_in_flight_and_refuses_more_on_it() -> None:
    rotation = Rotation()
    rotation.admit(1, _UDS)
    backend = await rotation.backend(Ask(1, 1, 1000))

    async def ask(*, retires: bool) -> None:
        async with backend.request():
            if retires:
                await rotation.retire(1)
            await asyncio.sleep(5)

    with pytest.raises(TimeoutError):
        await ask(retires=True)
    with pytest.raises(TimeoutError):
        await ask(retires=False)


async def test_closing_another_generation_changes_nothing() -> None:
    rotation = Rotation()
    rotation.admit(2, _UDS)
    rotation.close(1)
    assert rotation.is_open
    assert await rotation.drain(1, 1)
    await rotation.retire(1)
    assert rotation.is_open
    await rotation.retire(2)
