"""Stop, remove, purge: nothing of ours is left. The last tests of the tier: the service is gone."""

import pytest

from system.machine import wait_for
from system.package import NAME
from system.service import UNIT, USER, Service
from system.stand_in import StandIn


def left(service: Service) -> dict[str, str]:
    """Return what there is of the service, by kind, without what is empty."""
    machine = service.machine
    group = "/sys/fs/cgroup/{}system.slice/" + UNIT
    found = {
        "processes": machine.run(["ps", "-u", USER, "-o", "pid,args"], check=False).stdout,
        "cgroups": "".join(
            machine.run(["find", group.format(tree), "-type", "d"], check=False).stdout
            for tree in ("", "unified/", "systemd/")
        ),
        "sockets": machine.say("sh", "-c", "ss -lx | grep cahoots; ss -Hltn 'sport = :8001'; true"),
        "runtime": machine.run(["find", "/run/cahoots-vllm"], check=False).stdout,
        "shared memory": machine.say("find", "/dev/shm", "/dev/mqueue", "-user", USER),  # noqa: S108 (looked at)
        "System V": machine.say("sh", "-c", f"ipcs -a | grep {USER}; true"),
        "temporary": machine.say("find", "/tmp", "/var/tmp", "-user", USER),  # noqa: S108 (as above)
        "fd store": machine.show(UNIT, "NFileDescriptorStore").strip("0"),
    }
    found["processes"] = "\n".join(found["processes"].splitlines()[1:])
    return {kind: text for kind, text in found.items() if text.strip()}


@pytest.fixture
def running(service: Service) -> Service:
    """The real engine with traces of every kind that a test can look for."""
    assert {"processes", "cgroups", "sockets", "runtime"} <= left(service).keys()
    return service


def test_stop_leaves_nothing(running: Service) -> None:
    running.machine.systemctl("stop", UNIT)
    assert left(running) == {}
    assert running.machine.show(UNIT, "Result") == "success"


def test_stop_after_the_daemon_was_killed_leaves_nothing(running: Service) -> None:
    machine = running.machine
    machine.run(["kill", "-KILL", str(machine.main_pid())])
    machine.systemctl("stop", UNIT)
    # Where systemd was about to start it again, nobody else is told: the worker's minder sees it.
    wait_for(lambda: not left(running), 15, what=f"nothing left; there is {left(running)}")


def test_purge_of_the_running_service_leaves_nothing(stand_in: StandIn) -> None:
    machine = stand_in.machine
    machine.run(["apt-get", "purge", "--yes", NAME], env={"DEBIAN_FRONTEND": "noninteractive"})
    assert left(stand_in) == {}
    found = machine.say("find", "/etc", "/opt", "/usr", "/var", "-xdev", "-name", "*cahoots*")
    # What a person wrote, and the user, whose files may be anywhere.
    kept = ("/etc/cahoots-vllm", "/etc/systemd/system/", "/usr/lib/cahoots-test")
    assert [path for path in found.splitlines() if not path.startswith(kept)] == []
