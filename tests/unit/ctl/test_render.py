"""The status text, whole."""

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from cahoots_vllm.core.wire import Phase
from cahoots_vllm.ctl.render import state_text, status_lines
from cahoots_vllm.ctl.text import Tone

from .fake_daemon import STATUS

NOW = datetime(2025, 10, 1, 5, 25, 5, tzinfo=timezone(timedelta(hours=2)))
WORKER = STATUS["worker"]


def text(**changes: object) -> str:
    return "\n".join(line.text for line in status_lines(STATUS | changes, NOW, 100))


def test_ready() -> None:
    assert (
        text()
        == """\
state       ready
model       org/A
worker      pid 4242, generation 3, ready since Oct 01 02:13:05 (3 h 12 min), restarts 1
engine      vLLM 0.33.0, context 32768 tokens, GPU memory 0.85
standby     warm for the next start, pid 4711, 440 MiB
endpoint    http://localhost:8001/v1
requests    2 running, 0 waiting, 0 held"""
    )


def test_starting_an_override_on_cpu() -> None:
    assert (
        text(
            state="starting",
            model={"configured": "org/A", "serving": None, "override": "org/B", "profile": "b"},
            worker=WORKER | {"phase": "starting", "sub_phase": "loading weights", "progress": 0.5},
            engine={"version": "0.33.0", "cpu": True},
        )
        == """\
state       starting: loading weights 50 %
model       org/B, profile b
override    set by swap-model, instead of org/A; `cahootsctl swap-model --reset` ends it
worker      pid 4242, generation 3, starting since Oct 01 02:13:05 (3 h 12 min), restarts 1
engine      vLLM 0.33.0 on CPU, context 32768 tokens
standby     warm for the next start, pid 4711, 440 MiB
endpoint    http://localhost:8001/v1
requests    2 running, 0 waiting, 0 held"""
    )


def test_serving_an_override() -> None:
    model = {"configured": "org/A", "serving": "org/B", "override": "org/B", "profile": None}
    shown = text(model=model).splitlines()
    assert shown[1] == "model       org/B"
    assert shown[2].startswith("override    set by swap-model, instead of org/A;")


def test_a_swap_that_fell_back_with_everything_else_there_is_to_say() -> None:
    assert (
        text(
            model={
                "configured": "Qwen/Qwen3-32B-Instruct",
                "serving": "Qwen/Qwen3-32B-AWQ",
                "override": None,
                "profile": "Qwen3-32B",
            },
            wanted={
                "model": "org/B",
                "cause": "repo_not_found",
                "evidence": "RepositoryNotFoundError: 404",
                "remedy": "check the name",
                "at": "2025-10-01T02:00:00Z",
            },
            last_failure={
                "at": "2025-10-01T00:10:00Z",
                "cause": "gpu_oom_alloc",
                "evidence": "torch.OutOfMemoryError: CUDA out of memory. "
                "Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB",
                "remedy": "none needed",
                "action": "lower utilization",
                "is_over": True,
            },
            config={"error": ".env line 3: no port"},
            gpus=[
                {
                    "index": 0,
                    "name": "NVIDIA H100",
                    "memory_total": 80 << 30,
                    "memory_used": 70 << 30,
                    "utilization": 93,
                    "temperature": 61,
                },
                {"index": 1, "name": "NVIDIA H100", "memory_total": None},
            ],
            warnings=["containers on native Docker need the host network"],
        )
        == """\
state       ready
model       Qwen/Qwen3-32B-AWQ, profile Qwen3-32B, configured as Qwen/Qwen3-32B-Instruct
wanted      org/B did not start at Oct 01 04:00:00: repo_not_found
  evidence  RepositoryNotFoundError: 404
  remedy    check the name
worker      pid 4242, generation 3, ready since Oct 01 02:13:05 (3 h 12 min), restarts 1
engine      vLLM 0.33.0, context 32768 tokens, GPU memory 0.85
standby     warm for the next start, pid 4711, 440 MiB
endpoint    http://localhost:8001/v1
requests    2 running, 0 waiting, 0 held
failure     gpu_oom_alloc at Oct 01 02:10:00 (3 h 15 min ago), then: lower utilization; it is over
  evidence  torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a
            total capacity of 79.11 GiB
config      not applied, the last good settings stay: .env line 3: no port
gpu 0       NVIDIA H100, 70.0 of 80.0 GiB used, 93 % busy, 61 °C
gpu 1       NVIDIA H100, ? of ? GiB used
warning     containers on native Docker need the host network"""
    )


@pytest.mark.parametrize("phase", ["ready", "starting", "draining", "stopping"])
def test_workers_own_model_is_told_in_every_phase(phase: str) -> None:
    worker = WORKER | {"phase": phase, "model": "org/A"}
    serving = "org/A" if phase in {"ready", "draining"} else None
    model = {"configured": "org/A", "serving": serving, "override": "org/B", "goal": "org/B"}
    shown = text(state=phase, worker=worker, model=model).splitlines()
    assert shown[1] == "model       org/A, org/B is wanted"
    model = {"configured": "org/B", "serving": serving, "override": None, "goal": "org/A"}
    shown = text(state=phase, worker=worker, model=model).splitlines()
    assert shown[1] == "model       org/A, configured as org/B"
    model = {"configured": "org/A", "serving": serving, "override": None, "demanded": "org/B"}
    shown = text(state=phase, worker=worker, model=model).splitlines()
    assert shown[1] == "model       org/A, org/B is wanted"


def test_next_workers_model_is_told_while_there_is_none() -> None:
    model = {"configured": "org/B", "serving": None, "override": None, "goal": "org/A"}
    shown = text(state="backoff", worker=None, model=model).splitlines()
    assert shown[1] == "model       org/A, configured as org/B"


def test_worker_without_a_process_has_no_pid() -> None:
    shown = text(state="starting", worker=WORKER | {"pid": None, "phase": "starting"})
    assert "worker      generation 3, starting since Oct 01 02:13:05" in shown


def test_second_worker_of_an_overlap() -> None:
    beside = {
        "model": "org/B", "generation": 4, "pid": 77, "phase": "starting",
        "sub_phase": "loading weights", "progress": 0.5, "since": "2025-10-01T03:24:45Z",
    }  # fmt: skip
    said = "beside      org/B is starting: loading weights 50 %, pid 77, generation 4, for 20 s"
    assert said in text(beside=beside)
    old = beside | {"phase": "stopping", "sub_phase": None, "progress": None, "pid": None}
    assert "beside      org/B is stopping, generation 4, for 20 s" in text(beside=old)
    assert "beside" not in text()


REFUSED = {
    "model": "org/B", "cause": "hub_not_found", "evidence": "no such repo", "remedy": "mend it",
    "action": "kept org/A", "at": "2025-10-01T02:00:00Z",
}  # fmt: skip


def test_refused_model_is_told_once() -> None:
    model = {"configured": "org/B", "serving": "org/A", "override": None}
    shown = text(model=model, wanted=REFUSED, last_failure=REFUSED)
    assert shown.count("no such repo") == 1
    assert "failure " not in shown
    assert "org/A, configured as org/B" in shown


def test_failure_that_is_over_asks_for_nothing() -> None:
    shown = text(last_failure=REFUSED | {"is_over": True}, wanted=None)
    assert "then: kept org/A; it is over" in shown
    assert "mend it" not in shown


def test_failure_of_another_model_than_the_one_that_serves_is_not_taken_for_its_own() -> None:
    failure = REFUSED | {"cause": "unknown", "action": "trying again at once", "is_over": False}
    shown = text(last_failure=failure)
    assert "failure     org/B: unknown at " in shown
    assert "then: trying again at once\n" in shown
    assert "mend it" in shown
    assert "failure     unknown at " in text(last_failure=failure | {"model": "org/A"})


def test_an_almost_empty_status_of_another_version_is_still_shown() -> None:
    lines = status_lines({"state": "hibernating"}, NOW, 100)
    assert "\n".join(line.text for line in lines) == (
        """\
state       hibernating
model       none configured
worker      none
endpoint    -
requests    0 running, 0 waiting, 0 held"""
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"state": "off"}, "off: stopped by hand, `cahootsctl start` starts it"),
        (
            {"state": "off", "provider": "cerebras"},
            "off: LLM_PROVIDER is cerebras, so no worker is wanted",
        ),
        ({"state": "backoff"}, "backoff: tries again"),
        (
            {"state": "backoff", "retry_at": "2025-10-01T03:25:50Z"},
            "backoff: tries again in 45 s",
        ),
        ({"state": "failed"}, "failed: waits for a change; `cahootsctl start` tries at once"),
        ({"state": "preparing", "worker": None}, "preparing"),
        (
            {"state": "starting", "worker": WORKER | {"sub_phase": "importing"}},
            "starting: importing",
        ),
    ],
)
def test_state_says_what_it_waits_for(changes: dict[str, Any], said: str) -> None:
    assert state_text(STATUS | changes, NOW) == said


@pytest.mark.parametrize(
    ("state", "tone"),
    [
        (Phase.READY, Tone.GOOD),
        (Phase.FAILED, Tone.BAD),
        (Phase.BACKOFF, Tone.BAD),
        (Phase.STARTING, Tone.WARNING),
    ],
)
def test_state_comes_first_and_in_its_colour(state: Phase, tone: Tone) -> None:
    first = status_lines(STATUS | {"state": state}, NOW, 100)[0]
    assert first.text.startswith(f"state       {state}")
    assert first.tone is tone


def test_what_was_adapted_and_why() -> None:
    adapted = {
        "option": "gpu-memory-utilization",
        "asked": 0.9,
        "used": 0.85,
        "reason": "torch.OutOfMemoryError",
        "cause": "gpu_oom_startup_alloc",
        "at": "2026-10-01T00:13:05+00:00",
    }
    shown = text(worker=WORKER | {"adapted": [adapted]})
    assert (
        "  adapted   gpu-memory-utilization is 0.85, asked for was 0.9; since Oct 01 02:13:05,\n"
        "            gpu_oom_startup_alloc" in shown
    )


def test_who_is_waited_for() -> None:
    holder = {"pid": 77, "user": "bob", "command": "python train.py", "memory_used": 18 << 30}
    waiting = {
        "device": "GPU 0 (A)",
        "memory_free": 6 << 30,
        "memory_wanted": 21 << 30,
        "memory_total": 24 << 30,
        "holders": [holder, {"pid": 78, "user": "0", "command": "x", "memory_used": None}],
    }
    shown = text(state="backoff", worker=None, waiting_for=waiting)
    assert "waits       for 21.0 GiB on GPU 0 (A), where 6.0 GiB are free" in shown
    assert "  held by   python train.py (pid 77, user bob, 18432 MiB)" in shown
    assert "  held by   x (pid 78, user 0)" in shown


def test_model_that_requests_asked_for() -> None:
    model = {
        "configured": "org/A", "serving": "org/B", "override": None, "profile": "b.toml",
        "demanded": "org/B",
    }  # fmt: skip
    shown = text(model=model).splitlines()
    assert shown[1] == "model       org/B, profile b.toml"
    assert shown[2].startswith("on demand   asked for by requests, instead of org/A;")


def test_unloaded_model() -> None:
    idle = {"since": "2025-10-01T00:00:00+00:00", "after_s": 600.0}
    status = STATUS | {"state": "off", "worker": None, "idle": idle}
    expected = "off: unloaded after 10 min 0 s without requests; the next request brings it back"
    assert state_text(status, NOW) == expected
