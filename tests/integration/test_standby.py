"""A warm standby: it becomes the next worker, and nothing that happens to it costs anything."""

import json
import os
import signal
from pathlib import Path

import pytest

from cahoots_vllm.host.process_info import read_environ
from fake_vllm import standby as fake

from .harness import Daemon, living, wait_for
from .standby_status import is_alive, standby, wait_none, wait_warm, wait_worker


@pytest.fixture
def served(daemon: Daemon) -> Daemon:
    """A daemon that serves and keeps standbys."""
    daemon.configure("on")
    daemon.start_ready()
    return daemon


def begin_by_a_standby(daemon: Daemon) -> int:
    """Start a daemon whose engine has had standbys; return the pid of one that warms on and on."""
    learned = daemon.cache / "vllm" / "0.32.0+cpu" / "standby-0.32.0+cpu.modules"
    learned.parent.mkdir(parents=True)
    learned.write_text("late\n")
    (daemon.engine / fake.FILE).write_text(fake.SLOW)
    daemon.configure("on")
    daemon.start()

    def standbys() -> list[int]:
        # The plain command would be a process, too.
        lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in living()}
        return [pid for pid, line in lines.items() if b"fake_vllm/standby.py" in line]

    pid = wait_for(standbys, what="there is a standby")[0]
    assert daemon.phase() == "starting", "it is no one's that waits beside a plain start"
    return pid


def test_first_start_is_a_standbys(daemon: Daemon) -> None:
    pid = begin_by_a_standby(daemon)
    (daemon.engine / fake.FILE).unlink()
    wait_worker(daemon, pid)
    assert daemon.says("hello") == "fake: hello"
    assert wait_warm(daemon, after=pid) != pid


def test_first_start_whose_standby_is_killed_is_a_plain_one(daemon: Daemon) -> None:
    pid = begin_by_a_standby(daemon)
    os.kill(pid, signal.SIGKILL)
    assert daemon.says("hello") == "fake: hello"
    assert daemon.main_pid() != pid
    assert "no standby is kept for the next start: the last one ended" in daemon.log.read_text()


def test_daemon_stopped_while_the_first_standby_gets_warm_leaves_nothing(daemon: Daemon) -> None:
    begin_by_a_standby(daemon)
    assert daemon.stop() == 0
    assert living() == []


def test_daemon_killed_while_the_first_standby_gets_warm_starts_anew(daemon: Daemon) -> None:
    pid = begin_by_a_standby(daemon)
    daemon.kill()
    (daemon.engine / fake.FILE).unlink()
    wait_for(lambda: not is_alive(pid) or None, what="the standby ends")
    daemon.start()
    assert daemon.says("hello") == "fake: hello"


def test_crash_is_answered_by_the_standby(served: Daemon) -> None:
    warm = wait_warm(served)
    first = served.main_pid()
    os.kill(served.pid_of("VLLM::EngineCore"), signal.SIGKILL)
    assert served.says("hello") == "fake: hello"
    wait_worker(served, warm)
    mark = read_environ(warm)["CAHOOTS_VLLM_WORKER"]
    assert mark.endswith("#2"), "an adopting daemon would know it"
    assert Path(f"/proc/{warm}/oom_score_adj").read_text().strip() == "0"
    next_one = wait_warm(served, after=warm)
    assert next_one not in (first, warm)
    assert Path(f"/proc/{next_one}/oom_score_adj").read_text().strip() == "1000"


def test_swap_and_restart_are_answered_by_standbys(served: Daemon) -> None:
    first = wait_warm(served)
    served.swap("org/b")
    assert served.says("hello", model="org/b") == "fake: hello"
    wait_worker(served, first)
    second = wait_warm(served, after=first)
    served.change("restart")
    served.end_operations()
    wait_worker(served, second)
    assert served.started() == 3


def test_output_of_a_standby_is_the_workers(served: Daemon) -> None:
    wait_warm(served)
    served.change("restart")
    served.end_operations()
    said = [e["text"] for e in served.log_entries(400) if e.get("generation") == 2]
    assert any("vLLM server version" in text for text in said)
    assert served.cause() is None


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        (fake.REFUSE, "refused: this engine is not known"),
        (fake.GARBAGE, "says what is no message"),
        (fake.WARM_GARBAGE, "says what is no message"),
        (fake.TOO_EARLY, "says what is no message"),
        (fake.FLOOD, "says what is no message"),
        (fake.DIE, "ended"),
    ],
)
def test_standby_of_no_use_is_not_tried_again_and_again(
    daemon: Daemon, trouble: str, why: str
) -> None:
    (daemon.engine / fake.FILE).write_text(trouble)
    daemon.configure("on")
    daemon.start_ready()
    assert why in wait_none(daemon)
    said = f"no standby is kept for the next start: the last one {why}"
    wait_for(lambda: said in daemon.log.read_text(), what="it is said")
    first = daemon.main_pid()
    daemon.change("restart")
    daemon.end_operations()
    assert daemon.says("hello") == "fake: hello"
    assert daemon.main_pid() != first


def test_what_a_standby_says_is_masked(daemon: Daemon) -> None:
    token = "hf_" + "s" * 30
    (daemon.engine / fake.FILE).write_text(fake.REFUSE)
    daemon.configure("on")
    daemon.write_env(HUGGINGFACE_API_KEY=token)
    daemon.start_ready()
    assert "not known***" in wait_none(daemon)
    assert token not in daemon.log.read_text()


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        (fake.SILENT, "did not start: no answer in time"),
        (fake.LATE_GARBAGE, "says what is no message"),
        (fake.LATE_DEATH, "ended"),
    ],
)
def test_standby_that_does_not_start_costs_no_start(daemon: Daemon, trouble: str, why: str) -> None:
    (daemon.engine / fake.FILE).write_text(trouble)
    daemon.configure("on")
    daemon.start_ready()
    warm = wait_warm(daemon)
    daemon.change("restart")
    daemon.end_operations()
    assert daemon.says("hello") == "fake: hello"
    assert daemon.main_pid() != warm
    assert not Path(f"/proc/{warm}").exists()
    assert f"the last one {why}" in daemon.log.read_text()


@pytest.mark.parametrize("trouble", ["", fake.HANG])
def test_standby_killed_at_any_time_costs_nothing(daemon: Daemon, trouble: str) -> None:
    (daemon.engine / fake.FILE).write_text(trouble)
    daemon.configure("on")
    daemon.start_ready()
    pid = wait_for(lambda: standby(daemon)["pid"], what="there is a standby")
    os.kill(pid, signal.SIGKILL)
    assert "ended" in wait_none(daemon)
    daemon.change("restart")
    daemon.end_operations()
    assert daemon.says("hello") == "fake: hello"


def test_standby_that_is_still_warming_is_waited_for(daemon: Daemon) -> None:
    (daemon.engine / fake.FILE).write_text(fake.HANG)
    daemon.configure("on")
    daemon.start_ready()
    pid = wait_for(lambda: standby(daemon)["pid"], what="there is a standby")
    assert standby(daemon)["state"] == "warming"
    restart = str(daemon.api("POST", "/v1/restart", {})["id"])
    wait_for(lambda: daemon.phase() == "starting" or None)
    os.kill(pid, signal.SIGKILL)
    daemon.wait_operation(restart)
    assert daemon.says("hello") == "fake: hello"


def test_start_that_is_stopped_leaves_no_standby(daemon: Daemon) -> None:
    (daemon.engine / fake.FILE).write_text(fake.SILENT)
    daemon.configure("on")
    daemon.start_ready()
    warm = wait_warm(daemon)
    daemon.api("POST", "/v1/restart", {})
    wait_for(lambda: daemon.phase() == "starting" or None)
    daemon.end_operations()
    daemon.change("stop")
    assert not Path(f"/proc/{warm}").exists()


def test_stopped_by_hand_there_is_none(served: Daemon) -> None:
    warm = wait_warm(served)
    served.change("stop")
    served.end_operations()
    assert wait_none(served) == "no worker is wanted"
    assert not Path(f"/proc/{warm}").exists()
    served.change("start")
    served.end_operations()
    wait_warm(served)


def test_setting_is_followed_by_a_reload(served: Daemon) -> None:
    warm = wait_warm(served)
    served.configure("off")
    served.change("reload")
    served.end_operations()
    wait_for(lambda: standby(served)["state"] == "off" or None)
    wait_for(lambda: not Path(f"/proc/{warm}").exists() or None)
    served.configure("on")
    served.change("reload")
    served.end_operations()
    wait_warm(served)
    assert served.status()["worker"]["generation"] == 1


def test_engine_installed_anew_gets_another_standby(served: Daemon) -> None:
    warm = wait_warm(served)
    packages = next(served.engine.glob("lib/python3*/site-packages"))
    (packages / "vllm_new").mkdir()
    new = wait_warm(served, after=warm)
    assert served.status()["worker"]["generation"] == 1
    os.kill(served.main_pid(), signal.SIGKILL)
    assert served.says("hello") == "fake: hello"
    wait_worker(served, new)


def test_rotated_token_gets_another_standby(served: Daemon) -> None:
    warm = wait_warm(served)
    served.write_env(HUGGINGFACE_API_KEY="hf_" + "n" * 30)
    served.change("reload")
    served.end_operations()
    new = wait_warm(served, after=warm)
    served.change("restart")
    served.end_operations()
    wait_worker(served, new)
    assert "hf_nnn" not in served.log.read_text()
    assert "hf_nnn" not in json.dumps(served.status())


def test_standby_ends_with_its_daemon_where_nobody_keeps_its_socket(served: Daemon) -> None:
    warm = wait_warm(served)
    assert served.process is not None
    served.kill()
    wait_for(lambda: not is_alive(warm) or None, what="the standby ends")
    served.start_ready()
    assert wait_warm(served) != warm


def test_worker_of_a_standby_is_found_again(served: Daemon) -> None:
    warm = wait_warm(served)
    served.change("restart")
    served.end_operations()
    wait_worker(served, warm)
    served.api("POST", "/v1/daemon-reexec", {})
    wait_for(lambda: "going on with the last daemon's worker" in served.log.read_text() or None)
    wait_worker(served, warm)
    assert served.says("hello") == "fake: hello"
