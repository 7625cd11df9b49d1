"""Lessons about memory: kept by what they are about, over restarts, in the right clock."""

import json
import time
from dataclasses import replace
from pathlib import Path

from cahoots_vllm.control.learned import Learned, MemoryRecord, asked_for, memory_key
from cahoots_vllm.control.memory_status import lesson_status
from cahoots_vllm.control.state_file import StateFile
from cahoots_vllm.core.evidence import Device
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory import Attempt, Change, Memory, Sizes, Step, apply_sizes

GOAL = LaunchSpec(
    "org/a", "org/a", "/e", options=(("gpu-memory-utilization", 0.9), ("dtype", "auto"))
)
LAUNCH = replace(GOAL, source="/cache/snapshots/abc", is_local=True)
GPUS = (Device("GPU-1", "GPU 0", 24, 24),)
ASKED = Sizes(900)
LESSON = Memory(
    ASKED,
    Sizes(850),
    failed=(Attempt(ASKED, took_too_much=True, at=100.0),),
    steps=(Step(100.0, "gpu_oom_startup_alloc", "CUDA out of memory", (Change("x", 0.9, 0.85),)),),
    has_worked=True,
)


class Shelf:
    """A place to keep records, and a clock that can be another daemon's."""

    def __init__(self, records: tuple[MemoryRecord, ...] = (), now: float = 1000.0) -> None:
        self.records = records
        self.now = now

    def learned(self) -> Learned:
        return Learned(self.records, self._save, lambda: self.now)

    def _save(self, records: tuple[MemoryRecord, ...]) -> None:
        self.records = records


def key(goal: LaunchSpec = GOAL, launch: LaunchSpec = LAUNCH, engine: str = "0.32.0") -> object:
    return memory_key(goal, launch, engine, GPUS)


def test_what_decides_about_memory_is_the_key() -> None:
    base = key()
    assert key(launch=LAUNCH.with_option("tool-call-parser", "hermes")) == base
    assert key(launch=LAUNCH.with_option("quantization", "awq")) != base
    assert key(launch=LAUNCH.with_option("gpu-memory-utilization", 0.8)) != base
    assert key(launch=replace(LAUNCH, source="/cache/snapshots/def")) != base
    assert key(goal=replace(GOAL, source="org/b")) != base
    assert key(engine="0.33.0") != base
    assert memory_key(GOAL, LAUNCH, "0.32.0", ()) != base


def test_adapted_launch_spec_has_the_key_of_what_was_asked_for() -> None:
    adapted = apply_sizes(LAUNCH, LESSON.current)
    assert adapted != LAUNCH
    assert key(launch=asked_for(adapted, LESSON)) == key()


def test_sizes_are_compared_by_value_and_a_secret_is_no_part_of_the_key() -> None:
    assert key(launch=LAUNCH.with_option("gpu-memory-utilization", "0.90")) == key()
    secret = key(launch=LAUNCH.with_option("hf-token", "hf_neverToBeSeen"))
    assert secret == key()
    assert "hf_never" not in str(secret)


def test_damaged_lesson_does_not_take_the_rest_of_the_state_file_along(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    shelf = Shelf()
    shelf.learned().put(memory_key(GOAL, LAUNCH, "0.32.0", GPUS), LESSON)
    file.save(override="org/b", generation=7, memory=shelf.records)
    document = json.loads((tmp_path / "state.json").read_text())
    document["memory"].insert(0, {"key": "nonsense"})
    (tmp_path / "state.json").write_text(json.dumps(document))
    again = StateFile(tmp_path / "state.json")
    record = again.load()
    assert (record.override, record.generation) == ("org/b", 7)
    assert record.memory == shelf.records
    assert "1 lessons about memory" in again.warnings[0]


def test_lesson_outlives_the_daemon_and_its_clock() -> None:
    shelf = Shelf(now=1000.0)
    name = memory_key(GOAL, LAUNCH, "0.32.0", GPUS)
    shelf.learned().put(name, LESSON)
    found = Shelf(shelf.records, now=5.0).learned().find(name)
    assert found is not None
    # 900 s ago then is 900 s ago now, before the other daemon's clock began.
    assert abs(found.failed[0].at - (5.0 - 900.0)) < 1.0
    assert abs(found.steps[0].at - (5.0 - 900.0)) < 1.0
    assert replace(found, failed=(), steps=()) == replace(LESSON, failed=(), steps=())


def test_lesson_stands_in_the_state_file(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    file.load()
    name = memory_key(GOAL, LAUNCH, "0.32.0", GPUS)
    Learned((), lambda records: file.save(memory=records), time.monotonic).put(name, LESSON)
    again = StateFile(tmp_path / "state.json")
    records = again.load().memory
    assert again.warnings == ()
    assert [record.key for record in records] == [name]
    assert records[0].memory.current == LESSON.current


def test_unknown_lesson_is_none() -> None:
    assert Shelf().learned().find(memory_key(GOAL, LAUNCH, "0.32.0", ())) is None


def test_reset_forgets_one_model_or_all() -> None:
    shelf = Shelf()
    learned = shelf.learned()
    for goal in (GOAL, replace(GOAL, source="org/b")):
        learned.put(memory_key(goal, LAUNCH, "0.32.0", GPUS), LESSON)
    assert learned.reset("org/none") == 0
    assert learned.reset("org/b") == 1
    assert [record.key.model for record in shelf.records] == ["org/a"]
    assert learned.reset(None) == 1
    assert shelf.records == ()


def test_oldest_lessons_go_when_there_are_too_many() -> None:
    shelf = Shelf()
    learned = shelf.learned()
    for number in range(60):
        goal = replace(GOAL, source=f"org/{number}")
        learned.put(memory_key(goal, LAUNCH, "0.32.0", GPUS), LESSON)
    assert [record.key.model for record in shelf.records][::49] == ["org/10", "org/59"]


def test_lesson_is_shown_with_times_and_names() -> None:
    shelf = Shelf()
    shelf.learned().put(memory_key(GOAL, LAUNCH, "0.32.0", GPUS), LESSON)
    shown = lesson_status(shelf.records[0])
    assert (shown.model, shown.revision, shown.devices) == ("org/a", "abc", ("GPU-1",))
    assert [(c.option, c.before, c.after) for c in shown.adapted] == [
        ("gpu-memory-utilization", 0.9, 0.85)
    ]
    assert shown.failed[0].sizes == {"gpu-memory-utilization": 0.9}
    assert shown.failed[0].problem == "too much memory"
    assert shown.steps[0].at.endswith("+00:00")
