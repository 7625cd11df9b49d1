"""Cahoots' own `.env`, in a home that the sandbox hides until an administrator shows it."""

from collections.abc import Iterator

import pytest

from system.machine import wait_for
from system.service import UNIT, USER
from system.stand_in import StandIn

_HOME, _CHECKOUT = "/home/alice", "/home/alice/cahoots"
_CONFIG = "/etc/cahoots-vllm/cahoots-vllm.toml"
_DROP_IN = f"/etc/systemd/system/{UNIT}.d/home.conf"


@pytest.fixture
def in_a_home(stand_in: StandIn) -> Iterator[StandIn]:
    """The service, stopped, told to read a `.env` that it may read; all as before at the end."""
    machine = stand_in.machine
    machine.systemctl("stop", UNIT)
    good, env = machine.read(_CONFIG), machine.read("/etc/cahoots-vllm/.env")
    machine.write(f"{_CHECKOUT}/.env", env)
    machine.run(["chmod", "755", _HOME, _CHECKOUT])
    stand_in.write_config("cahoots-vllm.toml", f'env_file = "{_CHECKOUT}/.env"\n{good}')
    yield stand_in
    stand_in.write_config("cahoots-vllm.toml", good)
    machine.run(["rm", "-rf", _HOME, _DROP_IN])
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", UNIT)


def test_hidden_env_file_fails_the_start_and_says_how_to_show_it(in_a_home: StandIn) -> None:
    machine = in_a_home.machine
    assert machine.systemctl("start", UNIT, check=False).returncode != 0
    assert machine.show(UNIT, "ExecMainStatus") == "78"
    said = machine.messages("--lines=20", f"--unit={UNIT}")
    assert f"cannot read .env {_CHECKOUT}/.env: no such file" in said
    assert f"BindReadOnlyPaths={_CHECKOUT}" in said


def test_shown_env_file_is_followed_as_editors_replace_it(in_a_home: StandIn) -> None:
    machine = in_a_home.machine
    machine.write(_DROP_IN, f"[Service]\nBindReadOnlyPaths={_CHECKOUT}\n")
    machine.write(f"{_HOME}/private", "")
    machine.systemctl("daemon-reload")
    machine.run(["systemctl", "reset-failed", UNIT], check=False)
    machine.systemctl("start", UNIT)
    in_a_home.wait_ready()

    env = machine.read(f"{_CHECKOUT}/.env")
    machine.write(f"{_CHECKOUT}/.env", env.replace("org/a", "org/b"))

    wait_for(lambda: in_a_home.status()["model"]["serving"] == "org/b", 15)
    looked = ["nsenter", "--mount", f"--target={in_a_home.worker_pid()}", "--", "ls", _HOME]
    assert machine.say(*looked) == "cahoots"
    saved = in_a_home.ctl("swap-model", "org/a", "--save")
    assert saved.returncode != 0
    assert "org/b" in machine.read(f"{_CHECKOUT}/.env")
    assert USER not in machine.say("ls", "-l", _CHECKOUT)
