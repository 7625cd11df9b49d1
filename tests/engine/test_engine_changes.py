"""The engine changes underneath a daemon that serves, and the service goes on."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.daemon import running_daemon
from engine.farm import install, plant, spoil
from engine.harness import TINY, Daemon, is_alive, tree, wait_for
from engine.test_standby import complete, wait_warm

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def farm(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(engine, tmp_path_factory.mktemp("farm") / "engine")


@pytest.fixture(scope="module")
def daemon(
    farm: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """Serve the tiny model with an engine of the tests' own."""
    home, runtime = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("run")
    with running_daemon(home, runtime, farm, {TINY: tiny_model}) as one:
        yield one


def kill_engine_core(daemon: Daemon) -> None:
    found = tree(daemon.process.pid)
    os.kill(next(p for p, t in found.items() if t.startswith("VLLM::EngineCore")), signal.SIGKILL)


def test_engine_installed_anew_gets_another_standby_and_a_crash_is_answered_by_it(
    daemon: Daemon, engine: Path, farm: Path
) -> None:
    daemon.wait_ready()
    before = wait_warm(daemon)
    expected = complete(daemon, TINY)
    install(engine, farm)
    old = before["standby"]["pid"]
    assert wait_for(lambda: not is_alive(old), 30), "the old standby has read files that are gone"
    now = wait_warm(daemon)
    assert now["worker"]["pid"] == before["worker"]["pid"], "the worker goes on"
    kill_engine_core(daemon)
    assert complete(daemon, TINY) == expected
    assert daemon.status()["worker"]["pid"] == now["standby"]["pid"]


def test_engine_that_a_standby_cannot_import_is_started_plainly(
    daemon: Daemon, engine: Path, farm: Path
) -> None:
    serving = daemon.wait_ready()["worker"]
    wait_warm(daemon)
    expected = complete(daemon, TINY)
    spoil(farm, "sys.argv[0].endswith('launcher.py')")

    def why() -> str:
        return str(daemon.status()["standby"]["why"])

    refused = "the last one refused: cannot import vLLM: ImportError: spoilt"
    assert wait_for(lambda: why().startswith(f"{refused}; another is tried in"), 60), why()
    assert f"no standby is kept for the next start: {refused}" in daemon.log.read_text()
    assert complete(daemon, TINY) == expected
    kill_engine_core(daemon)
    assert complete(daemon, TINY) == expected, "by a plain start"
    assert daemon.status()["worker"]["generation"] == serving["generation"] + 1
    install(engine, farm)
    daemon.ctl("restart")
    assert complete(daemon, TINY) == expected
