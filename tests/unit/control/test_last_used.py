"""When models were served last: noted at the beginning, at the end, and now and then between."""

from pathlib import Path

import pytest

from cahoots_vllm.control.last_used import LastUsed, Times, last_used, used_key
from cahoots_vllm.control.state_file import StateFile
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory import Memory, Sizes
from cahoots_vllm.core.state import Live, Plan, Stage, State

_SNAPSHOT = Path("/c/huggingface/hub/models--org--a/snapshots/abc")
_OTHER = Path("/m/own")


def live(stage: Stage, source: Path = _SNAPSHOT) -> State:
    launch = LaunchSpec(model="org/a", source=str(source), engine="/e")
    plan = Plan(launch, launch, Memory(asked=Sizes(0), current=Sizes(0)))
    return State(goal=launch, plan=plan, live=Live(1, plan, stage, 0.0), generation=1)


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def __call__(self) -> float:
        return self.at


def test_snapshot_is_named_by_repo_and_commit_and_a_directory_by_its_path() -> None:
    assert used_key(_SNAPSHOT) == "org/a@abc"
    assert used_key(Path("/c/hub/models--gpt2/snapshots/abc")) == "gpt2@abc"
    assert used_key(_OTHER) == "/m/own"
    assert used_key(Path("/")) == "/"


def test_model_was_used_when_it_began_to_be_served_and_until_it_ended() -> None:
    saved: list[Times] = []
    clock = Clock()
    used = LastUsed({}, lambda now: saved.append(dict(now)), clock)
    starting, ready = live(Stage.STARTING), live(Stage.READY)
    used.update(State(), starting)
    assert (used.find(_SNAPSHOT), saved) == (None, [])
    used.update(starting, ready)
    assert used.find(_SNAPSHOT) == 1_000_000
    clock.at += 100
    used.update(ready, ready)
    assert len(saved) == 1
    used.update(ready, live(Stage.STOPPING))
    assert saved[-1] == {"org/a@abc": 1_000_100}


@pytest.mark.parametrize("passed", [3700, -3700], ids=["an hour", "a clock set back"])
def test_long_service_is_noted_now_and_then(passed: float) -> None:
    saved: list[Times] = []
    clock = Clock()
    used = LastUsed({}, lambda now: saved.append(dict(now)), clock)
    ready = live(Stage.READY)
    used.update(State(), ready)
    clock.at += passed
    used.update(ready, ready)
    used.update(ready, ready)
    assert [list(times.values()) for times in saved] == [[1_000_000], [1_000_000 + passed]]


def test_worker_of_another_model_ends_the_use_of_the_first() -> None:
    clock = Clock()
    used = LastUsed({}, lambda _: None, clock)
    used.update(State(), live(Stage.READY))
    clock.at += 50
    used.update(live(Stage.READY), live(Stage.READY, _OTHER))
    assert used.find(_SNAPSHOT) == used.find(_OTHER) == 1_000_050


def test_those_used_longest_ago_are_forgotten_first() -> None:
    saved: list[Times] = []
    used = LastUsed({}, lambda now: saved.append(dict(now)), Clock())
    for number in range(250):
        used.update(State(), live(Stage.READY, Path(f"/m/{number}")))
        if number == 100:
            used.update(State(), live(Stage.READY, Path("/m/0")))
    assert len(saved[-1]) == 200
    assert {"/m/0", "/m/249"} <= set(saved[-1])
    assert "/m/1" not in saved[-1]


def test_times_outlive_the_daemon(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    last_used({}, file).update(State(), live(Stage.READY))
    again = StateFile(tmp_path / "state.json").load()
    assert last_used(again.last_used, file).find(_SNAPSHOT) is not None


@pytest.mark.parametrize(
    "text",
    ["[]", "7", '{"a": "x"}', '{"a": NaN}', '{"a": 1e400}', '{"a": -1}', '{"a": 9e15}'],
)
def test_damaged_times_lose_only_themselves(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(f'{{"generation": 7, "last_used": {text}}}')
    file = StateFile(path)
    record = file.load()
    assert (record.generation, record.last_used, file.warnings) == (7, {}, ())


def test_older_state_file_has_none(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"generation": 7}')
    record = StateFile(path).load()
    assert (record.generation, record.last_used) == (7, {})
