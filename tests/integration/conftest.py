"""The fixtures; every test here is bounded in time, and none may leave a process."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cahoots_vllm.host.children import become_subreaper

from .harness import Daemon
from .scripted_gpus import ScriptedGpus
from .service_manager import ServiceManager
from .stub_hub import StubHub, running_hub

_HERE = Path(__file__).parent
_TIMEOUT_S = 60


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this tier more time than unit tests have."""
    for item in items:
        if item.path.is_relative_to(_HERE) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))


@pytest.fixture(scope="session")
def _subreaper() -> None:
    become_subreaper()


@contextmanager
def _prepared(root: Path) -> Iterator[Daemon]:
    # unix(7): a socket's path has 107 bytes at most, and a test's own directory is a long one.
    runtime = Path(tempfile.mkdtemp(prefix="cahoots-"))
    one = Daemon(root, runtime)
    try:
        yield one
    finally:
        try:
            one.finish()
        finally:
            shutil.rmtree(runtime)


@pytest.fixture
def daemon(tmp_path: Path, _subreaper: None) -> Iterator[Daemon]:
    """A daemon with its files in place, not started yet."""
    with _prepared(tmp_path) as one:
        yield one


@pytest.fixture
def gpus(tmp_path: Path) -> ScriptedGpus:
    """One free GPU of 24 GiB, until told otherwise."""
    return ScriptedGpus(tmp_path / "gpus.json")


@pytest.fixture
def gpu_daemon(daemon: Daemon, gpus: ScriptedGpus) -> Daemon:
    """A daemon with a GPU engine that sees `gpus`, not started yet."""
    daemon.give_gpus(gpus)
    return daemon


@pytest.fixture
def holder(gpu_daemon: Daemon) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of the daemon's business, and gone when the daemon ends."""
    process = gpu_daemon.process_of_another()
    yield process
    process.kill()
    process.wait(5)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, _subreaper: None) -> Iterator[Daemon]:
    """One ready daemon for all tests of a module that only look.

    A module with it must run its other tests' daemons elsewhere: `finish` ends every process.
    """
    with _prepared(tmp_path_factory.mktemp("serving")) as one:
        one.start_ready()
        yield one


@pytest.fixture
def hub() -> Iterator[StubHub]:
    """A hub that has every model, unless told otherwise."""
    with running_hub() as one:
        yield one


@pytest.fixture(scope="module")
def swapping_hub() -> Iterator[StubHub]:
    """The hub of `swapping`."""
    with running_hub() as one:
        yield one


@pytest.fixture(scope="module")
def swapping(
    tmp_path_factory: pytest.TempPathFactory, _subreaper: None, swapping_hub: StubHub
) -> Iterator[Daemon]:
    """One ready daemon for all swaps of a module that fail before anything is stopped."""
    with _prepared(tmp_path_factory.mktemp("swapping")) as one:
        one.write_env(HF_ENDPOINT=swapping_hub.endpoint)
        one.start_ready()
        yield one


@pytest.fixture
def manager(daemon: Daemon) -> Iterator[ServiceManager]:
    """Makes `daemon` its service."""
    daemon.manager = ServiceManager(daemon.runtime.parent / "notify")
    yield daemon.manager
    daemon.manager.close()
