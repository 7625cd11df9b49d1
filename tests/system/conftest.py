"""Machines with the package installed. One boot and one start of the real engine serve them all.

`service` is the real engine, on cgroups as this host has them; `stand_in` the scripted one, on the
unified hierarchy. Both are ready when a test gets them, whatever the test before has done.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.scripted_gpus import Gpu
from system.container import booted
from system.machine import Machine
from system.package import find_package, install
from system.prepare import layer
from system.service import DEMO, UNIT, Service
from system.stand_in import StandIn, put_in

_HERE = Path(__file__).parent
_TIMEOUT_S = 300
_MODELS = "/srv/models"
TOKEN = "hf_fromTheCredentialStore"  # noqa: S105 (no real one)
_PROFILE = f"""\
name = "{DEMO}"
source = "{_MODELS}/{DEMO}"
[options]
enforce-eager = true
max-model-len = 2048
kv-cache-memory-bytes = "256M"
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this tier time, and let those that take the service away come last."""
    for item in items:
        if item.path.is_relative_to(_HERE) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))
    items.sort(key=lambda item: item.path == _HERE / "test_removal.py")


@pytest.fixture(scope="session")
def package() -> Path:
    """Return the package under test."""
    found = find_package()
    if found is None:
        pytest.fail("no package: run packaging/test --tier system, or packaging/build-deb")
    return found


@pytest.fixture(scope="session")
def machine(package: Path) -> Iterator[Machine]:
    """A machine with the package, the real engine and the demo model; nothing started."""
    if not (layer() / "opt" / "engine").exists():
        pytest.fail("no engine for the machines: run packaging/test --tier system")
    lower = {layer() / "opt": "/opt/cahoots-vllm", layer() / "cache" / "models": _MODELS}
    with booted(lower) as one:
        install(one, package)
        yield one


@pytest.fixture(scope="session")
def installed(machine: Machine) -> Service:
    """The service configured for the real engine and the demo model, not started."""
    service = Service(machine)
    service.write_config("models.d/demo.toml", _PROFILE)
    service.write_env()
    machine.write("/etc/credstore/cahoots-vllm.huggingface_api_key", f"{TOKEN}\n", mode="0600")
    return service


@pytest.fixture(scope="session")
def started(installed: Service) -> Service:
    """The service after its first `systemctl start`, its model ready; its times are noted."""
    begun = time.monotonic()
    installed.machine.systemctl("start", UNIT)
    installed.seconds["systemctl start"] = time.monotonic() - begun
    waited = installed.ctl("wait", "--timeout", "240")
    installed.seconds["the model is ready"] = time.monotonic() - begun
    assert waited.returncode == 0, installed.said()
    return installed


@pytest.fixture
def service(started: Service) -> Service:
    """The service with the real engine, ready."""
    started.revive()
    return started


@pytest.fixture(scope="session")
def stand_in_machine(package: Path) -> Iterator[Machine]:
    """A machine for the stand-in engine."""
    with booted(is_unified=True) as one:
        install(one, package)
        yield one


@pytest.fixture(scope="session")
def _stand_in(stand_in_machine: Machine) -> StandIn:
    return put_in(stand_in_machine)


@pytest.fixture
def stand_in(_stand_in: StandIn) -> StandIn:
    """The service with the stand-in engine, one free GPU and org/a, ready."""
    _stand_in.show_gpus(Gpu())
    _stand_in.play()
    _stand_in.write_env(LOCAL_LLM_MODEL="org/a", LOCAL_LLM_URL="http://localhost:8001/v1")
    _stand_in.revive()
    return _stand_in
