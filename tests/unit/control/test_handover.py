"""What one daemon writes the next one reads: whole, private, and never in the way of a start."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cahoots_vllm.control.handover import Handover
from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.core.evidence import Device
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory import Change, Memory, Room, Sizes
from cahoots_vllm.core.settings import EngineInfo, Settings
from cahoots_vllm.core.state import Failure, Idle, Live, Plan, Stage, State, Strike
from cahoots_vllm.worker.leftovers import WorkerMark
from cahoots_vllm.worker.standby import Warmth
from cahoots_vllm.worker.standby_source import StandbyMark

MARK = WorkerMark(3, 4242, 99, "boot")
GOAL = LaunchSpec(
    model="org/a",
    source="/a",
    engine="/e",
    served=("org/a", "a"),
    # Every type an option can have: true is not 1, nor 1 1.0, over a restart.
    options=(("x", True), ("one", 1), ("share", 1.0), ("name", "auto"), ("many", ("a", "b"))),
    env=(("VLLM_X", "1"),),
    fitted=frozenset({"one"}),
)
SETTINGS = Settings("local", "org/a", EngineInfo("/e", "0.32.0"), "/cache", "/.env")
PLAN = Plan(GOAL, GOAL, Memory(asked=Sizes(900), current=Sizes(850)))
DIAGNOSIS = Diagnosis(
    Cause.GPU_OOM_STARTUP_ALLOC, "CUDA out of memory", "less", is_retryable=True, line=7
)
STATE = State(
    goal=GOAL,
    plan=PLAN,
    live=Live(3, PLAN, Stage.READY, 12.5, room=Room((Device("GPU 0", "key", 1, 2),))),
    last_good=PLAN,
    last_failure=Failure(1.0, GOAL, DIAGNOSIS, "one step lower", (Change("x", 1, None),)),
    strikes=(Strike(1.0, 5), Strike(2.0)),
    generation=3,
    restarts=2,
)


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "handover.json"
    Handover(path).started(MARK, STATE, SETTINGS, {0: 123})
    left = Handover(path).read()
    assert left is not None
    assert (left.mark, left.state, left.gpu_memory) == (MARK, STATE, ((0, 123),))
    kinds = [type(value) for _, value in left.state.live.plan.goal.options]  # type: ignore[union-attr] # it is alive
    assert kinds == [bool, int, float, str, tuple]
    assert path.stat().st_mode & 0o777 == 0o600


def test_each_step_is_kept_and_a_clean_end_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "handover.json"
    one = Handover(path)
    one.started(MARK, STATE, SETTINGS, {})
    one.step(replace(STATE, restarts=9), SETTINGS)
    left = Handover(path).read()
    assert left is not None
    assert (left.mark, left.state.restarts) == (MARK, 9)
    one.step(replace(STATE, live=None, goal=None), SETTINGS)
    left = Handover(path).read()
    assert left is not None
    assert (left.mark, left.state.live, left.state.goal, left.was_local) == (None, None, None, True)
    one.clear()
    assert list(tmp_path.iterdir()) == []
    assert Handover(path).read() is None


def test_worker_whose_start_was_not_noted_is_not_handed_over(tmp_path: Path) -> None:
    path = tmp_path / "handover.json"
    Handover(path).step(STATE, SETTINGS)
    assert Handover(path).read() is None
    Handover(path).started(replace(MARK, generation=2), STATE, SETTINGS, {})
    assert Handover(path).read() is None


@pytest.mark.parametrize("changes", [{"boot": "another"}, {"version": 2}])
def test_other_boot_or_version_is_as_good_as_none(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    path = tmp_path / "handover.json"
    Handover(path).started(MARK, STATE, SETTINGS, {})
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert Handover(path).read() is None


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"mark": {}}', '"\\ud800"', "[" * 5000])
def test_damaged_file_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "handover.json"
    path.write_text(text)
    assert Handover(path).read() is None


def test_model_that_requests_asked_for_is_handed_over(tmp_path: Path) -> None:
    path = tmp_path / "handover.json"
    demanding = replace(SETTINGS, demanded="org/b")
    one = Handover(path)
    one.started(MARK, STATE, demanding, {})
    left = Handover(path).read()
    assert left is not None
    assert (left.demanded, left.configured_model) == ("org/b", "org/a")
    one.step(STATE, SETTINGS)
    left = Handover(path).read()
    assert left is not None
    assert left.demanded is None


def test_unloaded_model_is_handed_over_as_such(tmp_path: Path) -> None:
    path = tmp_path / "handover.json"
    idle = replace(STATE, live=None, idle=Idle(9.0, 600.0))
    Handover(path).step(idle, SETTINGS)
    left = Handover(path).read()
    assert left is not None
    assert left.state.idle == Idle(9.0, 600.0)


def test_file_with_more_fields_is_read(tmp_path: Path) -> None:
    path = tmp_path / "handover.json"
    Handover(path).started(MARK, STATE, SETTINGS, {})
    document = json.loads(path.read_text())
    document["later"] = document["state"]["later"] = 1
    path.write_text(json.dumps(document))
    assert Handover(path).read() is not None


def test_standby_is_handed_over_whatever_becomes_of_the_worker(tmp_path: Path) -> None:
    path, standby = tmp_path / "handover.json", StandbyMark(2, 77, 5, "print", Warmth("1", None))
    one = Handover(path)
    one.stand_by(standby)
    one.step(replace(STATE, live=None), SETTINGS)
    one.started(MARK, STATE, SETTINGS, {})
    left = Handover(path).read()
    assert left is not None
    assert left.standby == standby
    other = Handover(path)
    other.read()
    assert other.standby == standby
    other.step(STATE, SETTINGS)
    left = Handover(path).read()
    assert left is not None
    assert left.standby == standby
    other.stand_by(None)
    left = Handover(path).read()
    assert left is not None
    assert left.standby is None


def test_full_disk_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    one = Handover(tmp_path / "file" / "handover.json")
    one.started(MARK, STATE, SETTINGS, {})
    one.step(STATE, SETTINGS)
