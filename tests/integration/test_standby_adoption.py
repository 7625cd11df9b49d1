"""A standby outlives its daemon as the worker does, and never for nobody."""

import json
import os
import signal
from collections.abc import Callable

import pytest

from cahoots_vllm.host import process_tree
from fake_vllm import standby as fake

from .harness import Daemon, living, wait_for
from .service_manager import ServiceManager
from .standby_status import is_alive, standby, wait_none, wait_warm, wait_worker


@pytest.fixture
def served(daemon: Daemon, manager: ServiceManager) -> Daemon:
    """A service that serves and keeps standbys."""
    assert daemon.manager is manager
    daemon.configure("on")
    daemon.start_ready()
    return daemon


def kill(daemon: Daemon) -> None:
    """Let it come back as systemd lets it."""
    daemon.kill()
    daemon.start()


def replace(daemon: Daemon) -> None:
    """Let it become another one in place."""
    said = "becoming the daemon on disk"
    count = daemon.log.read_text().count(said)
    daemon.api("POST", "/v1/daemon-reexec", {})
    wait_for(lambda: daemon.log.read_text().count(said) > count)
    wait_for(lambda: daemon.log.read_text().count("listening at") > count + 1)


def stored(manager: ServiceManager) -> list[str]:
    return [name for name in manager.names() if name.startswith("standby-")]


@pytest.mark.parametrize("comes_back", [kill, replace])
def test_standby_answers_a_crash_of_the_next_daemons_worker(
    served: Daemon, manager: ServiceManager, comes_back: Callable[[Daemon], None]
) -> None:
    warm, first = wait_warm(served), served.main_pid()
    for _ in range(3):
        comes_back(served)
        # At once: what it said is known without asking.
        found = standby(served)
        assert (found["state"], found["pid"], served.main_pid()) == ("warm", warm, first)
        assert found["forks"] is True
    assert served.log.read_text().count(f"standby adopted: the last daemon's, pid {warm}") == 3
    assert stored(manager) == ["standby-1"]
    os.kill(served.pid_of("VLLM::EngineCore"), signal.SIGKILL)
    assert served.says("hello") == "fake: hello"
    wait_worker(served, warm)
    assert wait_warm(served, after=warm) != warm
    assert stored(manager) == ["standby-2"]
    assert "no standby is kept" not in served.log.read_text()


def test_standby_gets_warm_while_no_daemon_runs(served: Daemon) -> None:
    first = wait_warm(served)
    (served.engine / fake.FILE).write_text(fake.SLOW)
    served.change("restart")
    served.end_operations()
    wait_worker(served, first)
    warming = int(wait_for(lambda: standby(served)["pid"], what="there is a standby"))
    assert standby(served)["state"] == "warming"
    kill(served)
    assert (standby(served)["state"], standby(served)["pid"]) == ("warming", warming)
    served.kill()
    (served.engine / fake.FILE).unlink()
    served.start()
    assert wait_warm(served) == warming


def test_standby_is_the_worker_that_was_lost_with_the_daemon(served: Daemon) -> None:
    warm, tree = wait_warm(served), served.tree_pids()
    served.kill()
    for pid in set(tree) - {warm}:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: living() == [warm] or None)
    served.start()
    assert served.says("hello") == "fake: hello"
    wait_worker(served, warm)


def _turn_off(daemon: Daemon) -> None:
    daemon.configure("off")


def _install(daemon: Daemon) -> None:
    (next(daemon.engine.glob("lib/python3*/site-packages")) / "vllm_new").mkdir()


def _rotate(daemon: Daemon) -> None:
    daemon.write_env(HUGGINGFACE_API_KEY="hf_" + "n" * 30)


def _damage(daemon: Daemon) -> None:
    (daemon.runtime / "handover.json").write_text("{")


def _end_it(daemon: Daemon) -> None:
    os.kill(json.loads((daemon.runtime / "handover.json").read_text())["standby"]["pid"], 9)


@pytest.mark.parametrize("change", [_turn_off, _install, _rotate, _damage, _end_it])
def test_standby_of_no_use_to_the_next_daemon_is_ended(
    served: Daemon, manager: ServiceManager, change: Callable[[Daemon], None]
) -> None:
    warm = wait_warm(served)
    served.kill()
    change(served)
    served.start_ready()
    if change is _turn_off:
        wait_for(lambda: standby(served)["state"] == "off" or None)
        assert "standby adopted" not in served.log.read_text()
        left = 0
    else:
        wait_warm(served, after=warm)
        left = 1
    wait_for(lambda: not is_alive(warm) or None, what="the old one ends")
    wait_for(lambda: len(stored(manager)) == left or None, what=f"{left} in the store")
    assert "hf_nnn" not in served.log.read_text()


def test_no_secret_is_written_down_for_the_next_daemon(served: Daemon) -> None:
    token = "hf_" + "s" * 30
    served.write_env(HUGGINGFACE_API_KEY=token)
    served.change("reload")
    served.end_operations()
    wait_warm(served)
    text = (served.runtime / "handover.json").read_text()
    assert json.loads(text)["standby"]["warmth"] is not None
    assert token not in text


def test_foreign_process_under_the_remembered_pid_is_neither_taken_nor_ended(
    served: Daemon, manager: ServiceManager
) -> None:
    warm = wait_warm(served)
    served.kill()
    stranger = served.process_of_another()
    row = process_tree.read_process(stranger.pid)
    assert row is not None
    file = served.runtime / "handover.json"
    left = json.loads(file.read_text())
    left["standby"] |= {"pid": stranger.pid, "started": row.started}
    file.write_text(json.dumps(left))
    served.start()
    assert wait_warm(served) not in (warm, stranger.pid)
    wait_for(lambda: not is_alive(warm) or None, what="the real one ends: nobody has its socket")
    assert len(stored(manager)) == 1
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait(5)


def test_standby_ends_when_the_service_is_stopped_for_good(
    served: Daemon, manager: ServiceManager
) -> None:
    warm = wait_warm(served)
    kill(served)
    assert served.stop() == 0
    assert not is_alive(warm)
    wait_for(lambda: manager.names() == [], what="an empty store")
    assert list(served.runtime.iterdir()) == []


def test_standby_ends_when_its_daemon_is_not_started_again(
    served: Daemon, manager: ServiceManager
) -> None:
    warm = wait_warm(served)
    served.kill()
    assert is_alive(warm)
    for pid in set(living()) - {warm}:
        os.kill(pid, signal.SIGKILL)
    manager.forget()
    wait_for(lambda: not living() or None, what="nothing is left")


def test_standby_given_up_before_a_restart_is_not_found_by_it(
    served: Daemon, manager: ServiceManager
) -> None:
    warm = wait_warm(served)
    served.change("stop")
    served.end_operations()
    assert wait_none(served) == "no worker is wanted"
    assert not is_alive(warm)
    wait_for(lambda: stored(manager) == [], what="none in the store")
    kill(served)
    assert wait_none(served) == "no worker is wanted"
    assert "standby adopted" not in served.log.read_text()
