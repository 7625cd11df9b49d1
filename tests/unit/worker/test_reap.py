"""Who is ended after the daemon: only where systemd will not start another one."""

import os
import subprocess
from pathlib import Path

import pytest

from cahoots_vllm.host.process_tree import read_process, session_processes, title
from cahoots_vllm.worker.reap import comes_back, end_tree


# As ExecStopPost= was seen to find it under systemd 252.
@pytest.mark.parametrize(
    ("job", "environ", "is_coming"),
    [
        ("restart", {"SERVICE_RESULT": "success", "EXIT_STATUS": "0"}, True),
        ("stop", {"SERVICE_RESULT": "success", "EXIT_STATUS": "0"}, False),
        ("stop", {"SERVICE_RESULT": "timeout", "EXIT_STATUS": "KILL"}, False),
        ("", {"SERVICE_RESULT": "signal", "EXIT_STATUS": "KILL"}, True),
        ("", {"SERVICE_RESULT": "watchdog", "EXIT_STATUS": "ABRT"}, True),
        ("", {"SERVICE_RESULT": "exit-code", "EXIT_STATUS": "1"}, True),
        ("", {"SERVICE_RESULT": "exit-code", "EXIT_STATUS": "78"}, False),
        ("", {"SERVICE_RESULT": "success", "EXIT_STATUS": "0"}, False),
        (None, {"SERVICE_RESULT": "success", "EXIT_STATUS": "0"}, False),
        (None, {"SERVICE_RESULT": "signal", "EXIT_STATUS": "KILL"}, True),
        (None, {}, False),
    ],
)
def test_worker_is_left_only_where_another_daemon_comes(
    job: str | None, environ: dict[str, str], *, is_coming: bool
) -> None:
    assert comes_back(job, environ) is is_coming


def test_tree_without_a_cgroup_is_ended_with_its_other_sessions() -> None:
    script = "setsid sleep 60 & sleep 60 & wait"
    leader = subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True)
    row = read_process(leader.pid)
    assert row is not None
    sleeper = "sleep 60"
    while sum(title(p.pid) == sleeper for p in session_processes(leader.pid, row.started)) < 2:
        assert leader.poll() is None
    end_tree(None, leader.pid, row.started)
    leader.wait(5)
    assert session_processes(leader.pid, row.started) == []


def test_younger_process_under_the_same_pid_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["/bin/sleep", "60"], start_new_session=True, cwd=tmp_path)
    row = read_process(stranger.pid)
    assert row is not None
    end_tree(None, stranger.pid, row.started + 1)
    assert stranger.poll() is None
    os.kill(stranger.pid, 9)
    stranger.wait(5)
