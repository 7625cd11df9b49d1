"""The main job on a real engine: answer, swap, survive, stop. Times are printed, never judged."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionUserMessageParam

from engine.harness import DEMO, TINY, Daemon, gone, tree, wait_for

pytestmark = pytest.mark.timeout(600)
QUESTION: list[ChatCompletionUserMessageParam] = [
    {"role": "user", "content": "What is the capital of France? Answer in one sentence."}
]


def ask(client: OpenAI, model: str = DEMO) -> str:
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_tokens=40
    )
    return answer.choices[0].message.content or ""


def engine_pid(daemon: Daemon) -> int:
    found = tree(daemon.process.pid)
    return next(pid for pid, title in found.items() if title.startswith("VLLM::EngineCore"))


def say(what: str, started: float) -> None:
    print(f"\n    {what}: {time.monotonic() - started:.1f} s")  # noqa: T201 (a figure, not a log)


def test_request_sent_before_the_worker_is_ready_is_held_and_answered(daemon: Daemon) -> None:
    started = time.monotonic()
    assert wait_for(lambda: daemon.ctl("status").returncode != 4, 20)
    assert daemon.status()["state"] != "ready"

    assert "Paris" in ask(daemon.client())

    say("from daemon start to the answer", started)
    assert daemon.status()["worker"]["generation"] == 1


def test_streamed_chat_brings_the_answer_in_pieces(daemon: Daemon) -> None:
    daemon.wait_ready()
    stream = daemon.client().chat.completions.create(
        model=DEMO, messages=QUESTION, temperature=0, max_tokens=40, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "Paris" in "".join(pieces)
    assert len(pieces) > 3


def test_engine_reports_its_own_errors_through_the_gateway(daemon: Daemon) -> None:
    daemon.wait_ready()
    with pytest.raises(Exception, match="does not exist"):
        ask(daemon.client(), model="nobody/serves-this")


def test_unknown_model_is_refused_and_the_old_one_keeps_serving(daemon: Daemon) -> None:
    before = daemon.wait_ready()

    refused = daemon.ctl("swap-model", "smollm")

    assert refused.returncode == 1
    assert f"did you mean {DEMO}" in " ".join(refused.stderr.split())
    after = daemon.status()
    assert after["worker"]["pid"] == before["worker"]["pid"]
    assert after["state"] == "ready"
    assert "Paris" in ask(daemon.client())


def test_swap_to_another_model_and_back(daemon: Daemon) -> None:
    daemon.wait_ready()
    started = time.monotonic()
    there = daemon.ctl("swap-model", TINY)
    say("swap to the tiny model", started)
    assert there.returncode == 0, there.stderr
    assert "loading weights" in there.stderr or "starting" in there.stderr
    assert daemon.status()["model"] == {
        "configured": DEMO,
        "serving": TINY,
        "override": TINY,
        "profile": f"{TINY}.toml",
        "demanded": None,
        "goal": TINY,
    }
    assert isinstance(ask(daemon.client(), model=TINY), str)

    started = time.monotonic()
    back = daemon.ctl("swap-model", "--reset")
    say("swap back", started)
    assert back.returncode == 0, back.stderr
    assert daemon.status()["model"]["override"] is None
    assert "Paris" in ask(daemon.client())


def test_killed_engine_core_is_served_again(daemon: Daemon) -> None:
    before = daemon.wait_ready()
    started = time.monotonic()
    os.kill(engine_pid(daemon), signal.SIGKILL)
    assert wait_for(lambda: daemon.status()["state"] != "ready", 10)
    say("noticed", started)

    assert "Paris" in ask(daemon.client())

    say("answered again", started)
    after = daemon.status()
    assert after["worker"]["generation"] > before["worker"]["generation"]
    assert "EngineCore" in after["last_failure"]["evidence"]


def test_killed_api_server_leaves_no_orphan_and_is_served_again(daemon: Daemon) -> None:
    before = daemon.wait_ready()
    standby = daemon.status()["standby"]["pid"]  # it lives on, as the next worker
    old = set(tree(daemon.process.pid)) - {standby}
    started = time.monotonic()
    os.kill(before["worker"]["pid"], signal.SIGKILL)

    assert wait_for(lambda: gone(old), 15), tree(daemon.process.pid)
    say("old tree gone", started)
    assert "Paris" in ask(daemon.client())

    say("answered again", started)
    assert daemon.status()["last_failure"]["evidence"] == "the API server ended: signal 9"


def test_engine_that_exits_0_by_itself_is_served_again(daemon: Daemon) -> None:
    before = daemon.wait_ready()
    # An idle `vllm serve` ends with exit status 0 on SIGTERM: nobody of ours sent this one.
    os.kill(before["worker"]["pid"], signal.SIGTERM)
    after = daemon.wait_ready(after=before["worker"]["generation"])
    assert after["last_failure"]["cause"] == "engine_dead_other"
    assert "Paris" in ask(daemon.client())


def test_stop_leaves_no_process_and_refuses_requests_with_the_remedy(daemon: Daemon) -> None:
    daemon.wait_ready()
    old = set(tree(daemon.process.pid))

    stopped = daemon.ctl("stop")

    assert stopped.returncode == 0, stopped.stderr
    assert gone(old)
    assert tree(daemon.process.pid) == {}
    assert daemon.status()["state"] == "off"
    with pytest.raises(Exception, match="cahootsctl start"):
        ask(daemon.client())


def test_stop_during_engine_start_leaves_no_process(daemon: Daemon) -> None:
    # A standby would be past that place before anybody could look.
    config = Path(daemon.env["XDG_CONFIG_HOME"]) / "cahoots-vllm" / "cahoots-vllm.toml"
    before = config.read_text()
    config.write_text(f'standby = "off"\n{before}')
    assert daemon.ctl("reload").returncode == 0
    assert daemon.ctl("start", "--no-wait").returncode == 0
    sub_phase = "starting the engine"  # here vLLM swallows SIGTERM
    assert wait_for(lambda: (daemon.status()["worker"] or {}).get("sub_phase") == sub_phase, 120)
    old = set(tree(daemon.process.pid))

    aborted = daemon.ctl("operations", "abort", _running(daemon))

    assert aborted.returncode == 0, aborted.stderr
    assert wait_for(lambda: daemon.status()["state"] == "off", 15)
    assert gone(old)
    assert tree(daemon.process.pid) == {}
    config.write_text(before)


def test_interrupted_daemon_exits_cleanly_and_leaves_no_process(daemon: Daemon) -> None:
    assert daemon.ctl("start").returncode == 0
    assert "Paris" in ask(daemon.client())
    old = set(tree(daemon.process.pid))

    daemon.process.send_signal(signal.SIGINT)

    assert daemon.process.wait(30) == 0
    assert gone(old)
    assert daemon.ctl("status").returncode == 4


def _running(daemon: Daemon) -> str:
    listed = json.loads(daemon.ctl("operations", "list", "--json").stdout)
    return str(listed["operations"][0]["id"])
