"""The rotation: who waits, who is refused, who is on which worker."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from cahoots_vllm.control.backend import Backend
from cahoots_vllm.control.hold import Ask
from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.control.terms import Refusal, Terms
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.host.engine_client import UnreachableError

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
    with pytest.raises(UnreachableError):  # so that nobody takes it for sent
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


def _ask(model: str | None, timeout_s: float = 5) -> Ask:
    return Ask(timeout_s, 9, hold_bytes=1000, model=model)


async def begin(rotation: Rotation, *models: str | None) -> list[asyncio.Task[Backend]]:
    """Let requests that name these models ask, in this order."""
    tasks = []
    for model in models:
        tasks.append(asyncio.create_task(rotation.backend(_ask(model))))
        await asyncio.sleep(0)
    return tasks


CHOICE = Terms(names=frozenset({"a", "b"}))


async def test_request_for_another_model_waits_while_the_others_are_served() -> None:
    rotation = Rotation()
    rotation.take(CHOICE)
    rotation.admit(1, _UDS, "a", ("a",))
    other, *served = await begin(rotation, "b", "a", None, "unheard-of")
    assert [(await task).generation for task in served] == [1, 1, 1]
    assert (other.done(), rotation.held) == (False, 1)
    assert rotation.backend_now(_ask("b")) is None
    assert [model for model, _ in rotation.waiting()] == ["b"]
    rotation.close(1)
    rotation.admit(2, _UDS, "b", ("b",))
    assert (await other).generation == 2
    await rotation.retire(1)
    await rotation.retire(2)


@pytest.mark.parametrize("is_choosy", [True, False])
async def test_suspect_goes_first_to_its_own_worker_and_bars_no_other(*, is_choosy: bool) -> None:
    rotation = Rotation()
    if is_choosy:
        rotation.take(CHOICE)
    rotation.bar("b")
    rotation.bar("b")
    rotation.admit(1, _UDS, "a", ("a",))
    assert (rotation.backend_now(_ask("a")) is not None) is is_choosy
    rotation.admit(2, _UDS, "b", ("b", "an-alias"))
    suspect = replace(_ask("b"), is_suspect=True)
    assert rotation.backend_now(suspect) is not None
    assert rotation.backend_now(replace(_ask("b"), is_urgent=True)) is not None
    tasks = await begin(rotation, "b", "an-alias", None)
    assert rotation.held == 3
    rotation.unbar("b")
    await asyncio.sleep(0)
    assert rotation.held == 3, "there were two"
    rotation.unbar("b")
    assert [(await task).generation for task in tasks] == [2, 2, 2]
    await rotation.retire(1)
    await rotation.retire(2)


async def test_who_waited_beside_a_trial_for_too_long_is_told_so() -> None:
    rotation = Rotation()
    rotation.bar(None)
    with pytest.raises(CahootsError) as without:
        await rotation.backend(_ask("a", timeout_s=0.01))
    assert "trial" not in without.value.message
    rotation.admit(1, _UDS, "a", ("a",))
    with pytest.raises(CahootsError) as beside:
        await rotation.backend(_ask("a", timeout_s=0.01))
    assert "is on trial first" in beside.value.message
    await rotation.retire(1)


async def test_all_that_wait_for_a_model_are_served_together() -> None:
    rotation = Rotation()
    rotation.take(CHOICE)
    tasks = await begin(rotation, *["a", "b"] * 4)
    rotation.admit(1, _UDS, "b", ("b",))
    done, waiting = await asyncio.wait(tasks, timeout=0.2)
    assert (len(done), len(waiting), rotation.held) == (4, 4, 4)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert rotation.held == 0
    await rotation.retire(1)


async def test_names_that_no_longer_count_are_the_engines_business() -> None:
    rotation = Rotation()
    rotation.take(CHOICE)
    rotation.admit(1, _UDS, "a", ("a",))
    (task,) = await begin(rotation, "b")
    rotation.take(Terms())
    assert (await task).generation == 1
    await rotation.retire(1)


async def test_model_that_cannot_be_served_is_refused_until_it_may_be_tried_again() -> None:
    rotation = Rotation()
    now = asyncio.get_running_loop().time()
    refused = Refusal("b failed", "mend it", until=now + 50)
    rotation.take(CHOICE)
    waiting = await begin(rotation, "b", "a")
    rotation.take(replace(CHOICE, refusals={"b": refused}))
    with pytest.raises(CahootsError, match="b failed") as raised:
        await waiting[0]
    assert 49 <= int(raised.value.more["retry_after_s"]) <= 50
    with pytest.raises(CahootsError, match="b failed"):
        await rotation.backend(_ask("b"))
    rotation.take(replace(CHOICE, refusals={"b": replace(refused, until=now)}))
    with pytest.raises(CahootsError) as late:
        await rotation.backend(_ask("b", timeout_s=0.01))
    assert late.value.kind is Kind.TIMED_OUT, "it may be tried again: held"
    rotation.admit(1, _UDS, "a", ("a",))
    assert (await waiting[1]).generation == 1
    await rotation.retire(1)


async def test_who_wants_another_model_is_held_while_the_goal_is_refused() -> None:
    rotation = Rotation()
    failed = Refusal("a failed", "mend it")
    rotation.take(replace(CHOICE, refusal=failed, refusals={"a": failed}))
    for model in ("a", None, "unheard-of"):
        with pytest.raises(CahootsError, match="a failed"):
            await rotation.backend(_ask(model))
    (task,) = await begin(rotation, "b")
    assert rotation.held == 1
    rotation.take(Terms(Refusal("stopped", "start it")))
    with pytest.raises(CahootsError, match="stopped"):
        await task


async def test_quiet_counts_from_the_last_use_and_not_while_there_is_any() -> None:
    rotation = Rotation()
    loop = asyncio.get_running_loop()
    rotation.admit(1, _UDS, "a", ("a",))
    backend = await rotation.backend(_ask("a"))
    async with backend.request():
        assert rotation.quiet_since is None
        await asyncio.sleep(0.02)
    ended = rotation.quiet_since
    assert ended is not None
    assert loop.time() - ended < 0.01
    await asyncio.sleep(0.02)
    async with backend.request(is_use=False):
        assert rotation.quiet_since is None
    assert rotation.quiet_since == ended
    rotation.close(1)
    (task,) = await begin(rotation, "a")
    assert rotation.quiet_since is None, "somebody waits"
    task.cancel()
    await asyncio.wait([task])
    await rotation.retire(1)


async def test_who_begins_to_wait_is_told_of_and_who_does_not_is_not() -> None:
    rotation = Rotation()
    told: list[int] = []
    rotation.on_wait = lambda: told.append(rotation.held)
    tasks = await begin(rotation, None, None)
    rotation.admit(1, _UDS)
    await asyncio.gather(*tasks)
    await wait(rotation)
    assert told == [1, 2]
    await rotation.retire(1)


async def test_worker_that_is_ended_twice_tells_its_requests_once() -> None:
    backend = Backend(1, _UDS, "m")
    is_told = asyncio.Event()

    async def ask() -> None:
        async with backend.request():
            try:
                await asyncio.Event().wait()
            finally:
                is_told.set()
                await asyncio.sleep(0)  # it tidies up

    asked = asyncio.create_task(ask())
    await asyncio.sleep(0)
    await backend.end()
    await is_told.wait()
    await backend.end()
    with pytest.raises(TimeoutError):
        await asked
