"""The worker outlives its daemon: killed, restarted, replaced; and ends where none comes back."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from cahoots_vllm.host import process_tree, shared_memory
from fake_vllm.script import Behaviour

from .harness import Daemon, living, wait_for
from .service_manager import ServiceManager


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


def test_daemon_that_cannot_go_on_with_a_worker_leaves_nothing_of_it(daemon: Daemon) -> None:
    """Without systemd nobody keeps what a worker is gone on with by."""
    daemon.play(Behaviour(shares_memory=True))
    daemon.start_ready()
    shared = shared_memory.mapped(daemon.tree_pids())
    assert shared
    daemon.kill()
    (daemon.runtime / "worker-1.log.1").touch()
    daemon.start_ready()
    assert {path.name for path in daemon.runtime.glob("worker-1.*")} == set()
    assert [name for name in shared if Path(name).exists()] == []
    assert daemon.stop() == 0
    assert list(daemon.runtime.iterdir()) == []


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
