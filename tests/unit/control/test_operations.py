"""Operations: one at a time, over when the state says so, kept for a while."""

import asyncio

import pytest

from cahoots_vllm.control.operation import (
    Before,
    Caller,
    Operation,
    Progress,
    Target,
    operation_view,
)
from cahoots_vllm.control.operations import Operations
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.fit.checks import Check
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.level import Level
from cahoots_vllm.core.memory import Memory, read_sizes
from cahoots_vllm.core.state import Idle, Live, Plan, Stage, State
from cahoots_vllm.core.wire import OperationState

_GOAL = LaunchSpec(model="org/a", source="/a", engine="/engine")
_OTHER = LaunchSpec(model="org/b", source="/b", engine="/engine")
_SIZES = read_sizes(_GOAL)
_PLAN = Plan(_GOAL, _GOAL, Memory(_SIZES, _SIZES))
_BY = Caller(uid=0, pid=1)


def begin(operations: Operations, goal: LaunchSpec | None = _GOAL, after: int = -1) -> Operation:
    return operations.begin(
        "swap-model", {"model": "org/a"}, _BY, Target(goal, after), Before(None)
    )


def live(generation: int = 1, stage: Stage = Stage.READY) -> Live:
    return Live(generation, _PLAN, stage, since=0.0)


async def test_ready_worker_of_the_goal_ends_it() -> None:
    operations = Operations()
    operation = begin(operations, after=1)
    for state in (
        State(goal=_GOAL),
        State(goal=_GOAL, live=live(2, Stage.STARTING)),
        State(goal=_GOAL, live=live(1)),  # the one to be replaced
    ):
        assert operations.settle(state, {}) is None
    done = operations.settle(State(goal=_GOAL, live=live(2)), {"model": "org/a"})
    assert done is not None
    assert (done.state, done.result) == (OperationState.DONE, {"model": "org/a"})
    assert operations.running is None
    assert operations.get(operation.id).ended_at is not None


async def test_another_goal_supersedes_it() -> None:
    operations = Operations()
    begin(operations)
    ended = operations.settle(State(goal=_OTHER), {})
    assert ended is not None
    assert ended.state is OperationState.ABORTED


async def test_stop_is_done_when_nothing_lives() -> None:
    operations = Operations()
    begin(operations, goal=None)
    assert operations.settle(State(live=live(stage=Stage.STOPPING)), {}) is None
    ended = operations.settle(State(), {})
    assert ended is not None
    assert ended.state is OperationState.DONE


async def test_second_one_is_refused_naming_the_first() -> None:
    operations = Operations()
    operation = begin(operations)
    with pytest.raises(
        CahootsError, match=r"operation 1 \(swap-model org/a\) is running"
    ) as raised:
        operations.refuse_if_busy()
    assert (raised.value.kind, raised.value.more) == (Kind.BUSY, {"operation": operation.id})
    operations.abort(operation.id)
    operations.refuse_if_busy()


async def test_only_a_running_one_can_be_aborted() -> None:
    operations = Operations()
    operation = begin(operations)
    assert operations.abort(operation.id).state is OperationState.ABORTED
    with pytest.raises(CahootsError, match="is over") as raised:
        operations.abort(operation.id)
    assert raised.value.kind is Kind.CONFLICT
    with pytest.raises(CahootsError, match="no operation 9"):
        operations.abort("9")


async def test_wait_returns_at_the_end_or_when_the_time_is_up() -> None:
    operations = Operations()
    operation = begin(operations)
    assert (await operations.wait(operation.id, 0.01)).state is OperationState.RUNNING
    waiting = asyncio.create_task(operations.wait(operation.id, 5))
    await asyncio.sleep(0)
    operations.advance(Progress("starting", "starting org/a"))
    await asyncio.sleep(0)
    operations.settle(State(goal=_GOAL, live=live()), {})
    assert (await waiting).state is OperationState.DONE


async def test_same_progress_is_told_once() -> None:
    operations = Operations()
    begin(operations)
    progress = Progress("starting", "starting org/a")
    assert operations.advance(progress) is not None
    assert operations.advance(progress) is None


async def test_last_hundred_are_kept() -> None:
    operations = Operations()
    for _ in range(150):
        operations.abort(begin(operations).id)
    kept = operations.newest_first()
    assert (len(kept), kept[0].id, kept[-1].id) == (100, "150", "51")


async def test_unloaded_goal_is_as_good_as_there() -> None:
    operations = Operations()
    begin(operations)
    done = operations.settle(State(goal=_GOAL, idle=Idle(1.0, 600.0)), {})
    assert done is not None
    assert done.state is OperationState.DONE


async def test_what_the_look_said_is_kept_with_the_operation_that_starts_the_model() -> None:
    operations = Operations()
    fits = (Check("memory", Level.OK, "fits"),)
    operations.looked("org/a", fits)  # a start that nobody waits for
    operation = begin(operations)
    operations.looked("org/b", fits)
    assert operations.get(operation.id).looked == ()
    operations.looked("org/a", fits)
    done = operations.settle(State(goal=_GOAL, live=live()), {})
    assert done is not None
    assert operation_view(done)["looked"] == [
        {"name": "memory", "level": "ok", "sentence": "fits", "remedy": ""}
    ]
