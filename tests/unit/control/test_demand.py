"""When the watch looks, what it finds, and whom it lets go first."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cahoots_vllm.control.backend import Backend
from cahoots_vllm.control.demand import DemandWatch
from cahoots_vllm.control.hold import Ask
from cahoots_vllm.control.operation import Before, Caller, Target
from cahoots_vllm.control.operations import Operations
from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.core.events import Unload, Wake
from cahoots_vllm.core.memory import Memory, read_sizes
from cahoots_vllm.core.settings import (
    EngineInfo,
    GatewaySettings,
    OnDemand,
    Profile,
    Settings,
    make_launch_spec,
)
from cahoots_vllm.core.state import Failure, Idle, Live, Plan, Stage, State

STAY_S = 0.2
IDLE_S = 0.3
SETTINGS = Settings(
    provider="local",
    configured_model="org/a",
    engine=EngineInfo("/engine", "0.32.0"),
    cache_dir="/cache",
    env_file="/.env",
    gateway=GatewaySettings(on_demand=OnDemand.PROFILES, min_stay_s=STAY_S),
    profiles=tuple(Profile(f"org/{name}", f"{name}.toml") for name in "bc"),
)
DIAGNOSIS = Diagnosis(Cause.BAD_ARGUMENTS, "bad option", "correct it", is_retryable=False)


class Host:
    """A supervisor that only writes down what the watch asks of it."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.rotation, self.operations = Rotation(), Operations()
        self.asked: list[str | Unload | Wake] = []
        self.settings = settings
        self.watch = DemandWatch(self.rotation, self.operations, self._demand, self.asked.append)
        self.tasks: list[asyncio.Task[Backend]] = []

    def _demand(self, model: str, _why: str) -> None:
        self.asked.append(model)

    def serve(self, model: str = "org/a", **changes: object) -> State:
        """Let a model be ready since now, or the state be changed from that."""
        goal = make_launch_spec(SETTINGS, model)
        plan = Plan(goal, goal, Memory(read_sizes(goal), read_sizes(goal)))
        live = Live(1, plan, Stage.READY, asyncio.get_running_loop().time())
        state = replace(State(goal=goal, plan=plan, live=live), **changes)  # type: ignore[arg-type] # the test names real fields
        self.watch.update(state, self.settings)
        if state.live is not None:
            self.rotation.admit(1, Path("/nonexistent"), model, goal.served)
        return state

    async def ask(self, *models: str | None) -> None:
        for model in models:
            waiting = self.rotation.backend(Ask(5, 99, 1000, model=model))
            self.tasks.append(asyncio.create_task(waiting))
            await asyncio.sleep(0.001)

    async def asks_within(self, seconds: float) -> Sequence[str | Unload | Wake]:
        await asyncio.sleep(seconds)
        return self.asked


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    one = Host()
    one.watch.start()
    yield one
    one.watch.stop()
    for task in one.tasks:
        task.cancel()
    await asyncio.gather(*one.tasks, return_exceptions=True)
    await one.rotation.retire(1)


async def test_model_that_is_waited_for_is_asked_for_once_the_stay_is_over(host: Host) -> None:
    host.serve()
    await host.ask("org/b", "org/c", "org/b")
    assert not await host.asks_within(STAY_S / 2)
    assert (await host.asks_within(STAY_S))[:1] == ["org/b"]


async def test_request_that_left_is_not_counted(host: Host) -> None:
    host.serve()
    await host.ask("org/b", "org/c")
    host.tasks[0].cancel()
    assert (await host.asks_within(2 * STAY_S))[:1] == ["org/c"]


async def test_nobody_left_so_nothing_is_asked_for(host: Host) -> None:
    host.serve()
    await host.ask("org/b")
    host.tasks[0].cancel()
    assert not await host.asks_within(2 * STAY_S)


async def test_operation_of_a_person_goes_first(host: Host) -> None:
    state = host.serve()
    operation = host.operations.begin(
        "restart", {}, Caller(0, 1), Target(state.goal, after=1), Before(None)
    )
    await host.ask("org/b")
    assert not await host.asks_within(2 * STAY_S)
    host.operations.abort(operation.id)
    assert (await host.asks_within(1.0))[:1] == ["org/b"]


async def test_stopped_watch_asks_for_nothing(host: Host) -> None:
    host.serve()
    await host.ask("org/b")
    host.watch.stop()
    assert not await host.asks_within(2 * STAY_S)


async def test_model_that_failed_is_refused_until_the_settings_are_others(host: Host) -> None:
    host.serve()
    await host.ask("org/b")
    goal = make_launch_spec(SETTINGS, "org/b")
    failed = host.serve(rejected=Failure(1.0, goal, DIAGNOSIS, "kept org/a"))
    with pytest.raises(CahootsError, match="org/b cannot be served: bad option"):
        await host.tasks[0]
    await host.ask("org/b")
    assert host.tasks[1].done()
    assert isinstance(host.tasks[1].exception(), CahootsError)
    host.watch.update(failed, replace(SETTINGS, demanded="org/c"))
    await host.ask("org/b")
    assert host.tasks[2].done(), "a demand is no change of the settings"
    host.watch.update(failed, replace(SETTINGS, url="http://localhost:1/v1"))
    await host.ask("org/b")
    assert not host.tasks[3].done()


async def test_failed_model_that_requests_asked_for_gives_way_to_what_people_want(
    host: Host,
) -> None:
    host.settings = replace(SETTINGS, demanded="org/b")
    goal = make_launch_spec(SETTINGS, "org/b")
    failure = Failure(1.0, goal, DIAGNOSIS, "gave up")
    host.serve("org/b", live=None, is_failed=True, last_failure=failure)
    assert await host.asks_within(0.01) == ["org/a"]
    host.asked.clear()
    host.settings = SETTINGS
    host.serve("org/b", live=None, is_failed=True, last_failure=failure)
    assert not await host.asks_within(0.01), "it is what people want"


async def test_idle_worker_is_unloaded_after_its_time_and_not_while_it_is_used(
    host: Host,
) -> None:
    host.settings = replace(SETTINGS, gateway=replace(SETTINGS.gateway, idle_stop_s=IDLE_S))
    host.serve()
    backend = await host.rotation.backend(Ask(5, 99, 1000))
    async with backend.request():
        assert not await host.asks_within(2 * IDLE_S)
    assert not await host.asks_within(IDLE_S / 2)
    assert (await host.asks_within(2 * IDLE_S))[:1] == [Unload(IDLE_S)]


async def test_whoever_waited_first_wakes_the_model_it_wants(host: Host) -> None:
    idle = Idle(1.0, IDLE_S)
    host.serve(live=None, idle=idle)
    await host.ask(None)
    assert await host.asks_within(0.01) == [Wake()]
    host.asked.clear()
    host.tasks[0].cancel()
    for model in ("org/c", None):  # both before anybody looks
        host.tasks.append(asyncio.create_task(host.rotation.backend(Ask(5, 9, 1000, model=model))))
    assert (await host.asks_within(0.01))[:1] == ["org/c"]
