"""The next worker starts beside the one that serves: nobody waits, whatever comes of it."""

import os
import signal
from collections.abc import Callable, Mapping

import pytest

from fake_vllm.script import Behaviour

from .harness import Daemon, wait_for
from .load import load
from .service_manager import ServiceManager
from .test_swap import asking_all_the_while, events_since

_SMALL: Mapping[str, float | str] = {"gpu-memory-utilization": 0.05}
_LOADS: dict[str, object] = {"delays_s": {"load": 1.5}}


@pytest.fixture
def overlap(daemon: Daemon) -> Daemon:
    """A daemon whose swaps overlap, on a host with room for two."""
    configure(daemon, "overlap")
    return daemon


def configure(daemon: Daemon, strategy: str, options: Mapping[str, float | str] = _SMALL) -> None:
    """Let swaps be done so, by a model small enough for two."""
    daemon.configure(swap={"strategy": strategy}, options=options)


def wait_newcomer(daemon: Daemon) -> None:
    """Return once the next worker is loading beside the one that serves."""

    def is_loading() -> bool:
        operations = daemon.api("GET", "/v1/operations")["operations"]
        texts = [(operation["progress"] or {}).get("text") or "" for operation in operations]
        return any("beside it: loading" in text for text in texts)

    wait_for(is_loading)


def swap(daemon: Daemon) -> None:
    assert daemon.swap("org/b")["state"] == "done"


def restart(daemon: Daemon) -> None:
    assert daemon.change("restart")["state"] == "done"


def change_option(daemon: Daemon) -> None:
    configure(daemon, "overlap", {**_SMALL, "max-num-seqs": 7})
    daemon.wait_generation(2)


@pytest.mark.parametrize("change", [swap, restart, change_option])
def test_old_worker_answers_until_the_new_one_does(
    overlap: Daemon, change: Callable[[Daemon], None]
) -> None:
    overlap.play(Behaviour(**_LOADS), b=_LOADS)  # type: ignore[arg-type] # names are its fields
    overlap.start_ready()
    first = overlap.main_pid()
    with load(overlap) as asked:
        wait_for(lambda: len(asked.outcomes) > 4)
        change(overlap)
        count = len(asked.outcomes)
        wait_for(lambda: len(asked.outcomes) > count + 8)
    assert asked.failed == []
    status = overlap.status()
    assert (status["worker"]["generation"], status["worker"]["restarts"]) == (2, 0)
    wait_for(lambda: first not in overlap.tree_pids())
    texts = [event.get("text") or "" for event in events_since(overlap, 0)]
    assert any("starting org/" in t and "beside it: loading weights" in t for t in texts), texts
    assert not any(t.startswith(("draining", "stopping", "starting org/b")) for t in texts), texts


def test_nobody_is_held_while_the_models_change(overlap: Daemon) -> None:
    overlap.play(Behaviour(), b=_LOADS)
    overlap.start_ready()
    with asking_all_the_while(overlap, "org/a") as answers:
        assert overlap.swap("org/b")["state"] == "done"
    assert {answer.status for answer in answers} <= {200, 404}
    lines = overlap.get("/metrics").body.decode().splitlines()
    held = next(
        line for line in lines if line.startswith("cahoots_vllm_gateway_held_seconds_count")
    )
    assert float(held.split()[-1]) == 0


def test_model_that_cannot_start_costs_nobody_anything(overlap: Daemon) -> None:
    overlap.play(Behaviour(), b={"log": "bad_arguments", "die_at": "arguments"})
    overlap.start_ready()
    first = overlap.main_pid()
    with asking_all_the_while(overlap, "org/a") as answers:
        operation = overlap.swap("org/b")
    assert operation["state"] == "failed"
    assert "kept org/a" in operation["problem"]["remedy"]
    assert {answer.status for answer in answers} == {200}
    status = overlap.status()
    assert (status["state"], status["worker"]["pid"]) == ("ready", first)
    assert status["wanted"]["model"] == "org/b"


def test_abort_ends_the_newcomer_and_nothing_else(overlap: Daemon) -> None:
    overlap.play(Behaviour(), b={"delays_s": {"load": 30}})
    overlap.start_ready()
    first = overlap.main_pid()
    before = set(overlap.tree_pids())
    operation = overlap.api("POST", "/v1/swap-model", {"model": "org/b"})
    wait_newcomer(overlap)
    status = overlap.status()
    shown = status["beside"]
    assert (shown["model"], shown["generation"], shown["phase"]) == ("org/b", 2, "starting")
    assert (status["worker"]["model"], status["worker"]["pid"]) == ("org/a", first)
    assert shown["pid"] in set(overlap.tree_pids()) - before
    assert "beside      org/b is starting: loading" in overlap.ctl("status").stdout
    answer = overlap.api("DELETE", f"/v1/operations/{operation['id']}")
    assert answer["state"] == "aborted"
    assert overlap.says("still here") == "fake: still here"
    wait_for(lambda: set(overlap.tree_pids()) <= before)
    assert overlap.main_pid() == first


def test_old_worker_that_dies_meanwhile_is_not_started_again(overlap: Daemon) -> None:
    overlap.play(Behaviour(), b={"delays_s": {"load": 3}})
    overlap.start_ready()
    operation = overlap.api("POST", "/v1/swap-model", {"model": "org/b"})
    wait_newcomer(overlap)
    os.kill(overlap.main_pid(), signal.SIGKILL)
    held = overlap.chat("held meanwhile", model="org/b")
    assert held.json()["model"] == "org/b"
    assert overlap.wait_operation(operation["id"])["state"] == "done"
    status = overlap.status()
    assert (status["worker"]["generation"], status["worker"]["restarts"]) == (2, 0)
    failure = status["last_failure"]
    assert (failure["model"], failure["is_over"]) == ("org/a", True)
    log = overlap.log.read_text()
    assert log.count("org/b takes its place, which is starting already") == 1


@pytest.mark.parametrize("moment", ["newcomer", "switched"])
def test_killed_daemon_is_followed_by_one_that_goes_on_with_what_serves(
    overlap: Daemon, manager: ServiceManager, moment: str
) -> None:
    delay_s = 30 if moment == "newcomer" else 1
    overlap.play(Behaviour(), b={"delays_s": {"load": delay_s}})
    overlap.start_ready()
    operation = overlap.api("POST", "/v1/swap-model", {"model": "org/b"})
    if moment == "newcomer":
        wait_newcomer(overlap)
    else:
        overlap.wait_operation(operation["id"])
    serving = overlap.main_pid()
    overlap.kill()
    overlap.play(Behaviour(), b={"delays_s": {"load": 1}})
    overlap.start()
    overlap.wait_generation(2)
    model = "org/b"
    wait_for(lambda: overlap.status()["model"]["serving"] == model)
    assert overlap.says("hello", model=model) == "fake: hello"
    if moment == "switched":
        assert overlap.main_pid() == serving
    wait_for(lambda: "output-1" not in manager.names(), what="nothing of the first is kept")
    overlap.change("stop")
    assert overlap.tree_pids() == []


def test_stop_in_the_middle_leaves_nothing(overlap: Daemon) -> None:
    overlap.play(Behaviour(), b={"delays_s": {"load": 30}})
    overlap.start_ready()
    overlap.api("POST", "/v1/swap-model", {"model": "org/b"})
    wait_newcomer(overlap)
    assert overlap.stop() == 0


def test_without_room_auto_goes_one_after_the_other_and_overlap_says_why(daemon: Daemon) -> None:
    configure(daemon, "auto")
    profile = daemon.config / "models.d" / "org-b.toml"
    profile.write_text(profile.read_text() + "[options]\ngpu-memory-utilization = 0.99\n")
    daemon.start_ready()
    body = {"model": "org/b", "strategy": "overlap"}
    refused = daemon.change("swap-model", body)
    assert refused["state"] == "failed"
    assert "beside the worker that serves" in refused["problem"]["detail"]
    assert "sequential" in refused["problem"]["remedy"]
    assert daemon.says("still") == "fake: still"
    assert daemon.status()["worker"]["generation"] == 1
    daemon.api("POST", "/v1/swap-model", {"model": "org/b"})
    wait_for(lambda: any("draining" in (e.get("text") or "") for e in events_since(daemon, 0)))
    daemon.end_operations()
    outcome = daemon.ctl("swap-model", "org/b", "--strategy", "nonsense")
    assert outcome.returncode == 2
