"""Operations, events and log entries as text."""

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from cahoots_vllm.ctl.sentences import (
    done_sentence,
    event_line,
    log_line,
    operation_lines,
    operation_name,
    operation_table,
    progress_text,
    unfinished_lines,
)
from cahoots_vllm.ctl.text import Line, Tone

from .fake_daemon import ABORTED, DONE, FAILED, LOOKED, OPERATION, STATUS

NOW = datetime(2025, 10, 1, 2, 1, 0, tzinfo=timezone(timedelta(hours=2)))
STOPPED = DONE | {"kind": "stop", "params": {}, "result": None}


def joined(lines: list[Line]) -> str:
    return "\n".join(line.text for line in lines)


@pytest.mark.parametrize(
    ("kind", "params", "name"),
    [
        ("swap-model", {"model": "org/B"}, "swap-model org/B"),
        ("swap-model", {"reset": True}, "swap-model --reset"),
        ("stop", {}, "stop"),
        ("stop", None, "stop"),
    ],
)
def test_an_operation_is_named_as_it_was_typed(kind: str, params: object, name: str) -> None:
    assert operation_name({"kind": kind, "params": params}) == name


def test_progress_is_the_daemons_text_or_the_name() -> None:
    assert progress_text(OPERATION) == "starting org/B: loading weights 50 %"
    assert progress_text(OPERATION | {"progress": None}) == "swap-model org/B: running"


def test_done_says_what_is_served_and_how_long_it_took() -> None:
    assert done_sentence(DONE) == "serving org/B at http://localhost:8001/v1, after 31 s"
    assert done_sentence(DONE | {"result": {"model": "org/B"}}) == "serving org/B, after 31 s"
    assert done_sentence(DONE | {"result": None}) == "swap-model org/B: done, after 31 s"
    assert done_sentence(STOPPED) == "stopped, after 31 s"


def test_an_endpoint_may_be_a_list() -> None:
    result = {"model": "org/B", "endpoint": ["http://a/v1", "http://b/v1"]}
    assert done_sentence({"result": result}) == "serving org/B at http://a/v1, http://b/v1"


def test_failed_says_why_what_to_do_and_what_is_served() -> None:
    assert joined(unfinished_lines(FAILED, STATUS, NOW, 100)) == (
        """\
failed      swap-model org/B, after 12 s
  why       cannot serve org/B: no such repository
  cause     repo_not_found
  evidence  RepositoryNotFoundError: 404 Client Error
  remedy    check the name
now         serving org/A at http://localhost:8001/v1"""
    )


def test_a_worker_that_failed_for_good_leaves_nothing_served() -> None:
    failed = FAILED | {"problem": {"detail": "No space left", "cause": "disk_full"}}
    assert joined(unfinished_lines(failed, STATUS | {"state": "failed"}, NOW, 100)) == (
        """\
failed      swap-model org/B, after 12 s
  why       No space left
  cause     disk_full
now         serving nothing, failed: waits for a change; `cahootsctl start` tries at once"""
    )


def test_aborted_says_what_is_served() -> None:
    assert joined(unfinished_lines(ABORTED, STATUS, NOW, 100)) == (
        """\
aborted     swap-model org/B, after 5 s
now         serving org/A at http://localhost:8001/v1"""
    )


def test_operations_are_listed_one_a_line() -> None:
    assert operation_table([OPERATION | {"id": "12"}, FAILED, STOPPED], NOW) == [
        Line("  12  running   Oct 01 02:00:00  swap-model org/B"),
        Line("   7  failed    Oct 01 02:00:00  swap-model org/B, after 12 s", Tone.BAD),
        Line("   7  done      Oct 01 02:00:00  stop, after 31 s", Tone.GOOD),
    ]
    assert joined(operation_table([], NOW)) == "no operations since the daemon started"


def test_one_operation_in_full() -> None:
    assert joined(operation_lines(OPERATION, NOW, 100)) == (
        """\
operation   7: swap-model org/B
state       running
started     Oct 01 02:00:00 (1 min 0 s ago)
by          uid 0, pid 1
progress    starting org/B: loading weights 50 %"""
    )
    assert joined(operation_lines(FAILED, NOW, 100)).endswith(
        """\
  why       cannot serve org/B: no such repository
  cause     repo_not_found
  evidence  RepositoryNotFoundError: 404 Client Error
  remedy    check the name"""
    )


@pytest.mark.parametrize(
    ("event", "data", "said"),
    [
        ("phase", {"state": "starting", "model": "A", "text": "starting A"}, "starting A"),
        ("progress", {"text": "loading 50 %", "fraction": 0.5}, "loading 50 %"),
        ("operation", DONE, "7 done: swap-model org/B"),
        (
            "diagnosis",
            {"cause": "c", "evidence": "e", "remedy": "r", "action": "a", "model": "A"},
            "A: c, a: e (r)",
        ),
        ("novel", {"a": 1, "b": None, "c": "x"}, "a 1, c x"),
    ],
)
def test_events_are_one_line_each(event: str, data: dict[str, Any], said: str) -> None:
    assert event_line(event, data, NOW).text == f"Oct 01 02:01:00  {event:<10}{said}"


def test_log_entries_look_like_the_journal() -> None:
    entry = {"at": "2025-10-01T00:00:30Z", "source": "worker", "generation": 3, "text": "hello"}
    assert log_line(entry | {"level": None}, NOW) == Line("Oct 01 02:00:30 worker[3]: hello")
    loud = entry | {"source": "daemon", "generation": None, "level": "ERROR"}
    assert log_line(loud, NOW) == Line("Oct 01 02:00:30 daemon: hello", Tone.BAD)


def test_what_was_seen_of_the_model_stands_with_its_operation() -> None:
    said = joined(operation_lines(OPERATION | {"looked": LOOKED}, NOW, 80))
    assert said.endswith(
        """\
memory      19.3 GiB weights + 8.0 GiB KV for 32,768 tokens + 1.0 GiB overhead
            of 28.8 GiB: fits; 47,000 tokens at most
quant       WARN: the weights are odd
            -> take others"""
    )
