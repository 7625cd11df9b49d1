"""A real engine's standby under the daemon. Times are printed, not judged."""

import os
import signal
import time
from typing import Any

import pytest

from engine.harness import DEMO, TINY, Daemon, gone, tree, wait_for

pytestmark = pytest.mark.timeout(600)
PROMPT = "The capital of France is"


def complete(daemon: Daemon, model: str = DEMO) -> str:
    answer = daemon.client().completions.create(
        model=model, prompt=PROMPT, temperature=0, max_tokens=24
    )
    return answer.choices[0].text


def wait_warm(daemon: Daemon) -> dict[str, Any]:
    """Return the status once a standby is warm and weighed."""
    found: dict[str, Any] = {}

    def is_warm() -> bool:
        found.update(daemon.status())
        standby = found["standby"]
        return standby["state"] == "warm" and standby["private_memory"] is not None

    assert wait_for(is_warm, 180), found["standby"]
    return found


def say(what: str, started: float) -> None:
    print(f"\n    {what}: {time.monotonic() - started:.1f} s")  # noqa: T201 (a figure, not a log)


@pytest.mark.parametrize("title", ["VLLM::EngineCore", "VLLM::Worker", "API server"])
def test_after_a_crash_the_standby_is_the_worker(daemon: Daemon, title: str) -> None:
    daemon.wait_ready()
    before = wait_warm(daemon)
    expected = complete(daemon)
    processes = tree(daemon.process.pid)
    victim = next((p for p, t in processes.items() if t.startswith(title)), before["worker"]["pid"])
    started = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    assert complete(daemon) == expected, "the same tokens"
    say(f"from SIGKILL of {title} to the answer", started)
    after = daemon.status()
    assert after["worker"]["pid"] == before["standby"]["pid"]
    assert before["standby"]["forks"], before["standby"]["why_not_fork"]
    old = {pid for pid in processes if pid != before["standby"]["pid"]}
    assert wait_for(lambda: gone(old), 20)


def test_swap_there_and_back_by_standbys(daemon: Daemon) -> None:
    for model in (TINY, DEMO):
        before = wait_warm(daemon)
        started = time.monotonic()
        assert daemon.ctl("swap-model", model).returncode == 0
        complete(daemon, model)
        say(f"from swap-model to the first answer of {model}", started)
        assert daemon.status()["worker"]["pid"] == before["standby"]["pid"]


def test_killed_standby_costs_the_next_start_nothing_but_time(daemon: Daemon) -> None:
    before = wait_warm(daemon)
    os.kill(before["standby"]["pid"], signal.SIGKILL)
    assert wait_for(lambda: daemon.status()["standby"]["state"] == "none", 20)
    assert daemon.ctl("restart").returncode == 0
    assert daemon.status()["worker"]["generation"] > before["worker"]["generation"]
    complete(daemon)
