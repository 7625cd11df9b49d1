"""Who sleeps, for how long, and who is ended for what: no process, no host, no GPU."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cahoots_vllm.control import sleepers as module
from cahoots_vllm.control.sleepers import Sleepers
from cahoots_vllm.core.amounts import GIB
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.secret import Secret
from cahoots_vllm.core.settings import EngineInfo, Settings, SleepSettings, make_launch_spec
from cahoots_vllm.core.sleep import Held
from cahoots_vllm.core.standby import MemoryFacts
from cahoots_vllm.core.state import State
from cahoots_vllm.core.wire import SwapStrategy
from cahoots_vllm.worker.sleeper import SleepError

PLENTY = MemoryFacts(64 * GIB, 32 * GIB)
SETTINGS = Settings(
    "local", "org/a", EngineInfo("/engine", "0.32.0"), "/cache", "/.env",
    swap=SwapStrategy.SLEEP, secret_env=(("HF_TOKEN", Secret("old")),),
)  # fmt: skip


class FakeSleeper:
    """One without processes."""

    def __init__(self) -> None:
        self.pid = 1
        self.death: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.is_ended = self.is_left = False
        self.ends_after_s = 0.0
        self.running = SimpleNamespace(tree=SimpleNamespace(pids=lambda: [1, 2]))

    def check_alive(self) -> None:
        if self.death.done():
            raise SleepError(self.death.result())

    def leave_watch(self) -> None:
        self.is_left = True

    async def end(self, _on_stuck: Callable[[str], None]) -> None:
        await asyncio.sleep(self.ends_after_s)
        self.is_ended = True


class FakeWorker:
    """One that sleeps as soon as it is told to."""

    def __init__(self, model: str) -> None:
        self.made_for = f"print of {model}"
        self.launch = LaunchSpec(model, model, "/engine")
        self.sleeper = FakeSleeper()

    def pids(self) -> list[int]:
        return [1]

    async def fall_asleep(self, _timeout_s: float) -> FakeSleeper:
        return self.sleeper


class Release:
    """A GPU that gives back what it held."""

    def __init__(self) -> None:
        self.readings = [20 * GIB, 0]

    async def held(self, _pids: object) -> tuple[Held, ...]:
        held = self.readings.pop(0)
        self.readings.append(held)
        return (Held(0, 24 * GIB, held),)


class Host:
    """The host's memory as the keeper sees it."""

    def __init__(self) -> None:
        self.memory = PLENTY
        self.private = GIB


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    there = Host()
    monkeypatch.setattr(module, "read_memory", lambda _cgroup: there.memory)
    monkeypatch.setattr(module, "private_bytes", lambda _pid: there.private)
    monkeypatch.setattr(module, "_LOOK_S", 0.01)
    return there


def keeper(settings: Settings = SETTINGS) -> Sleepers:
    context: Any = SimpleNamespace(cgroup_parent=None)
    release: Any = Release()
    made = Sleepers(context, release)
    made.update(State(goal=make_launch_spec(settings, "org/z")), settings)
    return made


async def put(made: Sleepers, model: str, settings: Settings = SETTINGS) -> FakeSleeper:
    worker: Any = FakeWorker(model)
    assert await made.put(worker, make_launch_spec(settings, model), settings)
    sleeper: FakeSleeper = worker.sleeper
    return sleeper


def models(made: Sleepers) -> list[str]:
    return [row.model for row in made.status]


@asynccontextmanager
async def running(made: Sleepers) -> AsyncIterator[None]:
    task = asyncio.create_task(made.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.005)


async def test_the_one_of_longest_ago_is_ended_when_memory_is_scarce(host: Host) -> None:
    made = keeper()
    first, second = await put(made, "org/a"), await put(made, "org/b")
    async with running(made):
        await asyncio.sleep(0.05)
        assert models(made) == ["org/a", "org/b"]
        host.memory = replace(PLENTY, pressure=50.0)
        await until(lambda: models(made) == ["org/b"] and first.is_ended)
        host.memory = PLENTY
        await asyncio.sleep(0.05)
        assert models(made) == ["org/b"]
    assert second.is_ended  # with the daemon


async def test_budget_that_shrinks_ends_who_does_not_fit_any_more(host: Host) -> None:
    made = keeper()
    await put(made, "org/a")
    await put(made, "org/b")
    async with running(made):
        less = replace(SETTINGS, sleep=SleepSettings(memory_bytes=3 * GIB // 2))
        made.update(State(goal=make_launch_spec(less, "org/z")), less)
        await until(lambda: models(made) == ["org/b"])
    assert host.private == GIB


@pytest.mark.parametrize(
    ("settings", "is_wanted"),
    [
        (replace(SETTINGS, secret_env=(("HF_TOKEN", Secret("new")),)), True),
        (replace(SETTINGS, swap=SwapStrategy.AUTO), True),
        (replace(SETTINGS, options=(("max-num-seqs", 7),)), True),
        (replace(SETTINGS, provider="mock"), True),
        (SETTINGS, False),
    ],
    ids=["token", "strategy", "option", "provider", "stopped"],
)
@pytest.mark.usefixtures("host")
async def test_who_will_not_be_wanted_so_is_ended(settings: Settings, *, is_wanted: bool) -> None:
    made = keeper()
    sleeper = await put(made, "org/a")
    async with running(made):
        goal = make_launch_spec(settings, "org/z") if is_wanted else None
        made.update(State(goal=goal), settings)
        await until(lambda: not made.status and sleeper.is_ended)


@pytest.mark.usefixtures("host")
async def test_one_that_died_is_not_woken_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    made = keeper()
    sleeper = await put(made, "org/a")
    sleeper.death.set_result("its engine ended")
    assert made.take("print of org/a") is None
    async with running(made):
        await until(lambda: sleeper.is_ended)
    said = [row for row in caplog.records if row.levelname == "WARNING"]
    assert [row.getMessage() for row in said] == ["org/a, which slept, is ended: its engine ended"]


@pytest.mark.usefixtures("host")
async def test_who_is_taken_is_somebody_elses_and_only_the_right_one_is() -> None:
    made = keeper()
    sleeper: object = await put(made, "org/a")
    assert made.take("") is None
    assert made.take("print of org/b") is None
    assert made.take("print of org/a") is sleeper
    assert made.take("print of org/a") is None
    await made.end_all("the test ends")
    assert isinstance(sleeper, FakeSleeper)
    assert not sleeper.is_ended


@pytest.mark.usefixtures("host")
async def test_start_sees_the_one_it_wakes_and_may_end_the_others() -> None:
    made = keeper()
    await put(made, "org/a")
    second = await put(made, "org/b")
    sleeping = made.beside("print of org/a")
    assert sleeping.waking == {1, 2}
    assert await sleeping.end_one()
    assert (second.is_ended, models(made)) == (True, ["org/a"])
    assert not await sleeping.end_one()


@pytest.mark.usefixtures("host")
async def test_end_that_has_begun_is_gone_through_with_when_its_start_is_taken_back() -> None:
    made = keeper()
    sleeper = await put(made, "org/a")
    sleeper.ends_after_s = 0.1
    start = asyncio.ensure_future(made.beside("").end_one())
    await asyncio.sleep(0.05)
    start.cancel()
    await asyncio.wait((start,))
    assert (start.cancelled(), sleeper.is_ended) == (True, False)
    await until(lambda: sleeper.is_ended)


@pytest.mark.usefixtures("host")
async def test_one_that_cannot_be_killed_keeps_neither_the_others_nor_the_daemon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_GONE_WITHIN_S", 0.1)
    made = keeper()
    first, second = await put(made, "org/a"), await put(made, "org/b")
    first.ends_after_s = 60.0
    task = asyncio.create_task(made.run())
    await asyncio.sleep(0.05)
    task.cancel()
    over, _ = await asyncio.wait((task,), timeout=5)
    assert over
    assert (first.is_ended, second.is_ended) == (False, True)
    assert made.pids() == [1, 2]


@pytest.mark.usefixtures("host")
async def test_nobody_takes_one_whose_end_is_decided() -> None:
    made = keeper()
    first, second = await put(made, "org/a"), await put(made, "org/b")
    first.ends_after_s = 0.05
    end = asyncio.create_task(made.end_all("the test ends"))
    await asyncio.sleep(0.01)
    assert made.take("print of org/b") is None
    await end
    assert (first.is_ended, second.is_ended) == (True, True)


@pytest.mark.usefixtures("host")
async def test_one_goal_sleeps_once() -> None:
    made = keeper()
    older = await put(made, "org/a")
    newer = await put(made, "org/a")
    assert (older.is_ended, newer.is_ended, models(made)) == (True, False, ["org/a"])


async def test_size_is_that_of_the_sleeper_not_what_it_was_expected_to_be(host: Host) -> None:
    """What nobody could know before: it is measured once it sleeps."""
    settings = replace(SETTINGS, sleep=SleepSettings(memory_bytes=2 * GIB))
    made, worker = keeper(settings), FakeWorker("org/a")
    fall_asleep = worker.fall_asleep

    async def grow(timeout_s: float) -> FakeSleeper:
        host.private = 3 * GIB
        return await fall_asleep(timeout_s)

    grown: Any = SimpleNamespace(
        made_for=worker.made_for, launch=worker.launch, pids=worker.pids, fall_asleep=grow
    )
    assert not await made.put(grown, make_launch_spec(settings, "org/a"), settings)
    assert worker.sleeper.is_left
    assert not made.status


@pytest.mark.usefixtures("host")
async def test_the_one_that_is_about_to_wake_is_not_ended_for_one_that_goes() -> None:
    settings = replace(SETTINGS, sleep=SleepSettings(memory_bytes=2 * GIB))
    made = keeper(settings)
    first, second = await put(made, "org/a", settings), await put(made, "org/b", settings)
    made.update(State(goal=make_launch_spec(settings, "org/a")), settings)
    await put(made, "org/c", settings)
    assert models(made) == ["org/a", "org/c"]
    assert (first.is_ended, second.is_ended) == (False, True)
    less = replace(settings, sleep=SleepSettings(memory_bytes=GIB))
    goer: Any = FakeWorker("org/d")
    assert not await made.put(goer, make_launch_spec(less, "org/d"), less)
    assert "org/a" in models(made)


async def test_what_is_available_is_shared_with_who_sleeps_already(host: Host) -> None:
    """Half of what is available is judged once: its own weights are no reason against it."""
    host.private, host.memory = 10 * GIB, MemoryFacts(64 * GIB, 21 * GIB)
    made = keeper()
    await put(made, "org/a")
    host.memory = MemoryFacts(64 * GIB, 11 * GIB)
    async with running(made):
        await asyncio.sleep(0.05)
        assert models(made) == ["org/a"]
        host.memory = MemoryFacts(64 * GIB, 9 * GIB)
        await until(lambda: not made.status)


@pytest.mark.usefixtures("host")
async def test_goal_that_the_settings_want_otherwise_is_not_put_to_sleep() -> None:
    made, worker = keeper(), FakeWorker("org/a")
    asked: Any = worker
    goal = make_launch_spec(SETTINGS, "org/a").with_option("max-num-seqs", 7)
    assert not await made.put(asked, goal, SETTINGS)
    worker.made_for = ""
    assert not await made.put(asked, make_launch_spec(SETTINGS, "org/a"), SETTINGS)


@pytest.mark.usefixtures("host")
async def test_launch_that_cannot_sleep_has_no_print(tmp_path: Path) -> None:
    (tmp_path / "lib/python3.11/site-packages/vllm").mkdir(parents=True)
    able = replace(make_launch_spec(SETTINGS, "org/a"), engine=str(tmp_path))
    assert await keeper().print_of(able, SETTINGS)
    assert await keeper().print_of(replace(able, env=()), SETTINGS) == ""
