"""`cahootsctl bench` against a daemon on the stand-in engine, whose speed is set."""

import json
import re
import signal
import subprocess
import sys
from typing import Any

from fake_vllm.script import Behaviour

from .harness import Daemon, wait_for

_SMALL = (
    "bench", "--concurrency", "4", "--requests", "8",
    "--input-tokens", "40", "--output-tokens", "10",
)  # fmt: skip
_SPEED = 50.0


def bench(daemon: Daemon, *more: str) -> dict[str, Any]:
    done = daemon.ctl(*_SMALL, "--json", *more)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_result_is_measured_kept_and_compared(daemon: Daemon) -> None:
    daemon.play(Behaviour(tokens_per_s=_SPEED))
    daemon.start_ready()
    first = bench(daemon)
    for way in (first["gateway"], first["direct"]):
        assert (way["single"]["requests"], way["many"]["requests"]) == (3, 8)
        assert way["many"]["input_tokens"] == 8 * 40
        assert way["many"]["output_tokens"] == 8 * 10
        # Loose, since the host may be busy: the stand-in is never faster than it was told.
        assert 0 < way["single"]["tokens_per_s_per_stream"] <= _SPEED * 1.1
        assert way["single"]["tpot_ms"]["p50"] >= 1000 / _SPEED * 0.9
        assert way["many"]["tokens_per_s"] > way["single"]["tokens_per_s"]
    assert first["kept_at"]
    assert first["earlier"] == []
    second = daemon.ctl(*_SMALL)
    assert "the one earlier run" in second.stdout
    assert "generation, 4 streams" in second.stdout
    assert [r["load"] for r in daemon.api("GET", "/v1/bench")["records"]] == [first["load"]] * 2
    other = daemon.ctl(*_SMALL, "--output-tokens", "9")
    assert "no earlier run" in other.stdout


def test_history_outlives_the_daemon_and_a_damaged_line(daemon: Daemon) -> None:
    daemon.play(Behaviour(tokens_per_s=200.0))
    daemon.start_ready()
    bench(daemon)
    daemon.stop()
    file = daemon.state_file.with_name("bench.jsonl")
    with file.open("ab") as records:
        records.write(b'{"at": "2026-01-01T00:00:00+00:00", "target": {"mod')
    daemon.start_ready()
    bench(daemon)
    shown = daemon.ctl("bench", "--history")
    assert shown.returncode == 0
    assert "generation, all streams, tokens/s, 2 runs" in shown.stdout
    assert file.read_bytes().count(b"\n") == 3


def test_is_refused_kindly_when_no_worker_is_ready(daemon: Daemon) -> None:
    daemon.start_ready()
    other = daemon.ctl("bench", "--model", "org/b")
    assert (other.returncode, other.stdout) == (1, "")
    assert "cannot measure org/b: org/a is served" in other.stderr
    assert "cahootsctl swap-model org/b" in other.stderr
    assert daemon.ctl("stop").returncode == 0
    off = daemon.ctl("bench")
    assert off.returncode == 1
    assert "cannot measure: no worker is ready, the daemon's state is off" in off.stderr
    assert "cahootsctl start" in off.stderr
    assert daemon.ctl("bench", "--history").stdout.startswith("nothing measured yet")


def test_context_without_room_is_refused(daemon: Daemon) -> None:
    daemon.start_ready()
    done = daemon.ctl("bench", "--input-tokens", "999999")
    assert done.returncode == 1
    assert "the context has" in done.stderr


def test_ctrl_c_shows_what_was_measured_and_keeps_nothing(daemon: Daemon) -> None:
    daemon.play(Behaviour(tokens_per_s=_SPEED))
    daemon.start_ready()
    command = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from cahoots_vllm.ctl.main import main; sys.exit(main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", command, *_SMALL, "--requests", "400"],
        env=daemon.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        errors = process.stderr
        wait_for(lambda: re.search(r"4 streams, [1-9]\d* of 400", errors.readline()))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=15)
    assert process.returncode == 130, err
    assert "generation, 1 stream" in out
    assert "interrupted at gateway: 4 streams: not kept" in out
    assert "Traceback" not in err
    assert daemon.api("GET", "/v1/bench")["records"] == []


def test_others_requests_are_warned_of(daemon: Daemon) -> None:
    daemon.play(Behaviour(tokens_per_s=20.0))
    daemon.start_ready()
    connection = daemon.gateway()
    body = {"model": "org/a", "prompt": "on and on", "stream": True, "max_tokens": 400}
    connection.request(
        "POST", "/v1/completions", json.dumps(body | {"ignore_eos": True}),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    connection.getresponse().read(10)
    wait_for(lambda: daemon.status()["requests"]["running"] == 1)
    result = bench(daemon, "--output-tokens", "2")
    assert result["is_shared"]
    assert "others' requests ran" in result["notes"][0]
    connection.close()


def test_result_of_a_worker_that_is_gone_is_refused(daemon: Daemon) -> None:
    daemon.start_ready()
    load = dict.fromkeys(
        ("concurrency", "requests", "input_tokens", "output_tokens", "prefill_tokens"), 1
    )
    body = json.dumps({"generation": 99, "seed": 1, "load": load, "gateway": {}})
    answer = daemon.request("POST", "/v1/bench", body)
    assert answer.status == 409
    assert "the worker that was measured is gone" in answer.json()["detail"]
    assert daemon.request("POST", "/v1/bench", "[]").status == 400
