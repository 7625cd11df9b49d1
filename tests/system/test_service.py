"""Install, start, wait, "Paris": in the sandbox, as the service's own user."""

from system.machine import wait_for
from system.service import UNIT, Service


def test_start_returns_and_the_model_answers(service: Service) -> None:
    for what, seconds in service.seconds.items():
        print(f"\n    {what}: {seconds:.2f} s")  # noqa: T201 (a figure, not a log)
    assert service.machine.show(UNIT, "ActiveState") == "active"
    assert "Paris" in service.says()


def test_systemctl_status_shows_what_the_daemon_does(service: Service) -> None:
    def is_told() -> bool:
        return f'Status: "ready {service.model}"' in service.machine.say(
            "systemctl", "status", UNIT
        )

    wait_for(is_told, 5)
