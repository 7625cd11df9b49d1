"""Which unit we are, and what systemd is about to do with it."""

import os
from pathlib import Path

import pytest

from cahoots_vllm.host.systemd import Unit, active_state, own_unit, pending_job

UNIT = Unit("cahoots-vllm.service")


@pytest.mark.parametrize(
    ("rows", "unit"),
    [
        ("0::/system.slice/cahoots-vllm.service/daemon\n", UNIT),
        ("0::/system.slice/cahoots-vllm.service/.control\n", UNIT),
        ("9:name=systemd:/system.slice/cahoots-vllm.service\n4:memory:/\n0::/\n", UNIT),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/my.service\n",
            Unit("my.service", is_user=True),
        ),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", None),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/run.scope\n", None),
        ("4:memory:/system.slice/other.service\n0::/\n", None),
        ("0::/\n", None),
    ],
)
def test_unit_is_read_from_the_cgroup(tmp_path: Path, rows: str, unit: Unit | None) -> None:
    (tmp_path / "cgroup").write_text(rows)
    assert own_unit(tmp_path / "cgroup") == unit


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in systemctl's place; its text is what the test writes there."""
    program = tmp_path / "systemctl"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return program


def play(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


# As systemd 252 prints them.
@pytest.mark.parametrize(
    ("printed", "job"),
    [
        ("146 cahoots-vllm.service restart running", "restart"),
        ("254 cahoots-vllm.service stop running", "stop"),
        ("7 other.service stop running\n8 cahoots-vllm.service start waiting", "start"),
        ("7 other.service stop running", ""),
    ],
)
def test_job_is_the_units_own(systemctl: Path, printed: str, job: str) -> None:
    play(systemctl, f"cat <<'END'\n{printed}\nEND")
    assert pending_job(UNIT) == job


def test_no_job_and_no_answer_are_two_things(systemctl: Path) -> None:
    play(systemctl, "true")
    assert pending_job(UNIT) == ""
    play(systemctl, "echo 'Failed to connect to bus' >&2; exit 1")
    assert pending_job(UNIT) is None
    assert active_state(UNIT) is None
    play(systemctl, "echo ActiveState=activating")
    assert active_state(UNIT) == "activating"


def test_users_own_manager_is_asked_for_a_service_of_it(systemctl: Path) -> None:
    play(systemctl, 'echo "1 my.service $1 running"')
    assert pending_job(Unit("my.service", is_user=True)) == "--user"
