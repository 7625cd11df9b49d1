"""The main job on the stand-in engine: start, serve, hold, refuse with the reason."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fake_vllm.script import Behaviour

from .harness import Answer, Daemon, chat_body, wait_for

_STR, _INT, _NONE = (str,), (int,), (type(None),)
_NUMBER = (int, float)
# DESIGN section 7, field for field; a tuple is the types a value may have.
_STATUS: dict[str, Any] = {
    "state": _STR,
    "provider": _STR,
    "model": {
        "configured": _STR,
        "serving": (*_STR, *_NONE),
        "override": (*_STR, *_NONE),
        "profile": (*_STR, *_NONE),
    },
    "worker": {
        "generation": _INT,
        "pid": _INT,
        "phase": _STR,
        "sub_phase": (*_STR, *_NONE),
        "progress": (*_NUMBER, *_NONE),
        "since": _STR,
        "restarts": _INT,
        "gpu_memory_utilization": _NUMBER,
        "max_model_len": _INT,
        "engine_version": _STR,
    },
    "endpoint": (list,),
    "requests": {"running": _INT, "waiting": _INT, "held": _INT},
    "last_failure": {"at": _STR, "cause": _STR, "evidence": _STR, "remedy": _STR, "action": _STR},
    "config": {"env_file": _STR, "loaded_at": _STR, "error": _NONE},
    "gpus": (list,),
}


def check_fields(found: Any, expected: Any, where: str) -> None:  # noqa: ANN401 (any JSON)
    """Fail where a field of the design is missing or has another type."""
    if isinstance(expected, tuple):
        assert type(found) in expected, (where, found)
        return
    assert isinstance(found, dict), where
    for name, inner in expected.items():
        assert name in found, f"{where}.{name} is missing"
        check_fields(found[name], inner, f"{where}.{name}")


def hold(daemon: Daemon, *texts: str) -> tuple[ThreadPoolExecutor, list[Any]]:
    """Send chats that nobody can answer yet; return once all are held."""
    pool = ThreadPoolExecutor(len(texts))
    futures = [pool.submit(daemon.chat, text) for text in texts]
    daemon.wait_held(len(texts))
    return pool, futures


def assert_refused(answer: Answer) -> dict[str, str]:
    """Check a gateway refusal and return OpenAI's error object."""
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) > 0
    error: dict[str, str] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_status_has_the_fields_of_the_design_after_a_failure_and_in_ready(daemon: Daemon) -> None:
    daemon.play(Behaviour(die_at="load"), Behaviour())
    daemon.start()
    daemon.wait_generation(2)
    outcome = daemon.ctl("status", "--json")
    assert outcome.returncode == 0, outcome.stderr
    status = json.loads(outcome.stdout)
    check_fields(status, _STATUS, "status")
    assert (status["state"], status["worker"]["phase"]) == ("ready", "ready")
    assert (status["worker"]["restarts"], status["worker"]["sub_phase"]) == (1, None)
    assert status["model"] == {
        "configured": "org/a", "serving": "org/a", "override": None, "profile": "org-a.toml",
        "demanded": None, "goal": "org/a",
    }  # fmt: skip
    assert status["endpoint"] == [
        f"http://127.0.0.1:{daemon.port}/v1",
        f"http://[::1]:{daemon.port}/v1",
    ]
    assert status["config"]["env_file"] == str(daemon.root / ".env")


def test_start_is_shown_with_sub_phase_and_progress(daemon: Daemon) -> None:
    daemon.play(Behaviour(delays_s={"load": 2}))
    daemon.start()

    def is_loading() -> bool:
        status = daemon.status()
        worker = status["worker"] or {}
        return worker.get("sub_phase") == "loading weights" and bool(worker.get("progress"))

    wait_for(is_loading)
    outcome = daemon.ctl("status")
    assert outcome.returncode == 3
    assert "loading weights" in outcome.stdout
    assert daemon.ctl("wait", "--timeout", "0.2").returncode == 5
    assert daemon.ctl("wait", "--timeout", "20").returncode == 0


def test_requests_sent_before_ready_are_held_and_answered(daemon: Daemon) -> None:
    daemon.play(Behaviour(delays_s={"load": 1.5}))
    daemon.start()
    pool, futures = hold(daemon, "one", "two", "three")
    assert daemon.get("/health").json() == {"status": "ok", "held": 3}
    assert daemon.get("/ready").status == 503
    with pool:
        texts = {f.result().json()["choices"][0]["message"]["content"] for f in futures}
    assert texts == {"fake: one", "fake: two", "fake: three"}
    assert daemon.status()["requests"]["held"] == 0


def test_client_that_hangs_up_leaves_the_queue(daemon: Daemon) -> None:
    daemon.play(Behaviour(hang_at="load"))
    daemon.start()
    connection = daemon.gateway()
    connection.request("POST", "/v1/chat/completions", chat_body("bye"))
    daemon.wait_held(1)
    connection.close()
    daemon.wait_held(0)


def test_request_beyond_hold_max_is_refused_at_once(daemon: Daemon) -> None:
    daemon.configure(gateway={"hold_max": 2})
    daemon.play(Behaviour(delays_s={"load": 1.5}))
    daemon.start()
    pool, futures = hold(daemon, "one", "two")
    error = assert_refused(daemon.chat("three"))
    assert "2 requests wait already" in error["message"]
    with pool:
        assert [f.result().status for f in futures] == [200, 200]


def test_request_held_too_long_is_refused(daemon: Daemon) -> None:
    daemon.configure(gateway={"hold_timeout_s": 1})
    daemon.play(Behaviour(hang_at="load"))
    daemon.start()
    assert "within 1 s" in assert_refused(daemon.chat("x"))["message"]
    assert daemon.status()["requests"]["held"] == 0


def test_other_provider_runs_no_worker_and_refuses_with_the_remedy(daemon: Daemon) -> None:
    daemon.write_env(LLM_PROVIDER="cerebras")
    daemon.start()
    assert daemon.wait_phase("off") == "off"
    error = assert_refused(daemon.chat("x"))
    assert "cerebras" in error["message"]
    assert "LLM_PROVIDER=local" in error["message"]
    assert daemon.get("/health").status == 503
    status = daemon.status()
    assert (status["provider"], status["worker"]) == ("cerebras", None)
    for verb in ("start", "restart"):
        outcome = daemon.ctl(verb)
        assert outcome.returncode == 1
        assert "LLM_PROVIDER" in outcome.stderr
    assert daemon.ctl("swap-model", "org/b").returncode == 1
    assert daemon.tree_pids() == []
    assert daemon.started() == 0


def test_streams_run_side_by_side_and_are_counted(daemon: Daemon) -> None:
    daemon.play(Behaviour(tokens_per_s=10))
    daemon.start_ready()
    barrier = threading.Barrier(3)

    def stream() -> Answer:
        barrier.wait(5)
        return daemon.chat("x", stream=True, max_tokens=10, ignore_eos=True)

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(stream) for _ in range(3)]
        wait_for(lambda: daemon.status()["requests"]["running"] == 3)
        answers = [f.result() for f in futures]
    assert all(a.body.endswith(b"data: [DONE]\n\n") for a in answers)
    assert daemon.status()["requests"] == {"running": 0, "waiting": 0, "held": 0}


def test_client_that_hangs_up_mid_stream_frees_the_worker(daemon: Daemon) -> None:
    daemon.play(Behaviour(tokens_per_s=10))
    daemon.start_ready()
    connection = daemon.gateway()
    body = chat_body("x", stream=True, max_tokens=9999, ignore_eos=True)
    connection.request("POST", "/v1/chat/completions", body)
    response = connection.getresponse()
    assert response.read1(10)
    response.close()
    connection.close()
    wait_for(lambda: daemon.status()["requests"]["running"] == 0)


def test_argv_of_the_worker_is_the_guides(daemon: Daemon) -> None:
    daemon.start_ready()
    argv = " ".join(daemon.worker_argv())
    assert argv.startswith(f"serve {daemon.root}/models/org-a --uds ")
    for option in ("--dtype auto", "--max-model-len 2048", "--enable-prefix-caching",
                   "--gpu-memory-utilization 0.4", "--served-model-name org/a"):  # fmt: skip
        assert option in argv
