"""The story in the journal: entries with fields, in the order in which things led to each other."""

import logging
import os
from collections.abc import Mapping
from typing import Any

import pytest

from cahoots_vllm.control.event_hub import EventHub, EventType
from cahoots_vllm.control.worker_log import WorkerLog
from cahoots_vllm.story import Story

_FAILURE = {
    "model": "org/a", "cause": "gpu_oom_startup_alloc", "evidence": "CUDA out of memory",
    "remedy": "smaller", "action": "trying 0.85", "line": 7, "changed": [], "serving": None,
}  # fmt: skip
_STARTING = {"state": "starting", "model": "org/a", "text": "starting org/a", "generation": 3}
_READY = {"state": "ready", "model": "org/a", "text": "ready org/a", "generation": 3}

_SWAP: dict[str, Any] = {
    "id": "7", "kind": "swap-model", "state": "running", "params": {"model": "org/b"},
    "by": {"uid": os.getuid(), "pid": 42}, "problem": None, "progress": None,
}  # fmt: skip


class Told:
    """What the daemon and its worker wrote, in order, and a story to publish to."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, int, dict[str, str]]] = []
        self.worker = WorkerLog(self)
        self.shown: list[str] = []
        self.events = EventHub()
        self.events.listen(Story(self.shown.append, self.worker).tell)

    def send(self, message: str, priority: int, fields: Mapping[str, str]) -> bool:
        self.entries.append((message, priority, dict(fields)))
        return True

    def publish(self, kind: EventType, data: dict[str, Any]) -> tuple[str, int, dict[str, str]]:
        """Return what was written last about it."""
        self.events.publish(kind, data)
        return self.entries[-1]


class _Handler(logging.Handler):
    def __init__(self, told: Told) -> None:
        super().__init__()
        self._told = told

    def emit(self, record: logging.LogRecord) -> None:
        self._told.send(record.getMessage(), record.levelno, getattr(record, "fields", {}))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Told:
    one = Told()
    log = logging.getLogger("cahoots_vllm")
    monkeypatch.setattr(log, "handlers", [_Handler(one)])
    caplog.set_level(logging.INFO, log.name)
    return one


def test_phase_and_its_progress_have_the_same_fields(told: Told) -> None:
    expected = {
        "CAHOOTS_MODEL": "org/a", "CAHOOTS_PHASE": "starting", "CAHOOTS_GENERATION": "3",
    }  # fmt: skip
    assert told.publish(EventType.PHASE, _STARTING)[2] == expected
    progress = {"text": "starting org/a: 40%", "sub_phase": None, "fraction": 0.4, "model": "org/a"}
    assert told.publish(EventType.PROGRESS, progress)[2] == expected
    assert told.shown == ["starting org/a", "starting org/a: 40%"]


def test_failure_says_which_worker_and_in_which_phase(told: Told) -> None:
    told.publish(EventType.PHASE, _STARTING)
    text, level, fields = told.publish(EventType.DIAGNOSIS, _FAILURE)
    assert (text.count("CUDA out of memory"), level) == (1, logging.ERROR)
    assert fields["CAHOOTS_CAUSE"] == "gpu_oom_startup_alloc"
    assert (fields["CAHOOTS_PHASE"], fields["CAHOOTS_GENERATION"]) == ("starting", "3")


def test_model_that_fails_beside_the_served_one_is_not_that_worker(told: Told) -> None:
    told.publish(EventType.PHASE, _READY)
    _, _, fields = told.publish(
        EventType.DIAGNOSIS, {**_FAILURE, "model": "org/b", "serving": "org/a"}
    )
    assert fields["CAHOOTS_MODEL"] == "org/b"
    assert "CAHOOTS_GENERATION" not in fields


async def test_workers_last_words_stand_before_what_the_daemon_makes_of_them(told: Told) -> None:
    told.publish(EventType.PHASE, _STARTING)
    told.worker.line(3, "Traceback (most recent call last):")
    told.worker.line(3, "torch.OutOfMemoryError: CUDA out of memory")
    told.publish(EventType.DIAGNOSIS, _FAILURE)
    told.publish(EventType.PHASE, {**_STARTING, "state": "backoff", "generation": None})
    (_, worker, failure, _) = told.entries
    assert worker[0].startswith("Traceback")
    assert worker[2]["CAHOOTS_PHASE"] == "starting"
    assert "CAHOOTS_CAUSE" in failure[2]


def test_story_of_a_failure_has_an_end_at_the_same_priority(told: Told) -> None:
    told.publish(EventType.PHASE, _READY)
    assert [level for _, level, _ in told.entries] == [logging.INFO]
    told.publish(EventType.DIAGNOSIS, _FAILURE)
    text, level, _ = told.publish(EventType.PHASE, _READY)
    assert (text.split(",")[0], level) == ("org/a is served again", logging.WARNING)


def test_failure_that_cost_nobody_anything_has_no_end_to_tell(told: Told) -> None:
    told.publish(EventType.PHASE, _READY)
    told.publish(EventType.DIAGNOSIS, {**_FAILURE, "model": "org/b", "serving": "org/a"})
    assert told.publish(EventType.PHASE, _READY)[0] == "ready org/a"
    ready = {**_READY, "model": "org/c", "text": "ready org/c"}
    assert told.publish(EventType.PHASE, ready)[0] == "ready org/c"


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (EventType.OPERATION, _SWAP),
        (EventType.OPERATION, _SWAP | {"progress": {}, "state": "aborted"}),
        (EventType.DEMAND, {"model": "org/b", "text": "swapping to org/b"}),
        (EventType.RELOAD, {"error": None, "text": "LOCAL_LLM_MODEL changed"}),
    ],
)
def test_another_model_that_is_wanted_since_is_no_end_of_a_failure(
    told: Told, kind: EventType, data: dict[str, Any]
) -> None:
    told.publish(EventType.PHASE, _READY)
    told.publish(EventType.DIAGNOSIS, _FAILURE)
    told.publish(kind, data)
    ready = {**_READY, "model": "org/b", "text": "ready org/b"}
    assert told.publish(EventType.PHASE, ready)[0] == "ready org/b"
    assert told.publish(EventType.PHASE, _READY)[0] == "ready org/a", "that failure is history"


def test_failure_of_what_was_stopped_has_no_end_to_tell(told: Told) -> None:
    told.publish(EventType.DIAGNOSIS, _FAILURE)
    told.publish(EventType.PHASE, {"state": "off", "model": None, "text": "off"})
    assert told.publish(EventType.PHASE, _READY)[0] == "ready org/a"


def test_model_that_takes_the_place_of_a_failed_one_is_not_called_served_again(told: Told) -> None:
    told.publish(EventType.PHASE, _READY)
    told.publish(EventType.OPERATION, _SWAP)
    told.publish(EventType.DIAGNOSIS, _FAILURE)
    ready = {**_READY, "model": "org/b", "text": "ready org/b"}
    text, level, _ = told.publish(EventType.PHASE, ready)
    assert (text, level) == ("org/b is served, 0 s after the failure", logging.WARNING)


def test_change_names_who_asked_for_it(told: Told) -> None:
    text, _, fields = told.publish(EventType.OPERATION, _SWAP)
    assert f"(uid {os.getuid()}), pid 42, model org/b" in text
    assert fields == {
        "CAHOOTS_OPERATION": "7",
        "CAHOOTS_UID": str(os.getuid()),
        "CAHOOTS_PID": "42",
        "CAHOOTS_MODEL": "org/b",
    }
    failed = {"state": "failed", "progress": {}, "problem": {"detail": "no such model"}}
    text, level, _ = told.publish(EventType.OPERATION, _SWAP | failed)
    assert (text.endswith("failed: no such model"), level) == (True, logging.WARNING)


def test_download_is_shown_beside_what_is_served_and_not_in_the_journal(told: Told) -> None:
    told.publish(EventType.PHASE, _READY)
    pull: dict[str, Any] = {
        "id": "3", "kind": "pull", "state": "running", "params": {"model": "org/b"},
        "by": {"uid": os.getuid(), "pid": 42}, "problem": None, "progress": None,
    }  # fmt: skip
    told.publish(EventType.OPERATION, pull)
    count = len(told.entries)
    moving = {"progress": {"text": "pulling org/b: 40% of 3.8 MiB"}}
    told.events.publish(EventType.OPERATION, pull | moving)
    assert told.shown[-1] == "ready org/a; pulling org/b: 40% of 3.8 MiB"
    assert len(told.entries) == count
    swap = {"kind": "swap-model", "progress": {"text": "starting org/c"}}
    told.events.publish(EventType.OPERATION, pull | swap)
    assert told.shown[-1].startswith("ready org/a; pulling")
    told.publish(EventType.OPERATION, pull | moving | {"state": "done"})
    assert told.shown[-1] == "ready org/a"


def test_bad_settings_are_an_error_and_their_end_is_told_as_loud(told: Told) -> None:
    good = {"error": None, "text": "nothing changed"}
    bad = {"error": ".env line 3", "text": None}
    levels = [told.publish(EventType.RELOAD, data)[1] for data in (good, bad, good, good)]
    assert levels == [logging.INFO, logging.ERROR, logging.WARNING, logging.INFO]


def test_swap_on_demand_is_told_with_its_model(told: Told) -> None:
    asked = "swapping to org/b: asked for by a request"
    text, level, fields = told.publish(EventType.DEMAND, {"model": "org/b", "text": asked})
    assert (text, level, fields["CAHOOTS_MODEL"]) == (asked, logging.INFO, "org/b")
