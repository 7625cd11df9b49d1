"""Install, start, wait, "Paris": the real engine in the sandbox, as the service's own user."""

from system.machine import wait_for
from system.service import UNIT, USER, Service


def test_start_returns_and_the_model_answers(service: Service) -> None:
    for what, seconds in service.seconds.items():
        print(f"\n    {what}: {seconds:.2f} s")  # noqa: T201 (a figure, not a log)
    assert service.machine.show(UNIT, "ActiveState") == "active"
    assert "Paris" in service.says()


def test_daemon_and_worker_are_the_services_user(service: Service) -> None:
    processes = service.processes()
    assert len(processes) > 2, processes
    for pid in processes:
        assert service.machine.say("ps", "-o", "user=", "-p", str(pid)) == USER


def test_systemctl_status_shows_what_the_daemon_does(service: Service) -> None:
    def is_told() -> bool:
        return f'Status: "ready {service.model}"' in service.machine.say(
            "systemctl", "status", UNIT
        )

    wait_for(is_told, 5)


def test_nothing_of_the_unit_is_unknown_to_this_systemd(service: Service) -> None:
    units = [f"/usr/lib/systemd/system/{name}" for name in _units(service)]
    assert len(units) == 4
    verified = service.machine.run(["systemd-analyze", "verify", *units])
    assert verified.stderr == ""


def _units(service: Service) -> list[str]:
    listed = service.machine.say(
        "systemctl", "list-unit-files", "--plain", "--no-legend", "cahoots*"
    )
    return [row.split()[0] for row in listed.splitlines()]
