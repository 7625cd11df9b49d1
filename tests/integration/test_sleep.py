"""Workers that sleep while another model serves: on the stand-in engine and scripted GPUs.

Nothing here has seen a real GPU: what the stand-in does is read off vLLM 0.32's source.
"""

import http.client
import os
import signal
from collections.abc import Callable

import pytest

from fake_vllm.script import Behaviour

from .harness import Daemon, Json, exchange, living, wait_for
from .load import load
from .service_manager import ServiceManager
from .test_swap import events_since

_FITTING = Behaviour(memory={})
_DEV_ROUTES = ("/sleep", "/wake_up", "/is_sleeping", "/collective_rpc", "/reset_prefix_cache")


@pytest.fixture
def sleepy(gpu_daemon: Daemon) -> Daemon:
    """A daemon whose workers sleep while another model is served, not started yet."""
    configure(gpu_daemon)
    gpu_daemon.play(_FITTING)
    return gpu_daemon


def configure(daemon: Daemon, **swap: float | str) -> None:
    daemon.configure(swap={"strategy": "sleep", "sleep_timeout_s": 3, **swap})


def play(daemon: Daemon, **by_model: Json) -> None:
    daemon.play(_FITTING, **by_model)


def swap(daemon: Daemon, *models: str) -> None:
    for model in models:
        assert daemon.swap(model)["state"] == "done"


def asleep(daemon: Daemon) -> list[str]:
    """Return the models that sleep, the one that served longest ago first."""
    rows: list[Json] = daemon.status()["asleep"]
    return [row["model"] for row in rows]


def said(daemon: Daemon, *parts: str) -> list[str]:
    """Return the daemon's own lines with all of these parts."""
    lines = daemon.log.read_text().splitlines()
    return [line for line in lines if all(part in line for part in parts)]


def test_swap_there_and_back_wakes_the_same_process_and_fails_nobody(sleepy: Daemon) -> None:
    sleepy.start_ready()
    first = sleepy.main_pid()
    with load(sleepy) as asked:
        wait_for(lambda: len(asked.outcomes) > 4)
        swap(sleepy, "org/b")
        second = sleepy.main_pid()
        assert asleep(sleepy) == ["org/a"]
        swap(sleepy, "org/a")
        count = len(asked.outcomes)
        wait_for(lambda: len(asked.outcomes) > count + 8)
    assert asked.failed == []
    assert sleepy.main_pid() == first
    assert sleepy.says("again") == "fake: again"
    assert asleep(sleepy) == ["org/b"]
    swap(sleepy, "org/b", "org/a", "org/b")
    assert (sleepy.main_pid(), sleepy.started()) == (second, 2)
    status = sleepy.status()
    assert (status["worker"]["generation"], status["worker"]["restarts"]) == (6, 0)
    texts = [event.get("text") or "" for event in events_since(sleepy, 0)]
    assert any("putting org/a to sleep" in text for text in texts), texts
    assert any(text.startswith("starting org/a: waking") for text in texts), texts
    assert not said(sleepy, "not put to sleep") + said(sleepy, "started plainly")


def test_status_shows_who_sleeps(sleepy: Daemon) -> None:
    play(sleepy, a={"asleep_host_mib": 128})
    sleepy.start_ready()
    first = sleepy.main_pid()
    swap(sleepy, "org/b")
    [row] = sleepy.status()["asleep"]
    assert (row["model"], row["pid"]) == ("org/a", first)
    assert row["host_memory"] > 128 << 20
    assert row["since"] >= sleepy.status()["daemon"]["since"][:19]
    text = sleepy.ctl("status").stdout
    [line] = [line for line in text.splitlines() if line.startswith("asleep")]
    assert "org/a" in line
    assert "GiB of host memory" in line


_FAULTS: dict[str, tuple[Json, str]] = {
    "route says 500": ({"sleep": "error"}, "/sleep?level=1 was answered with HTTP 500"),
    "route hangs": ({"sleep": "hang"}, "no answer to /sleep?level=1 within 3 s"),
    "nothing is freed": ({"sleep": "keeps_memory"}, "still holds"),
    "much is kept": ({"asleep_gib": 5.0}, "still holds 5.0 GiB"),
}


@pytest.mark.parametrize("fault", _FAULTS)
def test_worker_that_cannot_sleep_is_stopped(sleepy: Daemon, fault: str) -> None:
    changes, why = _FAULTS[fault]
    play(sleepy, a=changes)
    sleepy.start_ready()
    first = sleepy.tree_pids()
    with load(sleepy) as asked:
        wait_for(lambda: len(asked.outcomes) > 4)
        swap(sleepy, "org/b")
    assert asked.failed == []
    assert asleep(sleepy) == []
    assert not set(first) & set(sleepy.tree_pids())
    assert len(said(sleepy, "org/a is stopped and not put to sleep", why)) == 1
    swap(sleepy, "org/a")
    assert sleepy.started() == 3


_BAD_WAKES: dict[str, tuple[Json, str]] = {
    "route says 500": ({"wake": "error"}, "/wake_up was answered with HTTP 500"),
    "route hangs": ({"wake": "hang"}, "it did not wake within 3 s"),
    "other weights": ({"wake": "other_weights"}, "its first token is"),
}


@pytest.mark.parametrize("fault", _BAD_WAKES)
def test_worker_that_wakes_badly_is_ended_and_started_plainly(sleepy: Daemon, fault: str) -> None:
    changes, why = _BAD_WAKES[fault]
    play(sleepy, a=changes)
    sleepy.start_ready()
    first = sleepy.main_pid()
    swap(sleepy, "org/b")
    assert asleep(sleepy) == ["org/a"]
    with load(sleepy) as asked:
        swap(sleepy, "org/a")
        wait_for(lambda: len(asked.outcomes) > 4)
    assert asked.failed == []
    assert sleepy.main_pid() != first
    assert first not in living()
    assert sleepy.says("hello") == "fake: hello"
    assert len(said(sleepy, "org/a slept and is started plainly", why)) == 1
    assert sleepy.started() == 3


def test_swap_that_is_taken_back_while_it_wakes_leaves_nothing_of_it(sleepy: Daemon) -> None:
    configure(sleepy, sleep_timeout_s=30)
    play(sleepy, a={"wake": "hang"})
    sleepy.start_ready()
    first = sleepy.main_pid()
    swap(sleepy, "org/b")
    second = sleepy.main_pid()
    operation = sleepy.api("POST", "/v1/swap-model", {"model": "org/a"})
    wait_for(lambda: (sleepy.status()["worker"] or {}).get("sub_phase") == "waking")
    sleepy.api("DELETE", f"/v1/operations/{operation['id']}")
    wait_for(lambda: sleepy.status()["model"]["serving"] == "org/b")
    assert first not in living()
    assert (sleepy.main_pid(), sleepy.started(), asleep(sleepy)) == (second, 2, [])


@pytest.mark.parametrize("title", ["vllm", "VLLM::EngineCore"])
def test_death_in_sleep_is_one_line_and_the_next_start_a_plain_one(
    sleepy: Daemon, title: str
) -> None:
    sleepy.start_ready()
    first = sleepy.main_pid()
    victim = first if title == "vllm" else sleepy.pid_of(title)
    swap(sleepy, "org/b")
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: asleep(sleepy) == [])
    wait_for(lambda: first not in living())
    assert len(said(sleepy, "org/a, which slept, is ended: ")) == 1
    assert sleepy.status()["state"] == "ready"
    swap(sleepy, "org/a")
    assert sleepy.started() == 3


def test_budget_ends_the_one_that_served_longest_ago(sleepy: Daemon) -> None:
    for name in ("org/c", "org/d"):
        sleepy.add_model(name)
    configure(sleepy, sleep_memory_gib=1.0)  # each takes some 440 MiB: room for two
    play(sleepy, **{name: {"asleep_host_mib": 400} for name in "abcd"})
    sleepy.start_ready()
    swap(sleepy, "org/b", "org/c", "org/d")
    assert asleep(sleepy) == ["org/b", "org/c"]
    assert len(said(sleepy, "org/a, which slept, is ended", "needs its host memory")) == 1
    # What served longest ago is wanted again: another one makes room.
    swap(sleepy, "org/b")
    assert (sleepy.started(), asleep(sleepy)) == (4, ["org/d"])


def test_one_that_would_not_fit_is_stopped(sleepy: Daemon) -> None:
    configure(sleepy, sleep_memory_gib=0)
    sleepy.start_ready()
    swap(sleepy, "org/b")
    assert asleep(sleepy) == []
    assert said(sleepy, "org/a is stopped and not put to sleep", "are for sleepers")


def test_next_worker_that_needs_the_gpu_gets_what_a_sleeper_has_left(sleepy: Daemon) -> None:
    profile = sleepy.config / "models.d" / "org-b.toml"
    profile.write_text(profile.read_text() + "[options]\ngpu-memory-utilization = 0.95\n")
    play(sleepy, a={"asleep_gib": 1.5})
    sleepy.start_ready()
    swap(sleepy, "org/b")
    assert asleep(sleepy) == []
    assert said(sleepy, "org/a, which slept, is ended", "memory of its GPU")
    assert sleepy.started_with("gpu-memory-utilization") == ["0.9", "0.95"]


def stop_worker(daemon: Daemon) -> None:
    daemon.change("stop")


def change_provider(daemon: Daemon) -> None:
    daemon.write_env(LLM_PROVIDER="mock")


def change_option(daemon: Daemon) -> None:
    profile = daemon.config / "models.d" / "org-a.toml"
    profile.write_text(profile.read_text() + "[options]\nmax-num-seqs = 7\n")


@pytest.mark.parametrize("change", [stop_worker, change_provider, change_option])
def test_sleeper_that_nobody_will_want_is_ended(
    sleepy: Daemon, change: Callable[[Daemon], None]
) -> None:
    sleepy.start_ready()
    first = sleepy.main_pid()
    swap(sleepy, "org/b")
    change(sleepy)
    wait_for(lambda: asleep(sleepy) == [] and first not in living())


def test_end_of_the_daemon_leaves_nothing(sleepy: Daemon) -> None:
    play(sleepy, a={"shares_memory": True})
    sleepy.start_ready()
    swap(sleepy, "org/b")
    assert asleep(sleepy) == ["org/a"]
    assert sleepy.stop() == 0
    assert sleepy.tree_pids() == []
    assert [path.name for path in sleepy.runtime.glob("worker-*")] == []


@pytest.mark.parametrize("how", ["killed", "replaced"])
def test_next_daemon_goes_on_with_the_woken_one_and_ends_who_sleeps(
    sleepy: Daemon, manager: ServiceManager, how: str
) -> None:
    sleepy.start_ready()
    first = sleepy.main_pid()
    swap(sleepy, "org/b", "org/a")
    [row] = sleepy.status()["asleep"]
    if how == "killed":
        sleepy.kill()
        sleepy.start()
    else:
        since = sleepy.status()["daemon"]["since"]
        assert sleepy.request("POST", "/v1/daemon-reexec").status == 202
        wait_for(lambda: sleepy.is_up() and sleepy.status()["daemon"]["since"] != since)
    sleepy.wait_phase("ready")
    wait_for(lambda: row["pid"] not in living())
    assert (sleepy.main_pid(), asleep(sleepy)) == (first, [])
    assert sleepy.says("still") == "fake: still"
    names = {path.name.partition(".")[0] for path in sleepy.runtime.glob("worker-*")}
    assert names == {"worker-1"}
    # What it was started with is known to the next daemon, too.
    swap(sleepy, "org/b", "org/a")
    assert sleepy.main_pid() == first
    assert "output-2" not in manager.names()


def test_dev_routes_are_on_the_private_socket_alone(sleepy: Daemon) -> None:
    sleepy.start_ready()
    private = exchange(sleepy.worker(1), "GET", "/is_sleeping")
    assert private.json() == {"is_sleeping": False}
    connection: http.client.HTTPConnection = sleepy.gateway()
    for route in _DEV_ROUTES:
        for path in (route, f"/v1{route}", f"/v1/..{route}", f"{route}?level=1"):
            for method in ("GET", "POST"):
                answer = exchange(connection, method, path)
                assert answer.status in {404, 405}, (method, path, answer.status)
    assert exchange(sleepy.worker(1), "GET", "/is_sleeping").json() == {"is_sleeping": False}


def test_workers_have_dev_routes_only_where_they_are_to_sleep(gpu_daemon: Daemon) -> None:
    gpu_daemon.play(_FITTING)
    gpu_daemon.start_ready()
    assert "--enable-sleep-mode" not in gpu_daemon.worker_argv()
    assert exchange(gpu_daemon.worker(1), "GET", "/is_sleeping").status == 404
    refused = gpu_daemon.ctl("swap-model", "org/b", "--strategy", "sleep")
    assert refused.returncode == 1
    assert "org/a was not started so that it can sleep" in refused.stderr
    assert 'strategy = "sleep"' in refused.stderr


def test_cpu_engine_says_that_it_cannot(daemon: Daemon) -> None:
    configure(daemon)
    daemon.start_ready()
    sentence = "sleep is not available on the CPU engine; swaps are sequential"
    assert "--enable-sleep-mode" not in daemon.worker_argv()
    assert sentence in daemon.status()["warnings"]
    assert sentence in daemon.ctl("doctor").stdout
    refused = daemon.ctl("swap-model", "org/b", "--strategy", "sleep")
    assert refused.returncode == 1
    assert sentence in refused.stderr
    swap(daemon, "org/b")
    assert asleep(daemon) == []
