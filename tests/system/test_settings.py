"""Settings that cannot be used: at the start, and while a model serves."""

import re
from collections.abc import Iterator

import pytest

from system.machine import wait_for
from system.service import ENV_FILE, ETC, UNIT, USER
from system.stand_in import StandIn


@pytest.fixture
def stopped(stand_in: StandIn) -> Iterator[StandIn]:
    """The service, stopped; its good configuration comes back after the test."""
    stand_in.machine.systemctl("stop", UNIT)
    good = stand_in.machine.read("/etc/cahoots-vllm/cahoots-vllm.toml")
    yield stand_in
    stand_in.write_config("cahoots-vllm.toml", good)


def test_configuration_that_can_never_work_fails_the_unit_once(stopped: StandIn) -> None:
    machine = stopped.machine
    stopped.write_config("cahoots-vllm.toml", "[gateway]\nlisten = 7\n")

    started = machine.systemctl("start", UNIT, check=False)

    assert started.returncode != 0
    assert machine.show(UNIT, "ExecMainStatus") == "78"
    assert machine.show(UNIT, "ActiveState") == "failed"
    assert machine.show(UNIT, "NRestarts") == "0"
    said = machine.messages("--lines=20", f"--unit={UNIT}")
    assert "cahoots-vllm.toml, line 2" in said


def test_unit_starts_again_once_the_configuration_is_mended(stopped: StandIn) -> None:
    machine = stopped.machine
    good = machine.read("/etc/cahoots-vllm/cahoots-vllm.toml")
    stopped.write_config("cahoots-vllm.toml", "[nonsense]\n")
    assert machine.systemctl("start", UNIT, check=False).returncode != 0
    stopped.write_config("cahoots-vllm.toml", good)
    machine.systemctl("start", UNIT)
    stopped.wait_ready(timeout_s=30)


def test_reload_of_a_bad_env_file_fails_with_the_reason_and_touches_nothing(
    stand_in: StandIn,
) -> None:
    machine, before = stand_in.machine, stand_in.worker_pid()
    since = machine.say("date", "+%s.%N")
    good = machine.read(ENV_FILE)
    stand_in.write_config(".env", f"{good}LOCAL_LLM_URL=http://localhost:none/v1\n")

    refused = machine.systemctl("reload", UNIT, check=False)

    stand_in.write_config(".env", good)
    assert refused.returncode != 0
    said = machine.messages(f"--since=@{since}", f"--unit={UNIT}")
    assert f"{ENV_FILE}, line {len(good.splitlines()) + 1}" in said
    assert stand_in.worker_pid() == before
    assert machine.show(UNIT, "ActiveState") == "active"
    assert stand_in.says("hello") == "fake: hello"
    assert machine.systemctl("reload", UNIT).returncode == 0


def test_reload_of_another_model_swaps_and_of_another_port_does_not(stand_in: StandIn) -> None:
    machine, before = stand_in.machine, stand_in.worker_pid()
    since = machine.say("date", "+%s.%N")
    stand_in.write_env(LOCAL_LLM_URL="http://localhost:8002/v1")
    machine.systemctl("reload", UNIT)
    said = machine.messages(f"--since=@{since}", f"--unit={UNIT}")
    asking = {int(pid) for pid in re.findall(r"\(reload\) asked for by .*, pid (\d+)", said)}
    # Not the daemon alone, which watches the file.
    assert asking - {machine.main_pid()}
    wait_for(lambda: _listens(stand_in, 8002), 10)
    assert not _listens(stand_in, 8001)
    assert stand_in.worker_pid() == before

    stand_in.write_env(LOCAL_LLM_URL="http://localhost:8001/v1", LOCAL_LLM_MODEL="org/b")
    machine.systemctl("reload", UNIT)
    wait_for(lambda: stand_in.status()["model"]["serving"] == "org/b", 15)
    stand_in.write_env(LOCAL_LLM_MODEL="org/a")
    machine.systemctl("reload", UNIT)
    wait_for(lambda: stand_in.status()["model"]["serving"] == "org/a", 15)


def test_service_saves_the_model_and_cannot_touch_its_configuration(stand_in: StandIn) -> None:
    machine = stand_in.machine
    before = machine.read(ENV_FILE)
    assert stand_in.ctl("swap-model", "org/b", "--save").returncode == 0
    assert machine.read(ENV_FILE) == before.replace("MODEL=org/a", "MODEL=org/b")
    assert machine.say("stat", "--format=%U:%G %a", ENV_FILE) == f"{USER}:{USER} 640"
    # fs.protected_regular, which is the host's to set, refuses root no file in such a directory.
    assert machine.say("stat", "--format=%U:%G %a", ETC) == f"root:{USER} 750"
    for script in (
        f"echo >>{ETC}/cahoots-vllm.toml",
        f"mv {ETC}/models.d {ETC}/x",
        f"touch {ETC}/x",
    ):
        assert machine.run(["sh", "-c", script], user=USER, check=False).returncode != 0, script
    assert stand_in.ctl("swap-model", "org/a", "--save").returncode == 0
    assert machine.read(ENV_FILE) == before


def _listens(stand_in: StandIn, port: int) -> bool:
    try:
        return stand_in.machine.http("GET", "/health", port=port).status == 200
    except ConnectionError:
        return False
