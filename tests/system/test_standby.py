"""The standby in the sandbox of the unit: forks, cgroups and what systemd sees of them."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from system.machine import wait_for
from system.service import UNIT, USER, Service
from system.stand_in import StandIn

pytestmark = pytest.mark.timeout(600)
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
WEIGHTS_BYTES = 269_060_552  # SmolLM2-135M's


def _warm(service: Service) -> int | None:
    standby = service.status()["standby"]
    assert standby["why"] is None, standby
    return int(standby["pid"]) if standby["private_memory"] is not None else None


def test_crash_is_answered_by_the_standby(service: Service) -> None:
    machine = service.machine
    generation = service.wait_ready()["worker"]["generation"]
    standby = wait_for(lambda: _warm(service), 180)
    assert machine.say("ps", "-o", "user=", "-p", str(standby)) == USER
    assert "/standby-" in machine.read(f"/proc/{standby}/cgroup")
    processes = service.processes()
    engine = next(pid for pid, title in processes.items() if title.startswith("VLLM::EngineCore"))
    begun = time.monotonic()
    machine.run(["kill", "-KILL", str(engine)])
    assert "Paris" in service.says()
    seconds = time.monotonic() - begun
    print(f"\n    from SIGKILL of EngineCore to the answer: {seconds:.1f} s")  # noqa: T201 (a figure, not a log)
    after = service.wait_ready(after=generation)
    assert after["worker"]["pid"] == standby
    for pid in service.processes():
        title = service.processes().get(pid, "")
        if pid == standby or title.startswith("VLLM::"):
            assert f"/worker-{generation + 1}" in machine.read(f"/proc/{pid}/cgroup"), title
    assert machine.read(f"/proc/{standby}/oom_score_adj").strip() == "0"
    if "[never]" not in SETTING.read_text():
        wait_for(lambda: _huge_bytes(service) > WEIGHTS_BYTES, 60, what="weights in huge pages")


def _huge_bytes(service: Service) -> int:
    worker = next(p for p, t in service.processes().items() if t.startswith("VLLM::Worker"))
    lines = service.machine.read(f"/proc/{worker}/smaps_rollup").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("AnonHuge"))


def _adoptions(service: Service, standby: int) -> int:
    said = service.machine.messages(f"--unit={UNIT}")
    return said.count(f"standby adopted: the last daemon's, pid {standby}")


def _is_adopted(service: Service, standby: int, count: int) -> bool:
    return _adoptions(service, standby) == count


def _adopt(service: Service, standby: int) -> None:
    """Let three daemons go on with this standby."""
    commands = (
        ["systemctl", "restart", UNIT],
        ["systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT],
        ["cahootsctl", "daemon-reexec"],
    )
    # One that was begun as its setting was read may have come here from another daemon already.
    for count, command in enumerate(commands, start=_adoptions(service, standby) + 1):
        service.machine.run(command)
        wait_for(partial(_is_adopted, service, standby, count), 60, what=str(command))
        found = service.status()["standby"]
        assert (found["state"], found["pid"], found["forks"]) == ("warm", standby, True), command
        assert "/standby-" in service.machine.read(f"/proc/{standby}/cgroup")


def _crash(service: Service) -> None:
    engine = next(p for p, t in service.processes().items() if t.startswith("VLLM::EngineCore"))
    service.machine.run(["kill", "-KILL", str(engine)])


def test_standby_of_before_a_restart_answers_the_next_crash(service: Service) -> None:
    generation = service.wait_ready()["worker"]["generation"]
    standby = wait_for(lambda: _warm(service), 180)
    _adopt(service, standby)
    _crash(service)
    assert "Paris" in service.says()
    assert service.wait_ready(after=generation)["worker"]["pid"] == standby
    assert f"/worker-{generation + 1}" in service.machine.read(f"/proc/{standby}/cgroup")


@pytest.fixture
def standing_by(stand_in: StandIn) -> Iterator[StandIn]:
    """The service with the stand-in engine, which keeps standbys."""
    stand_in.keep_standby("on")
    stand_in.machine.systemctl("restart", UNIT)
    stand_in.wait_ready()
    yield stand_in
    stand_in.keep_standby("off")
    stand_in.machine.systemctl("restart", UNIT, check=False)


def test_standby_is_adopted_whole_and_ends_with_the_service(standing_by: StandIn) -> None:
    generation = standing_by.wait_ready()["worker"]["generation"]
    standby = wait_for(lambda: _warm(standing_by), 60)
    _adopt(standing_by, standby)
    _crash(standing_by)
    assert standing_by.wait_ready(after=generation)["worker"]["pid"] == standby
    assert f"/worker-{generation + 1}" in standing_by.machine.read(f"/proc/{standby}/cgroup")
    wait_for(lambda: _warm(standing_by), 60)
    standing_by.machine.systemctl("restart", UNIT)
    standing_by.machine.systemctl("stop", UNIT)
    assert standing_by.processes() == {}
    assert standing_by.machine.show(UNIT, "NFileDescriptorStore") == "0"
    standing_by.revive()


def test_standby_that_died_while_no_daemon_ran_is_let_go_of(standing_by: StandIn) -> None:
    machine = standing_by.machine
    standby = wait_for(lambda: _warm(standing_by), 60)
    kept = int(machine.show(UNIT, "NFileDescriptorStore"))
    daemon = machine.show(UNIT, "MainPID")
    machine.run(["kill", "-KILL", daemon, str(standby)])
    other = wait_for(lambda: _warm(standing_by) if _is_back(standing_by, daemon) else None, 60)
    assert other != standby
    assert int(machine.show(UNIT, "NFileDescriptorStore")) == kept


def _is_back(service: Service, daemon: str) -> bool:
    now = service.machine.show(UNIT, "MainPID")
    return now not in {"0", daemon} and service.status().get("state") == "ready"
