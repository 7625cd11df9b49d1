"""Who is to blame for a death: one at a time, so that a poison request takes nobody along."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from multidict import CIMultiDict

from cahoots_vllm.control.backend import Backend
from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.gateway import trial
from cahoots_vllm.gateway.call import Body, Call
from cahoots_vllm.gateway.trial import Charges, Trial, Trials


def call(id_: str) -> Call:
    return Call(id_, "POST", "/v1/x", CIMultiDict(), Body(id_.encode()))


@asynccontextmanager
async def worker(generation: int = 1) -> AsyncIterator[Backend]:
    backend = Backend(generation, Path("/nonexistent/worker.sock"), "a")
    yield backend
    await backend.end()


async def test_without_a_trial_each_in_flight_is_to_blame() -> None:
    async with worker() as backend:
        backend.lost.set()
        charges = Charges()
        charges.count(call("a"), backend)
        assert charges == Charges(deaths=1)


async def test_end_of_a_worker_that_is_no_death_is_nobodys_fault() -> None:
    async with worker() as backend:
        charges = Charges()
        charges.count(call("a"), backend)
        assert charges == Charges()


async def entered(trials: Trials, backend: Backend) -> Trial:
    """Return one that has its turn on the worker."""
    one = Trial(trials, None)
    one.enter()
    assert await one.wait(backend)
    return one


async def test_turns_are_one_at_a_time_and_end_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trial, "_TRIAL_S", 0.05)
    trials = Trials(Rotation())
    second = Trial(trials, None)
    async with worker() as backend:
        first = await entered(trials, backend)
        second.enter()
        waiting = asyncio.create_task(second.wait(backend))
        first.begin(call("a"), backend)
        await asyncio.sleep(0.01)
        assert not waiting.done()
        assert await waiting
        assert (backend.on_trial, backend.suspects) == (None, 1)
        second.begin(call("b"), backend)
        assert (backend.on_trial, backend.suspects) == ("b", 2)
        first.end()
        second.end()
        assert (backend.on_trial, backend.suspects) == (None, 0)


async def test_all_of_a_series_share_the_time_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_ALL_TRIALS_S", 0.4)
    trials = Trials(Rotation())
    many = [Trial(trials, None) for _ in range(40)]
    for one in many:
        one.enter()
    assert trials.series == len(many)
    async with worker() as backend, asyncio.timeout(3):  # 5 s each without, or 1.6 s one by one
        for one in many:
            assert await one.wait(backend)
            one.begin(call("a"), backend)
        for one in many:
            one.end()
    assert trials.series == 0


async def test_turn_on_a_worker_that_is_gone_by_then_is_none() -> None:
    trials = Trials(Rotation())
    second = Trial(trials, None)
    async with worker() as backend:
        first = await entered(trials, backend)
        waiting = asyncio.create_task(second.wait(backend))
        await asyncio.sleep(0)
        backend.closed.set()
        first.end()
        assert not await waiting
        second.end()
        assert not backend.turn.locked()


async def test_cancelled_waiter_leaves_the_turn_to_the_next() -> None:
    trials = Trials(Rotation())
    second = Trial(trials, None)
    async with worker() as backend:
        first = await entered(trials, backend)
        second.enter()
        waiting = asyncio.create_task(second.wait(backend))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        second.end()
        first.end()
        assert trials.series == 0
        third = await asyncio.wait_for(entered(trials, backend), 1)
        third.end()


async def test_who_has_passed_is_spared_once_and_the_one_on_trial_is_to_blame() -> None:
    trials, harmless, poison = Trials(Rotation()), call("harmless"), call("poison")
    passed, guilty = Charges(deaths=1), Charges(deaths=1)
    async with worker() as backend:
        before = await entered(trials, backend)
        before.begin(harmless, backend)
        before.passed()
        turn = await entered(trials, backend)
        turn.begin(poison, backend)
        backend.lost.set()
        turn.end()  # whichever of the two finds out first
        passed.count(harmless, backend)
        guilty.count(poison, backend)
        before.end()
        assert (passed.deaths, guilty.deaths) == (1, trial.DEATHS)
        # The other one was there, too: it may yet be that one.
        assert "poison" in str(trials.convict(poison, backend))
        trials.check(call("poison"))
    async with worker(2) as backend:
        backend.on_trial = "another"
        backend.lost.set()
        passed.count(harmless, backend)
        assert passed.deaths == trial.DEATHS


async def test_who_alone_can_be_to_blame_is_refused_when_it_comes_again() -> None:
    trials, poison = Trials(Rotation()), call("poison")
    async with worker() as backend:
        turn = await entered(trials, backend)
        turn.begin(poison, backend)
        backend.lost.set()
        turn.end()
        trials.convict(poison, backend)
    with pytest.raises(CahootsError, match="one like it"):
        trials.check(call("poison"))
    trials.check(call("another"))
