"""No request fails because the worker changes: whatever changes it, under a steady load."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from fake_vllm.script import Behaviour

from .harness import Daemon, wait_for
from .load import load

_SLOW = Behaviour(tokens_per_s=60)


def swap(daemon: Daemon) -> None:
    assert daemon.swap("org/b")["state"] == "done"


def restart(daemon: Daemon) -> None:
    assert daemon.change("restart")["state"] == "done"


def reload(daemon: Daemon) -> None:
    daemon.write_env(LOCAL_LLM_MODEL="org/b")
    assert daemon.change("reload")["state"] == "done"


def change_option(daemon: Daemon) -> None:
    with (daemon.config / "cahoots-vllm.toml").open("a") as config:
        config.write("[options]\nmax-num-seqs = 7\n")


def kill_engine_core(daemon: Daemon) -> None:
    os.kill(daemon.pid_of("VLLM::EngineCore"), signal.SIGKILL)


def kill_api_server(daemon: Daemon) -> None:
    os.kill(daemon.main_pid(), signal.SIGKILL)


def end_api_server(daemon: Daemon) -> None:
    """Not by us: its requests are given up, and its streams look finished."""
    os.kill(daemon.main_pid(), signal.SIGTERM)


@pytest.mark.parametrize("change", [swap, restart, reload, change_option])
def test_change_that_was_asked_for_fails_no_request(
    daemon: Daemon, change: Callable[[Daemon], None]
) -> None:
    daemon.play(_SLOW)
    daemon.start_ready()
    with load(daemon) as asked:
        wait_for(lambda: len(asked.outcomes) > 4)
        change(daemon)
        daemon.wait_generation(2)
        count = len(asked.outcomes)
        wait_for(lambda: len(asked.outcomes) > count + 8)
    assert asked.failed == []


@pytest.mark.parametrize("end", ["error_event", "abort", "hang"])
@pytest.mark.parametrize("kill", [kill_engine_core, kill_api_server, end_api_server])
def test_death_breaks_off_only_streams_that_had_begun(
    daemon: Daemon, kill: Callable[[Daemon], None], end: str
) -> None:
    daemon.play(Behaviour(tokens_per_s=60, engine_death_streams=end, term_with_streams=end))  # type: ignore[arg-type] # one of StreamEnd
    daemon.start_ready()
    with load(daemon) as asked:
        wait_for(lambda: len(asked.outcomes) > 4)
        kill(daemon)
        daemon.wait_generation(2)
        count = len(asked.outcomes)
        wait_for(lambda: len(asked.outcomes) > count + 8)
    assert [one for one in asked.failed if not one.is_broken_off] == []
    assert all(one.is_stream for one in asked.failed)
    # Two clients stream, and one death is one stream each at most.
    assert len(asked.failed) <= 2


def test_memory_step_fails_no_request(daemon: Daemon) -> None:
    serving_oom = Behaviour(tokens_per_s=60, log="host_oom_serving", exit0_after_requests=8)
    daemon.play(serving_oom, _SLOW)
    daemon.start_ready()
    with load(daemon, clients=2) as asked:
        daemon.wait_generation(2)
        count = len(asked.outcomes)
        wait_for(lambda: len(asked.outcomes) > count + 4)
    assert [one for one in asked.failed if not one.is_broken_off] == []


def test_poison_is_sent_twice_and_named_and_everyone_else_is_served(daemon: Daemon) -> None:
    daemon.play(Behaviour(tokens_per_s=60, crash_on_prompt="poison"))
    daemon.start_ready()
    with load(daemon) as asked:
        wait_for(lambda: len(asked.outcomes) > 4)
        answer = daemon.chat("poison")
        daemon.wait_generation(3)
        count = len(asked.outcomes)
        wait_for(lambda: len(asked.outcomes) > count + 8)
    id_ = answer.headers["X-Request-Id"]
    assert (answer.status, daemon.started()) == (503, 3)
    assert f"request {id_} is not sent again" in answer.json()["error"]["message"]
    assert [one for one in asked.failed if not one.is_broken_off] == []
    named = [line["text"] for line in daemon.log_entries(2000) if id_ in line["text"]]
    assert any("not sent again" in text for text in named)
    # A client that tries again by itself does not kill a fourth.
    assert daemon.chat("poison").status == 503
    assert daemon.chat("well").status == 200
    assert daemon.started() == 3


def test_retry_after_is_this_hosts_own_experience(daemon: Daemon) -> None:
    daemon.configure(gateway={"hold_max": 0})
    daemon.play(Behaviour(delays_s={"load": 3}))
    daemon.start_ready()
    assert daemon.read_state()["load_times"]
    operation = daemon.api("POST", "/v1/restart", {})
    wait_for(lambda: daemon.phase() == "starting")
    time.sleep(0.5)
    answer = daemon.chat("too many")
    assert answer.status == 503
    assert 1 <= int(answer.headers["Retry-After"]) <= 6
    assert answer.json()["error"]["code"] == "busy"
    daemon.wait_operation(operation["id"])
