"""The worker outlives its daemon: killed, restarted, replaced; and ends where none comes back."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cahoots_vllm.host import process_tree
from fake_vllm.script import Behaviour

from .harness import Daemon, chat_body, living, wait_for
from .service_manager import ServiceManager


@pytest.fixture
def manager(daemon: Daemon) -> Iterator[ServiceManager]:
    """Makes `daemon` its service."""
    daemon.manager = ServiceManager(daemon.runtime.parent / "notify")
    yield daemon.manager
    daemon.manager.close()


def restart(daemon: Daemon) -> None:
    """Kill the daemon and start another one, as systemd would."""
    daemon.kill()
    daemon.start()


def test_worker_of_a_killed_daemon_goes_on_serving(daemon: Daemon, manager: ServiceManager) -> None:
    daemon.start_ready()
    worker = daemon.main_pid()
    restart(daemon)
    status = daemon.status()
    assert (status["state"], status["worker"]["pid"]) == ("ready", worker)
    assert status["worker"]["generation"] == 1
    assert daemon.says("still there") == "fake: still there"
    assert daemon.started() == 1
    assert manager.said("READY=1") == 2


def test_requests_made_while_no_daemon_runs_are_answered_by_the_next(
    daemon: Daemon, manager: ServiceManager
) -> None:
    daemon.start_ready()
    worker = daemon.main_pid()
    answers: list[str] = []

    def ask(text: str) -> None:
        answers.append(daemon.says(text))

    for number in range(10):
        daemon.kill()
        # Made while no daemon runs: it waits in the listening socket.
        asking = threading.Thread(target=ask, args=(str(number),))
        asking.start()
        time.sleep(0.05)
        daemon.start()
        asking.join(15)
        assert daemon.main_pid() == worker
    assert answers == [f"fake: {number}" for number in range(10)]
    assert daemon.started() == 1
    assert sorted(manager.names()) == ["control", "gateway", "gateway", "output-1"]


@pytest.mark.usefixtures("manager")
def test_start_that_was_under_way_goes_on(daemon: Daemon) -> None:
    daemon.play(Behaviour(delays_s={"load": 2}))
    daemon.start()
    wait_for(lambda: daemon.status()["worker"], what="a worker")
    worker = daemon.main_pid()
    wait_for(lambda: daemon.status()["worker"]["sub_phase"] == "loading weights")
    restart(daemon)
    status = daemon.status()
    assert (status["state"], status["worker"]["pid"]) == ("starting", worker)
    # Told from the lines that the last daemon read.
    assert status["worker"]["sub_phase"] == "loading weights"
    daemon.wait_phase("ready")
    assert (daemon.main_pid(), daemon.started()) == (worker, 1)


def test_failure_is_read_from_lines_that_an_earlier_daemon_heard(
    daemon: Daemon, manager: ServiceManager
) -> None:
    daemon.start_ready()
    engine = daemon.pid_of("EngineCore")
    daemon.kill()
    os.kill(engine, signal.SIGKILL)
    time.sleep(0.5)  # its last words are written while nobody reads
    daemon.start()
    wait_for(daemon.cause, what="the death is noticed")
    failure = daemon.status()["last_failure"]
    assert failure["cause"] != "unknown", failure
    daemon.wait_generation(2)
    assert manager.names() == ["control", "gateway", "gateway", "output-2"]


@pytest.mark.usefixtures("manager")
def test_worker_that_died_with_its_daemon_is_replaced(daemon: Daemon) -> None:
    daemon.start_ready()
    tree = daemon.tree_pids()
    daemon.kill()
    for pid in tree:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not set(tree) & set(living()))
    daemon.start()
    daemon.wait_generation(2)
    assert daemon.started() == 2
    assert daemon.cause() is not None
    assert daemon.says("anew") == "fake: anew"


@pytest.mark.usefixtures("manager")
def test_edit_made_while_no_daemon_ran_swaps_the_worker_that_was_found(daemon: Daemon) -> None:
    daemon.start_ready()
    daemon.kill()
    daemon.write_env(LOCAL_LLM_MODEL="org/b")
    daemon.start()
    wait_for(lambda: daemon.status()["model"]["serving"] == "org/b")
    assert daemon.says("b", "org/b") == "fake: b"
    assert daemon.started() == 2


@pytest.mark.usefixtures("manager")
def test_refused_swap_is_not_tried_again_by_a_restart(daemon: Daemon) -> None:
    daemon.play(b={"exit_code": 1, "die_at": "load"})
    daemon.start_ready()
    daemon.write_env(LOCAL_LLM_MODEL="org/b")
    wait_for(lambda: daemon.status()["wanted"], timeout_s=40, what="b is given up")
    daemon.wait_phase("ready", timeout_s=40)
    starts = daemon.started()
    restart(daemon)
    time.sleep(1)
    status = daemon.status()
    assert status["model"]["serving"] == "org/a"
    assert status["wanted"]["model"] == "org/b"
    assert daemon.started() == starts


@pytest.mark.usefixtures("manager")
def test_override_holds_over_a_kill(daemon: Daemon) -> None:
    daemon.start_ready()
    assert daemon.swap("org/b")["state"] == "done"
    worker = daemon.main_pid()
    restart(daemon)
    assert daemon.main_pid() == worker
    assert daemon.status()["model"]["override"] == "org/b"


@pytest.mark.usefixtures("manager")
def test_foreign_process_under_the_remembered_pid_is_neither_taken_nor_ended(
    daemon: Daemon,
) -> None:
    daemon.start_ready()
    daemon.kill()
    for pid in daemon.tree_pids():
        os.kill(pid, signal.SIGKILL)
    stranger = daemon.process_of_another()
    row = process_tree.read_process(stranger.pid)
    assert row is not None
    file = daemon.runtime / "handover.json"
    left = json.loads(file.read_text())
    left["mark"] |= {"pid": stranger.pid, "started": row.started}
    file.write_text(json.dumps(left))
    daemon.start()
    daemon.wait_generation(2)
    assert daemon.main_pid() != stranger.pid
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait(5)


@pytest.mark.usefixtures("manager")
@pytest.mark.parametrize("damage", ["", "{", '{"mark": 1}', "null"])
def test_damaged_handover_ends_the_worker_and_starts_another(daemon: Daemon, damage: str) -> None:
    daemon.start_ready()
    worker = daemon.main_pid()
    daemon.kill()
    (daemon.runtime / "handover.json").write_text(damage)
    daemon.start_ready()
    assert daemon.main_pid() != worker
    assert worker not in living()


def test_stop_leaves_nothing(daemon: Daemon, manager: ServiceManager) -> None:
    daemon.start_ready()
    restart(daemon)
    assert daemon.stop() == 0
    assert living() == []
    wait_for(lambda: manager.names() == [], what="an empty store")
    assert list(daemon.runtime.iterdir()) == []
    assert manager.said("STOPPING=1") == 1


def test_worker_whose_daemon_does_not_come_back_ends_itself(daemon: Daemon) -> None:
    daemon.configure(worker={"orphan_timeout_s": 1.5})
    daemon.start_ready()
    daemon.kill()
    time.sleep(0.5)
    assert living(), "not at once: a daemon may come back"
    wait_for(lambda: not living(), what="the worker ends itself")
    assert "no daemon comes back" in daemon.log.read_text()


def test_without_a_cgroup_of_its_own_status_says_what_a_kill_is_worth(daemon: Daemon) -> None:
    daemon.start_ready()
    assert daemon.status()["daemon"]["tree_kill"] == "best effort"


# --- replaced in place --------------------------------------------------------------------------


def reexec(daemon: Daemon) -> subprocess.CompletedProcess[str]:
    return daemon.ctl("daemon-reexec")


def test_replaced_daemon_keeps_pid_and_worker(daemon: Daemon) -> None:
    daemon.start_ready()
    before = daemon.status()
    done = reexec(daemon)
    assert done.returncode == 0, done.stderr
    after = daemon.status()
    assert after["daemon"]["pid"] == before["daemon"]["pid"]
    assert after["daemon"]["since"] != before["daemon"]["since"]
    assert f"the worker (pid {before['worker']['pid']}) went on" in done.stdout
    assert daemon.says("hello") == "fake: hello"
    assert daemon.started() == 1


def test_requests_of_every_moment_are_answered_while_the_daemon_is_replaced(
    daemon: Daemon,
) -> None:
    daemon.play(Behaviour(tokens_per_s=20))
    daemon.start_ready()
    answers: list[str] = []
    is_over = threading.Event()

    def ask() -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            answers.append(f"{daemon.says(str(number))} {number}")

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    for _ in range(3):
        time.sleep(0.3)
        assert reexec(daemon).returncode == 0
    time.sleep(0.3)
    is_over.set()
    for thread in asking:
        thread.join(15)
    assert len(answers) > 12
    wrong = [answer for answer in answers if answer.split()[1] != answer.split()[2]]
    assert not wrong


def test_stream_under_way_is_finished_before_the_daemon_is_replaced(daemon: Daemon) -> None:
    daemon.play(Behaviour(tokens_per_s=20))
    daemon.start_ready()
    connection = daemon.gateway()
    body = chat_body("long", stream=True, max_tokens=30, ignore_eos=True)
    connection.request(
        "POST", "/v1/chat/completions", body, headers={"Content-Type": "application/json"}
    )
    response = connection.getresponse()
    response.read(10)
    done = reexec(daemon)
    assert done.returncode == 0, done.stderr
    assert response.read().endswith(b"data: [DONE]\n\n")


def test_replacements_leak_no_descriptor(daemon: Daemon) -> None:
    daemon.start_ready()
    assert daemon.process is not None
    place = Path(f"/proc/{daemon.process.pid}/fd")
    counts = []
    for _ in range(4):
        assert reexec(daemon).returncode == 0
        daemon.wait_phase("ready")
        time.sleep(0.3)  # what the start opens for a moment
        counts.append(len(list(place.iterdir())))
    assert max(counts) - min(counts) <= 1, counts


def test_stop_ends_a_worker_that_an_earlier_image_of_the_daemon_started(daemon: Daemon) -> None:
    daemon.start_ready()
    assert reexec(daemon).returncode == 0
    assert reexec(daemon).returncode == 0
    assert daemon.stop() == 0
    assert living() == []


def test_crash_after_a_replacement_is_told_with_its_exit_status(daemon: Daemon) -> None:
    daemon.start_ready()
    assert reexec(daemon).returncode == 0
    os.kill(daemon.main_pid(), signal.SIGSEGV)
    wait_for(daemon.cause, what="the death is noticed")
    assert "signal 11" in daemon.status()["last_failure"]["evidence"]
    daemon.wait_generation(2)


def test_daemon_that_cannot_be_loaded_does_not_replace_this_one(
    daemon: Daemon, tmp_path: Path
) -> None:
    # What an interrupted upgrade leaves: the new one lacks a module.
    broken = tmp_path / "broken"
    broken.mkdir()
    daemon.environment["PYTHONPATH"] = f"{broken}:{daemon.environment['PYTHONPATH']}"
    daemon.start_ready()
    (broken / "sdnotify.py").write_text("raise ImportError('half of it is missing')\n")
    refused = reexec(daemon)
    assert refused.returncode == 1
    assert "would not start" in refused.stderr
    (broken / "sdnotify.py").unlink()
    assert daemon.says("still me") == "fake: still me"
    log = daemon.log.read_text()
    daemon.log.write_text(log.replace("Traceback", "(expected)"))


def test_settings_that_would_end_the_next_daemon_are_refused_before(daemon: Daemon) -> None:
    daemon.start_ready()
    good = (daemon.config / "cahoots-vllm.toml").read_text()
    (daemon.config / "cahoots-vllm.toml").write_text("[worker\n")
    refused = reexec(daemon)
    assert refused.returncode == 1
    assert "mend the settings" in refused.stderr
    assert daemon.says("still me") == "fake: still me"
    (daemon.config / "cahoots-vllm.toml").write_text(good)
    assert reexec(daemon).returncode == 0


def test_request_that_waits_for_a_model_is_answered_by_it_over_a_replacement(
    daemon: Daemon,
) -> None:
    daemon.configure(gateway={"drain_timeout_s": 1.0})
    daemon.play(Behaviour(delays_s={"load": 4}))
    daemon.start()
    wait_for(lambda: daemon.status()["worker"], what="a worker")
    answers: list[str] = []

    def ask() -> None:
        answers.append(daemon.says("held"))

    asking = threading.Thread(target=ask)
    asking.start()
    daemon.wait_held(1)
    assert reexec(daemon).returncode == 0
    asking.join(15)
    assert answers == ["fake: held"]
    assert daemon.started() == 1


def test_swap_that_is_to_be_saved_is_done_before_a_replacement(daemon: Daemon) -> None:
    daemon.play(b={"delays_s": {"load": 3}})
    daemon.start_ready()
    operation = daemon.api("POST", "/v1/swap-model", {"model": "org/b", "save": True})
    assert reexec(daemon).returncode == 0
    assert "LOCAL_LLM_MODEL=org/b" in (daemon.root / ".env").read_text()
    assert operation["state"] == "running"
    assert daemon.says("b", "org/b") == "fake: b"


def test_what_was_stopped_by_hand_stays_stopped_over_a_replacement(daemon: Daemon) -> None:
    daemon.start_ready()
    daemon.change("stop")
    assert reexec(daemon).returncode == 0
    time.sleep(1)
    assert (daemon.phase(), daemon.started()) == ("off", 1)
    daemon.change("start")
    assert daemon.started() == 2


def test_second_replacement_does_not_hurry_the_first(daemon: Daemon) -> None:
    daemon.configure(gateway={"drain_timeout_s": 30.0})
    daemon.play(Behaviour(tokens_per_s=10))
    daemon.start_ready()
    connection = daemon.gateway()
    body = chat_body("long", stream=True, max_tokens=40, ignore_eos=True)
    connection.request(
        "POST", "/v1/chat/completions", body, headers={"Content-Type": "application/json"}
    )
    response = connection.getresponse()
    response.read(10)
    first = threading.Thread(target=reexec, args=(daemon,))
    first.start()
    wait_for(lambda: "becoming the daemon" in daemon.log.read_text())
    second = reexec(daemon)
    assert (second.returncode, "already" in second.stderr) == (1, True)
    assert response.read().endswith(b"data: [DONE]\n\n")
    first.join(15)


@pytest.mark.parametrize("moment", ["finishing", "ending"])
def test_signal_during_a_replacement_is_not_lost(daemon: Daemon, moment: str) -> None:
    daemon.configure(gateway={"drain_timeout_s": 1.0})
    daemon.play(Behaviour(tokens_per_s=10))
    daemon.start_ready()
    connection = daemon.gateway()
    body = chat_body("long", stream=True, max_tokens=200, ignore_eos=True)
    connection.request(
        "POST", "/v1/chat/completions", body, headers={"Content-Type": "application/json"}
    )
    connection.getresponse().read(10)
    daemon.api("POST", "/v1/daemon-reexec")
    wait_for(lambda: "becoming the daemon" in daemon.log.read_text())
    if moment == "ending":
        time.sleep(1.5)  # the request is being cut off, nobody waits for signals any more
    assert daemon.stop() == 0
    assert living() == []


# --- killed at an odd moment --------------------------------------------------------------------

_KILLED = """
import os, signal, sys
if "cahoots_vllm.main" in " ".join(sys.orig_argv) and os.path.exists({flag!r}):
    import cahoots_vllm.control.effects as effects

    def killed(*_):
        os.unlink({flag!r})
        os.kill(os.getpid(), signal.SIGKILL)

    effects.mark_worker = killed
"""


def test_worker_that_nobody_had_noted_is_ended_by_the_next_daemon(
    daemon: Daemon, manager: ServiceManager, tmp_path: Path
) -> None:
    """The daemon is killed between the worker's start and its first note of it."""
    flag = tmp_path / "flag"
    flag.touch()
    (tmp_path / "sitecustomize.py").write_text(_KILLED.format(flag=str(flag)))
    daemon.environment["PYTHONPATH"] = f"{tmp_path}:{daemon.environment['PYTHONPATH']}"
    daemon.play(Behaviour(delays_s={"load": 2}))
    assert daemon.launch().wait(15) == -signal.SIGKILL
    daemon.process = None
    unknown = [pid for pid in living() if "vllm" in process_tree.title(pid)]
    assert unknown
    daemon.start_ready()
    assert not set(unknown) & set(living())
    assert manager.names().count("output-1") == 1


@pytest.mark.usefixtures("manager")
def test_hidden_process_of_a_worker_that_cannot_be_gone_on_with_is_ended(daemon: Daemon) -> None:
    daemon.play(Behaviour(setsid_grandchildren=1))
    daemon.start_ready()
    tree, main = daemon.tree_pids(), daemon.main_pid()
    daemon.kill()
    os.kill(main, signal.SIGKILL)
    (daemon.runtime / "handover.json").write_text("{")
    daemon.start_ready()
    assert not set(tree) & set(living())


# --- what systemd is told -----------------------------------------------------------------------


def test_watchdog_is_fed_only_while_the_daemon_moves(
    daemon: Daemon, manager: ServiceManager
) -> None:
    daemon.environment["WATCHDOG_USEC"] = "1000000"
    daemon.start_ready()
    wait_for(lambda: manager.said("WATCHDOG=1") >= 3)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)
    time.sleep(0.3)
    fed = manager.said("WATCHDOG=1")
    time.sleep(1.2)
    assert manager.said("WATCHDOG=1") == fed
    daemon.process.send_signal(signal.SIGCONT)
    wait_for(lambda: manager.said("WATCHDOG=1") > fed)


@pytest.mark.parametrize("provider", ["local", "no such provider!"])
def test_reload_is_told_with_its_time_and_its_end(
    daemon: Daemon, manager: ServiceManager, provider: str
) -> None:
    daemon.start_ready()
    daemon.write_env(LLM_PROVIDER=provider)
    daemon.ctl("reload", "--no-wait")
    wait_for(lambda: manager.said("RELOADING=1") == manager.said("READY=1") - 1 > 0)
    told = next(m for m in manager.messages if "RELOADING=1" in m)
    moment = int(told.partition("MONOTONIC_USEC=")[2])
    assert 0 < time.monotonic() - moment / 1e6 < 15


def test_long_drain_asks_for_more_time(daemon: Daemon, manager: ServiceManager) -> None:
    daemon.play(Behaviour(tokens_per_s=10))
    daemon.start_ready()
    connection = daemon.gateway()
    body = chat_body("long", stream=True, max_tokens=10, ignore_eos=True)
    connection.request(
        "POST", "/v1/chat/completions", body, headers={"Content-Type": "application/json"}
    )
    connection.getresponse().read(10)
    assert daemon.stop() == 0
    assert any("EXTEND_TIMEOUT_USEC=" in message for message in manager.messages)
