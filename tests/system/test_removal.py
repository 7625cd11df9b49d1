"""Stop, remove, purge: nothing of ours is left. Comes last: it takes the service away."""

import pytest

from system import package
from system.machine import Machine, wait_for
from system.service import UNIT, Service


def left(machine: Machine) -> list[str]:
    """Return what is left of a service that has stopped: processes, cgroups, sockets, memory."""
    script = (
        "ps -u cahoots-vllm -o pid=,args= ; "
        "find /sys/fs/cgroup -type d -name 'cahoots-vllm*.service' ; "
        "ss -H -ltnp 'sport = :8001' ; ss -H -lxp | grep cahoots ; "
        "find /dev/shm -user cahoots-vllm ; ls -d /run/cahoots-vllm ; ipcs -m | grep cahoots"
    )
    return machine.run(["sh", "-c", f"({script}) 2>/dev/null"], check=False).stdout.splitlines()


def test_stop_leaves_nothing(service: Service) -> None:
    machine = service.machine
    assert left(machine), "the check sees a running service"
    machine.systemctl("stop", UNIT)
    assert machine.show(UNIT, "Result") == "success"
    wait_for(lambda: not left(machine), 5, what=f"nothing is left, is: {left(machine)}")


def test_kill_and_stop_leave_nothing(service: Service) -> None:
    machine = service.machine
    machine.run(["sh", "-c", f"kill -KILL {machine.main_pid()}; systemctl stop {UNIT}"])
    wait_for(lambda: not left(machine), 20, what="nothing is left")


@pytest.mark.parametrize("what", ["remove", "purge"])
def test_removed_package_leaves_settings_and_a_purged_one_nothing(
    service: Service, what: str
) -> None:
    machine = service.machine
    machine.run(["dpkg", f"--{what}", package.NAME])
    wait_for(lambda: not left(machine), 5, what="nothing is left")
    assert not machine.exists("/usr/lib/cahoots-vllm")
    assert not machine.exists("/usr/bin/cahootsctl")
    places = ("/etc/cahoots-vllm/.env", "/var/lib/cahoots-vllm", "/var/cache/cahoots-vllm")
    assert [machine.exists(place) for place in places] == [what == "remove"] * 3
    if what == "remove":
        # An administrator who changes his mind finds everything as it was.
        package.install(machine, "next")
        machine.systemctl("start", UNIT)
        service.wait_ready()
