"""Swaps on demand and unloading with the real engine and the real client, its retries off."""

import time
from pathlib import Path

import pytest

from engine.harness import DEMO, TINY, Daemon, wait_for

pytestmark = pytest.mark.timeout(900)


def configure(daemon: Daemon, gateway: str) -> None:
    config = Path(daemon.env["XDG_CONFIG_HOME"]) / "cahoots-vllm" / "cahoots-vllm.toml"
    config.write_text(f"[gateway]\n{gateway}\n")
    done = daemon.ctl("reload")
    assert done.returncode == 0, done.stderr


def ask(daemon: Daemon, model: str) -> float:
    """Ask and return after how many seconds the answer was there."""
    began = time.monotonic()
    answer = daemon.client().completions.create(model=model, prompt="One, two,", max_tokens=4)
    assert answer.model == model
    assert answer.choices[0].text
    return time.monotonic() - began


def test_each_request_is_answered_by_the_model_it_names(daemon: Daemon) -> None:
    daemon.wait_ready()
    configure(daemon, 'on_demand = "profiles"\nmin_stay_s = 2')
    listed = {model.id for model in daemon.client().models.list()}
    assert {DEMO, TINY} <= listed
    waits = [ask(daemon, model) for model in (DEMO, TINY, TINY, DEMO)]
    print(f"\n    answered after {', '.join(f'{wait:.1f} s' for wait in waits)}")  # noqa: T201 (figures)
    assert daemon.status()["worker"]["generation"] == 3


def test_idle_model_is_unloaded_and_comes_back_with_a_request(daemon: Daemon) -> None:
    daemon.wait_ready()
    configure(daemon, "idle_stop_s = 3")
    assert wait_for(lambda: daemon.status()["state"] == "off", 60)
    assert daemon.status()["idle"]["after_s"] == 3.0
    assert {model.id for model in daemon.client().models.list()} == {DEMO}
    assert daemon.status()["state"] == "off", "the list woke it"
    print(f"\n    back after {ask(daemon, DEMO):.1f} s")  # noqa: T201 (a figure)
