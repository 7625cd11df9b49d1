"""The sandbox is really on around the real engine, which answers in it."""

import pytest

from system.conftest import TOKEN
from system.service import UNIT, Service

_EXPOSURE = 2.2


@pytest.fixture(params=["daemon", "API server", "engine"])
def pid(service: Service, request: pytest.FixtureRequest) -> int:
    """The daemon's process, the worker's first and the one that runs the model."""
    if request.param == "daemon":
        return service.machine.main_pid()
    if request.param == "API server":
        return service.worker_pid()
    return next(p for p, title in service.processes().items() if "EngineCore" in title)


def test_exposure_is_as_low_as_the_engine_allows(service: Service) -> None:
    said = service.machine.say("systemd-analyze", "security", "--no-pager", UNIT).splitlines()[-1]
    print(f"\n    {said}")  # noqa: T201 (a figure, not a log)
    assert float(said.partition(f"{UNIT}: ")[2].split()[0]) <= _EXPOSURE


def test_no_capability_no_new_privileges_and_a_system_call_filter(
    service: Service, pid: int
) -> None:
    rows = service.machine.read(f"/proc/{pid}/status").splitlines()
    status = dict(row.split(":\t", 1) for row in rows if ":\t" in row)
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"  # SECCOMP_MODE_FILTER
    assert {int(status[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}


@pytest.mark.parametrize(
    ("script", "is_allowed"),
    [
        ("touch /usr/probe", False),
        ("touch /etc/probe", False),
        ("test -e /home/somebody", False),
        ("touch /etc/cahoots-vllm/probe && rm /etc/cahoots-vllm/probe", True),
        ("touch /var/cache/cahoots-vllm/tmp/probe /dev/shm/probe && rm /dev/shm/probe", True),
    ],
)
def test_worker_sees_and_writes_only_what_is_its_business(
    service: Service, script: str, *, is_allowed: bool
) -> None:
    machine = service.machine
    machine.run(["mkdir", "-p", "/home/somebody"])
    # As root, which owns all of it: what refuses is the worker's mount namespace.
    enter = ["nsenter", "--mount", f"--target={service.worker_pid()}", "--"]
    done = machine.run([*enter, "sh", "-c", script], check=False)
    assert (done.returncode == 0) is is_allowed, done.stderr


def test_private_tmp_is_not_the_hosts_and_the_worker_does_not_depend_on_it(
    service: Service,
) -> None:
    machine, environment = service.machine, _environment(service)
    machine.write("/tmp/of-the-host", "")  # noqa: S108 (a container's)
    looked = ["nsenter", "--mount", f"--target={service.worker_pid()}", "--", "ls", "/tmp"]  # noqa: S108 (as above)
    assert "of-the-host" not in machine.say(*looked)
    # systemd empties the private /tmp when the daemon restarts.
    assert environment["TMPDIR"] == "/var/cache/cahoots-vllm/tmp"
    assert environment["HOME"] == "/var/cache/cahoots-vllm/home"


def test_worker_gets_the_token_of_the_credential_and_nothing_of_systemds(service: Service) -> None:
    environment = _environment(service)
    assert environment["HF_TOKEN"] == TOKEN
    own = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", "CREDENTIALS_DIRECTORY", "INVOCATION_ID")
    assert not [name for name in environment if name.startswith(own)]


def test_token_is_shown_by_its_origin_only(service: Service) -> None:
    shown = service.ctl("config", "show", check=True).stdout
    assert "the credential cahoots-vllm.huggingface_api_key" in shown
    everything = [
        shown,
        service.ctl("status", "--json").stdout,
        service.ctl("logs").stdout,
        service.machine.messages("--boot"),
        service.machine.say("systemctl", "show", UNIT),
        service.machine.say("ps", "-eo", "args"),
    ]
    assert not [text for text in everything if TOKEN in text]


def _environment(service: Service) -> dict[str, str]:
    raw = service.machine.read(f"/proc/{service.worker_pid()}/environ")
    return dict(pair.split("=", 1) for pair in raw.split("\0") if "=" in pair)
