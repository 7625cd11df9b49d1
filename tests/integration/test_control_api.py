"""The control API as any HTTP client sees it; the daemon stays as it is throughout."""

import json
import os
import stat
import subprocess
import sys
import time
from typing import Any

import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cahoots_vllm.core.errors import Kind

from .harness import Answer, Daemon, Json

_PREFIX = "urn:cahoots-vllm:problem:"
_JSON = {"Content-Type": "application/json"}


def problem(answer: Answer, status: int, kind: Kind) -> Json:
    """Check that the answer is a problem of this kind and return it."""
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    found: Json = answer.json()
    assert (found["type"], found["status"]) == (f"{_PREFIX}{kind}", status)
    assert found["title"]
    assert found["detail"]
    assert found["remedy"]
    return found


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", "null", '"x"', "{}", '{"model": 3}', '{"model": ""}', '{"model": "-x"}',
     '{"model": "a", "reset": true}', '{"model": "a", "modle": "b"}', '{"model": "a\\nb"}',
     '{"model": " a"}', json.dumps({"model": "x" * 600}), "[" * 20_000, b"\xff\xfe{"],
)  # fmt: skip
def test_body_that_is_none_of_ours_is_a_bad_request(serving: Daemon, body: str | bytes) -> None:
    problem(serving.request("POST", "/v1/swap-model", body, _JSON), 400, Kind.BAD_REQUEST)
    assert serving.api("GET", "/v1/operations") == {"operations": []}


def test_body_in_an_unknown_charset_is_no_bug_of_ours(serving: Daemon) -> None:
    headers = {"Content-Type": "application/json; charset=klingon"}
    answer = serving.request("POST", "/v1/swap-model", "{}", headers)
    problem(answer, 400, Kind.BAD_REQUEST)


def test_what_there_is_not_is_not_found(serving: Daemon) -> None:
    for path in ("/", "/v1", "/v1/no-such", "/v2/status", "/v1/operations/99", "/v1/status/"):
        problem(serving.request("GET", path), 404, Kind.NOT_FOUND)
    problem(serving.request("DELETE", "/v1/operations/99"), 404, Kind.NOT_FOUND)


def test_wrong_method_is_refused(serving: Daemon) -> None:
    for method, path in (("POST", "/v1/status"), ("GET", "/v1/swap-model"), ("PUT", "/v1/stop")):
        answer = serving.request(method, path)
        problem(answer, 405, Kind.BAD_REQUEST)
        assert answer.headers["Allow"]


def test_body_over_64_kib_is_refused(serving: Daemon) -> None:
    body = json.dumps({"model": "x" * 70_000})
    problem(serving.request("POST", "/v1/swap-model", body, _JSON), 413, Kind.BAD_REQUEST)


@pytest.mark.parametrize("path", ["/v1/logs?n=x", "/v1/logs?n=-1", "/v1/logs?n=nan",
                                  "/v1/operations/1/wait?timeout=1e9"])  # fmt: skip
def test_number_out_of_range_is_a_bad_request(serving: Daemon, path: str) -> None:
    problem(serving.request("GET", path), 400, Kind.BAD_REQUEST)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Referer": "http://localhost/"},
        {"Host": "evil.example"},
        {"Host": "localhost.evil.example:80"},
    ],
)
def test_what_a_browser_was_talked_into_is_refused(
    serving: Daemon, headers: dict[str, str]
) -> None:
    for method, path in (("GET", "/v1/status"), ("POST", "/v1/stop"), ("GET", "/v1/openapi.json")):
        problem(serving.request(method, path, None, headers), 403, Kind.NOT_PERMITTED)
    assert serving.phase() == "ready"


def test_socket_and_its_directory_are_closed_to_others(serving: Daemon) -> None:
    assert stat.S_IMODE(serving.socket.stat().st_mode) == 0o660
    assert stat.S_IMODE(serving.runtime.stat().st_mode) == 0o700


def test_state_file_is_the_owners_alone(serving: Daemon) -> None:
    assert stat.S_IMODE(serving.state_file.stat().st_mode) == 0o600


def test_health_tells_alive_from_ready(serving: Daemon) -> None:
    for path in ("/v1/health", "/v1/health?level=alive", "/v1/health?level=ready"):
        answer = serving.request("GET", path)
        assert (answer.status, answer.json()) == (200, {"state": "ready"})


def test_metrics_are_prometheus_text(serving: Daemon) -> None:
    answer = serving.request("GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {f.name: f for f in text_string_to_metric_families(answer.body.decode())}
    phases = {s.labels["phase"]: s.value for s in families["cahoots_vllm_phase"].samples}
    assert [name for name, value in phases.items() if value] == ["ready"]
    assert families["cahoots_vllm_worker_generation"].samples[0].value == 1


def test_events_begin_with_the_present_phase_and_resume_where_asked(serving: Daemon) -> None:
    with serving.open_stream("/v1/events") as response:
        first = [response.readline().decode().strip() for _ in range(3)]
    assert response.headers["Content-Type"] == "text/event-stream"
    number = int(first[0].removeprefix("id: "))
    assert first[1] == "event: phase"
    assert json.loads(first[2].removeprefix("data: "))["state"] == "ready"
    with serving.open_stream("/v1/events", {"Last-Event-ID": "2"}) as response:
        ids = [response.readline() for _ in range(4 * (number - 2))][::4]
    assert ids == [f"id: {n}\n".encode() for n in range(3, number + 1)]


@pytest.mark.parametrize("last", ["9" * 5000, "x", "-1", "٣"])
def test_odd_last_event_id_is_no_bug_of_ours(serving: Daemon, last: str) -> None:
    with serving.open_stream("/v1/events", {"Last-Event-ID": last.encode().decode("latin-1")}) as r:
        assert r.status == 200


def test_logs_are_the_last_lines(serving: Daemon) -> None:
    entries = serving.log_entries(3)
    assert len(entries) == 3
    everything = serving.log_entries(5000)
    assert {e["source"] for e in everything} == {"worker", "daemon"}
    assert any("Application startup complete" in e["text"] for e in everything)
    assert serving.log_entries(0) == []
    outcome = serving.ctl("logs", "-n", "2")
    assert (outcome.returncode, len(outcome.stdout.splitlines())) == (0, 2)


def test_logs_follow_what_comes(serving: Daemon) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "cahoots_vllm.ctl.main", "logs", "-n", "0", "-f"],
        env=serving.environment, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
    ) as follower:  # fmt: skip
        assert follower.stdout is not None
        time.sleep(0.5)
        serving.get("/v1/a-path-for-the-log")
        try:
            assert "/v1/a-path-for-the-log" in follower.stdout.readline()
        finally:
            follower.kill()


# --- the OpenAPI document --------------------------------------------------------------------


def document(serving: Daemon) -> Json:
    return serving.api("GET", "/v1/openapi.json")


def check_schema(serving: Daemon, name: str, value: Any) -> None:  # noqa: ANN401 (any JSON)
    """Check a real answer against the schema that the document has for it."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document(serving)["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


def test_every_route_is_documented_and_there(serving: Daemon) -> None:
    found = document(serving)
    assert found["openapi"] == "3.1.0"
    described = {(m.upper(), p) for p, methods in found["paths"].items() for m in methods}
    assert described >= {
        ("GET", "/v1/status"), ("POST", "/v1/swap-model"), ("POST", "/v1/start"),
        ("POST", "/v1/stop"), ("POST", "/v1/restart"), ("GET", "/v1/operations"),
        ("GET", "/v1/operations/{id}"), ("GET", "/v1/operations/{id}/wait"),
        ("DELETE", "/v1/operations/{id}"), ("GET", "/v1/events"), ("GET", "/v1/logs"),
        ("GET", "/v1/health"), ("GET", "/metrics"),
    }  # fmt: skip
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (method, path)
            assert operation["responses"]["default"], (method, path)


def test_answers_are_as_documented(serving: Daemon) -> None:
    check_schema(serving, "Status", serving.status())
    check_schema(serving, "Health", serving.api("GET", "/v1/health"))
    check_schema(serving, "Operations", serving.api("GET", "/v1/operations"))
    check_schema(serving, "Problem", serving.request("GET", "/v1/operations/99").json())
    names = {key for key, value in document(serving)["components"]["schemas"].items() if value}
    assert {"Status", "Operation", "SwapModelBody", "Problem"} <= names


def test_operation_is_as_documented(serving: Daemon) -> None:
    operation = serving.change("start")  # ready already: nothing changes
    check_schema(serving, "Operation", operation)
    assert (operation["state"], operation["by"]["uid"]) == ("done", os.getuid())
    listed = serving.api("GET", "/v1/operations")
    check_schema(serving, "Operations", listed)
    failed = serving.swap("no-such-model")
    check_schema(serving, "Operation", failed)
    assert failed["problem"]["type"] == f"{_PREFIX}{Kind.MODEL_UNUSABLE}"
