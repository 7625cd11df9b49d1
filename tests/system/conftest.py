"""Machines with the service installed. One boot and one start of the real engine serve them all."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.scripted_gpus import Gpu
from system import package
from system.container import booted
from system.machine import Machine
from system.service import DEMO, UNIT, Service
from system.stand_in import StandIn, put_in

_HERE = Path(__file__).parent
_TIMEOUT_S = 300
_MODEL_PLACE = f"/srv/models/{DEMO}"
_PROFILE = f"""\
name = "{DEMO}"
source = "{_MODEL_PLACE}"
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
    items.sort(key=lambda item: item.path.name == "test_removal.py")


@pytest.fixture(scope="session")
def engine_layer() -> Path:
    """Return the directory that is /opt/cahoots-vllm in a machine: the real CPU engine."""
    given = os.environ.get("CAHOOTS_TEST_ENGINE_LAYER")
    path = Path(given) if given else Path.home() / ".cache/cahoots-vllm/system-test/opt"
    if not (path / "engine" / "bin" / "vllm").exists():
        pytest.fail("no engine for the machines: run packaging/test --tier system")
    return path


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """Return the directory of the demo model."""
    given = os.environ.get("CAHOOTS_TEST_MODEL")
    path = Path(given) if given else Path.home() / f".cache/cahoots-vllm/models/{DEMO}"
    if not (path / "config.json").exists():
        pytest.fail("no demo model: run packaging/test --tier system")
    return path


@pytest.fixture(scope="session")
def machine(engine_layer: Path, demo_model: Path) -> Iterator[Machine]:
    """A machine with the package installed, nothing started."""
    with booted({engine_layer: "/opt/cahoots-vllm", demo_model: _MODEL_PLACE}) as one:
        # safetensors writes files that only their owner may read: root, here.
        one.run(["chmod", "-R", "a+rX", _MODEL_PLACE])
        package.install(one)
        yield one


@pytest.fixture(scope="session")
def installed(machine: Machine) -> Service:
    """The service configured for the real engine and the demo model, not started."""
    service = Service(machine)
    service.write_config("models.d/demo.toml", _PROFILE)
    service.write_env()
    return service


@pytest.fixture(scope="session")
def started(installed: Service) -> Service:
    """The service after its first `systemctl start`, its model ready."""
    begun = time.monotonic()
    installed.machine.systemctl("start", UNIT)
    installed.seconds["systemctl start"] = time.monotonic() - begun
    waited = installed.ctl("wait", "--timeout", "240")
    installed.seconds["cahootsctl wait"] = time.monotonic() - begun
    assert waited.returncode == 0, installed.said()
    return installed


@pytest.fixture
def service(started: Service) -> Service:
    """The running service with a ready worker, whatever the test before has done to it."""
    if started.machine.show(UNIT, "ActiveState") != "active":
        started.machine.run(["systemctl", "reset-failed", UNIT], check=False)
        started.machine.systemctl("start", UNIT)
    started.wait_ready()
    return started


@pytest.fixture(scope="session")
def stand_in_machine() -> Iterator[Machine]:
    """A machine with the unified hierarchy alone, for the stand-in engine."""
    with booted(is_unified=True) as one:
        package.install(one)
        yield one


@pytest.fixture(scope="session")
def _stand_in(stand_in_machine: Machine) -> StandIn:
    return put_in(stand_in_machine)


@pytest.fixture
def stand_in(_stand_in: StandIn) -> StandIn:
    """The service with the stand-in engine, ready, whatever the test before has done to it."""
    _stand_in.show_gpus(Gpu())
    _stand_in.play()
    _stand_in.machine.run(["systemctl", "reset-failed", UNIT], check=False)
    _stand_in.machine.systemctl("start", UNIT)
    _stand_in.ctl("start")
    _stand_in.wait_ready(timeout_s=30)
    return _stand_in
