"""Verbs end to end: exit codes, stdout and stderr, text and JSON."""

import json
from pathlib import Path
from typing import Any

import pytest

from cahoots_vllm.ctl import follow

from .conftest import Run
from .fake_daemon import (
    ABORTED,
    DONE,
    FAILED,
    LOOKED,
    OPERATION,
    STATUS,
    FakeDaemon,
    answer,
    chunked,
    problem,
)

WAIT = "GET /v1/operations/7/wait?timeout=1"
SERVING = "serving org/B at http://localhost:8001/v1, after 31 s\n"
STARTING = STATUS | {
    "state": "starting",
    "worker": STATUS["worker"] | {"sub_phase": "loading weights", "progress": 0.5},
}
PHASE = b'id: 1\nevent: phase\ndata: {"state":"ready","model":"A","text":"ready: A"}\n\n'


def refused() -> bytes:
    return problem("busy", 409, detail="cannot swap: operation 7 is running", operation="7")


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_STATUS_EVERY_S", 0.01)


@pytest.mark.parametrize(("state", "code"), [("ready", 0), ("starting", 3), ("failed", 3)])
def test_status_is_done_only_when_ready(
    daemon: FakeDaemon, ctl: Run, state: str, code: int
) -> None:
    daemon.on("GET /v1/status", answer(STATUS | {"state": state}))
    result = ctl("status")
    assert result.code == code
    assert result.out.startswith(f"state       {state}")
    assert result.err == ""


def test_status_json_is_the_daemons_object(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("GET /v1/status", answer(STATUS))
    for argv in (["--json", "status"], ["status", "--json"]):
        result = ctl(*argv)
        assert (result.code, json.loads(result.out), result.err) == (0, STATUS, "")


def test_socket_option_beats_the_environment(
    daemon: FakeDaemon, ctl: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    daemon.on("GET /v1/status", answer(STATUS))
    monkeypatch.setenv("CAHOOTS_VLLM_SOCKET", str(tmp_path / "none"))
    assert ctl("status").code == 4
    assert ctl("status", "--socket", daemon.path).code == 0
    assert ctl("--socket", daemon.path, "status").code == 0


def test_unreachable_says_where_it_looked_and_what_to_do(ctl: Run, tmp_path: Path) -> None:
    result = ctl("status")
    assert (result.code, result.out) == (4, "")
    assert str(tmp_path / "control.sock") in result.err
    assert "systemctl start cahoots-vllm" in result.err


def test_errors_in_json_are_a_problem_on_stdout_and_text_on_stderr(ctl: Run) -> None:
    result = ctl("status", "--json")
    assert result.code == 4
    assert json.loads(result.out)["type"] == "urn:cahoots-vllm:problem:unreachable"
    assert "cannot reach the daemon" in result.err


@pytest.mark.parametrize(
    "refusal",
    [problem("not-permitted", 403, detail="cannot stop: no"), b"HTTP/1.1 403 No\r\n\r\n"],
)
def test_a_refused_person_is_told_who_may(daemon: FakeDaemon, ctl: Run, refusal: bytes) -> None:
    daemon.on("POST /v1/stop", refusal)
    result = ctl("stop")
    assert result.code == 77
    assert "usermod -aG cahoots-vllm USER" in result.err


def test_swap_shows_progress_then_what_is_served(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("POST /v1/swap-model", answer(OPERATION, status=202))
    later = OPERATION | {"progress": {"text": "ready soon"}}
    daemon.on(WAIT, answer(OPERATION), answer(later), answer(DONE))
    result = ctl("swap-model", "org/B")
    assert result.code == 0
    assert result.out == SERVING
    assert result.err == "starting org/B: loading weights 50 %\nready soon\n"
    assert daemon.requests[0][1] == b'{"model": "org/B"}'


def test_what_was_seen_of_the_model_is_told_once_as_soon_as_it_is_known(
    daemon: FakeDaemon, ctl: Run
) -> None:
    daemon.on("POST /v1/swap-model", answer(OPERATION, status=202))
    seen = {"looked": LOOKED}
    daemon.on(WAIT, answer(OPERATION | seen), answer(OPERATION | seen), answer(DONE | seen))
    result = ctl("swap-model", "org/B")
    assert (result.code, result.out) == (0, SERVING)
    started, first, *rest = result.err.splitlines()
    assert started.startswith("starting org/B")
    assert first.startswith("memory      19.3 GiB weights")
    assert len([line for line in rest if "quant" in line]) == 1
    assert "            -> take others" in rest


def test_swap_reset(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("POST /v1/swap-model", answer(DONE, status=202))
    assert ctl("swap-model", "--reset").out == SERVING
    assert daemon.requests == [("POST /v1/swap-model", b'{"reset": true}')]


@pytest.mark.parametrize(
    ("verb", "said"), [("start", SERVING), ("stop", "stopped, after 31 s\n"), ("restart", SERVING)]
)
def test_other_changes_send_an_empty_object(
    daemon: FakeDaemon, ctl: Run, verb: str, said: str
) -> None:
    brought = DONE["result"] if verb != "stop" else {}
    operation = DONE | {"kind": verb, "params": {}, "result": brought}
    daemon.on(f"POST /v1/{verb}", answer(operation, status=202))
    assert ctl(verb) == (0, said, "")
    assert daemon.requests == [(f"POST /v1/{verb}", b"{}")]


def test_no_wait_prints_the_id(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("POST /v1/start", answer(OPERATION, status=202))
    assert ctl("start", "--no-wait") == (0, "7\n", "")
    assert json.loads(ctl("start", "--no-wait", "--json").out) == OPERATION


def test_a_failed_swap_says_why_and_what_is_served(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("POST /v1/swap-model", answer(OPERATION, status=202))
    daemon.on(WAIT, answer(FAILED))
    daemon.on("GET /v1/status", answer(STATUS))
    result = ctl("swap-model", "org/B")
    assert (result.code, result.out) == (1, "")
    for said in ("no such repository", "repo_not_found", "404 Client", "check the name"):
        assert said in result.err
    assert "now         serving org/A" in result.err


def test_json_of_a_change_is_the_operation_once(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("POST /v1/swap-model", answer(OPERATION, status=202))
    daemon.on("GET /v1/status", answer(STATUS))
    for end in (DONE, FAILED):
        daemon.on(WAIT, answer(OPERATION), answer(end))
        assert json.loads(ctl("swap-model", "org/B", "--json").out) == end


def test_an_aborted_change_has_failed(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("POST /v1/restart", answer(OPERATION, status=202))
    daemon.on(WAIT, answer(ABORTED))
    daemon.on("GET /v1/status", answer(STATUS))
    result = ctl("restart")
    assert result.code == 1
    assert "aborted" in result.err


def test_busy_names_the_operation_and_the_ways_out(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("POST /v1/start", refused())
    result = ctl("start")
    assert result.code == 1
    assert "cahootsctl: cannot swap: operation 7 is running\n" in result.err
    assert "`cahootsctl operations wait 7`" in result.err
    assert "`cahootsctl operations abort 7`" in result.err
    assert json.loads(ctl("start", "--json").out)["operation"] == "7"


@pytest.mark.parametrize("after", [b"", problem("not-found", 404, detail="cannot find it")])
def test_a_daemon_that_goes_away_midway(daemon: FakeDaemon, ctl: Run, after: bytes) -> None:
    daemon.on("POST /v1/swap-model", answer(OPERATION, status=202))
    daemon.on(WAIT, answer(OPERATION), after)
    result = ctl("swap-model", "org/B")
    assert result.code == 4
    assert "cannot say how swap-model org/B (operation 7) ended" in result.err


def test_wait_ends_when_ready(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("GET /v1/status", answer(STARTING), answer(STARTING), answer(STATUS))
    result = ctl("wait")
    assert result.code == 0
    assert result.out == "serving org/A at http://localhost:8001/v1, after 0 s\n"
    assert result.err == "starting: loading weights 50 %\n"


def test_wait_can_be_silent(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("GET /v1/status", answer(STARTING), answer(STATUS))
    assert ctl("wait", "--no-progress").err == ""


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        (
            {"state": "failed", "last_failure": {"cause": "disk_full", "remedy": "free 20 GiB"}},
            1,
            "free 20 GiB",
        ),
        ({"state": "off", "provider": "groq", "worker": None}, 3, "LLM_PROVIDER is groq"),
    ],
)
def test_wait_ends_when_there_is_nothing_to_wait_for(
    daemon: FakeDaemon, ctl: Run, changes: dict[str, Any], code: int, said: str
) -> None:
    daemon.on("GET /v1/status", answer(STATUS | changes))
    result = ctl("wait")
    assert (result.code, result.out) == (code, "")
    assert said in result.err
    assert json.loads(ctl("wait", "--json").out)["state"] == changes["state"]


def test_wait_times_out(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("GET /v1/status", answer(STARTING))
    result = ctl("wait", "--timeout", "0.1")
    assert result.code == 5
    assert "not ready after 0 s: starting: loading weights 50 %\n" in result.err


def test_wait_names_the_reason_of_a_backoff_once(daemon: FakeDaemon, ctl: Run) -> None:
    backoff = STATUS | {"state": "backoff", "last_failure": {"cause": "hub_unreachable"}}
    daemon.on("GET /v1/status", answer(backoff), answer(backoff), answer(STATUS))
    assert ctl("wait").err == "backoff: hub_unreachable\n"


def test_logs(daemon: FakeDaemon, ctl: Run) -> None:
    entry = {"at": "2025-10-01T00:00:00Z", "source": "worker", "generation": 3, "level": None}
    lines = [json.dumps(entry | {"text": text}).encode() + b"\n" for text in ("a", "\x1b[2Jb")]
    daemon.on("GET /v1/logs?n=2&follow=0", chunked(*lines))
    result = ctl("logs", "-n", "2")
    assert result.code == 0
    assert [line.partition("]: ")[2] for line in result.out.splitlines()] == ["a", "\\x1b[2Jb"]
    records = ctl("logs", "-n", "2", "--json").out.splitlines()
    assert [json.loads(record)["text"] for record in records] == ["a", "\x1b[2Jb"]


def test_following_logs_of_a_daemon_that_ends(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("GET /v1/logs?n=200&follow=1", chunked(b'{"text": "a"}\n'))
    result = ctl("logs", "-f")
    assert result.code == 4
    assert result.out == "? None: a\n"


def test_an_entry_that_is_no_json_is_named(daemon: FakeDaemon, ctl: Run) -> None:
    for garbage in (b"hello\n", b"[]\n"):
        daemon.on("GET /v1/logs?n=200&follow=0", chunked(garbage))
        result = ctl("logs")
        assert result.code == 1
        assert "not a JSON object" in result.err


def test_events_until_the_daemon_goes_away(daemon: FakeDaemon, ctl: Run) -> None:
    stream = chunked(b": hello\n\n", PHASE[:20], PHASE[20:], kind="text/event-stream", ends=False)
    daemon.on("GET /v1/events", stream)
    result = ctl("events")
    assert result.code == 4
    assert result.out.endswith("phase     ready: A\n")
    first, last = map(json.loads, ctl("events", "--json").out.splitlines())
    assert first == {
        "id": "1",
        "event": "phase",
        "data": {"state": "ready", "model": "A", "text": "ready: A"},
    }
    assert last["type"] == "urn:cahoots-vllm:problem:unreachable"


def test_operations_are_listed_and_shown(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("GET /v1/operations", answer({"operations": [OPERATION]}))
    daemon.on("GET /v1/operations/7", answer(OPERATION))
    assert "swap-model org/B" in ctl("operations").out
    assert ctl("operations", "list") == ctl("operations")
    assert ctl("operations", "show", "7").out.startswith("operation   7: swap-model org/B\n")
    assert json.loads(ctl("operations", "show", "7", "--json").out) == OPERATION


def test_an_unknown_operation(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("GET /v1/operations/9", problem("not-found", 404, detail="cannot find 9"))
    assert ctl("operations", "wait", "9").code == 1


def test_waiting_for_an_operation(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("GET /v1/operations/7", answer(OPERATION))
    daemon.on(WAIT, answer(DONE))
    assert ctl("operations", "wait", "7").out == SERVING


def test_aborting_waits_for_the_end(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("DELETE /v1/operations/7", answer(OPERATION, status=202))
    daemon.on("GET /v1/operations/7", answer(OPERATION))
    daemon.on(WAIT, answer(ABORTED))
    daemon.on("GET /v1/status", answer(STATUS))
    result = ctl("operations", "abort", "7")
    assert (result.code, result.out) == (0, "swap-model org/B: aborted\n")
    assert daemon.requests[0][0] == "DELETE /v1/operations/7"


def test_aborting_what_ended_otherwise_has_failed(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("DELETE /v1/operations/7", answer(OPERATION, status=202))
    daemon.on("GET /v1/operations/7", answer(DONE))
    daemon.on("GET /v1/status", answer(STATUS))
    result = ctl("operations", "abort", "7")
    assert result.code == 1
    assert result.err.startswith("done        swap-model org/B")
