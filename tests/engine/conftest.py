"""One daemon on a real engine with a real model, shared by the tests of a module.

The engine and the model come from packaging/test: CAHOOTS_TEST_ENGINE, CAHOOTS_TEST_MODEL.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.cpu_group import cpu_group
from engine.daemon import make_tiny, running_daemon
from engine.harness import DEMO, TINY, Daemon

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def is_fair() -> Iterator[bool]:
    """Share the cores as in a service's cgroup, where one can be made."""
    with cpu_group() as is_made:
        yield is_made


@pytest.fixture(scope="session")
def engine() -> Path:
    """Return the real engine."""
    path = Path(os.environ.get("CAHOOTS_TEST_ENGINE") or ROOT / ".engine")
    if not (path / "bin" / "vllm").exists():
        pytest.fail("no engine: run packaging/test --tier engine")
    return path


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """Return the directory of the demo model."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    default = f"{cache}/cahoots-vllm/models/{DEMO}"
    path = Path(os.environ.get("CAHOOTS_TEST_MODEL") or default)
    if not (path / "config.json").exists():
        pytest.fail("no demo model: run packaging/test --tier engine")
    return path


@pytest.fixture(scope="session")
def tiny_model(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the second real model: a Qwen3 of two layers with random weights."""
    target = tmp_path_factory.mktemp("models") / TINY
    make_tiny(engine, target)
    return target


@pytest.fixture(scope="module")
def daemon(
    engine: Path, demo_model: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """Run the daemon until the module's tests are done; none of its processes may be left."""
    home, runtime = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("run")
    with running_daemon(home, runtime, engine, {DEMO: demo_model, TINY: tiny_model}) as one:
        yield one
