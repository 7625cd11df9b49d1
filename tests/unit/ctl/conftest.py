"""A fake daemon per test, and cahootsctl run against it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import cahoots_vllm
from cahoots_vllm.ctl.main import main

from .fake_daemon import FakeDaemon, running

Run = Callable[..., "Outcome"]
Spawn = Callable[..., "subprocess.Popen[str]"]

# The tests run from a checkout, installed or not; unbuffered output would hide a failing flush.
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(cahoots_vllm.__file__).parents[1]),
    "PYTHONUNBUFFERED": "",
}

# A test runner started in the background passes on an ignored SIGINT.
CTL = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from cahoots_vllm.ctl.main import main
sys.exit(main())
"""


class Outcome(NamedTuple):
    """What one command line gave."""

    code: int
    out: str
    err: str


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with running(tmp_path / "control.sock") as fake:
        yield fake


@pytest.fixture
def ctl(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line in this process."""
    monkeypatch.setenv("CAHOOTS_VLLM_SOCKET", str(tmp_path / "control.sock"))

    def run(*argv: str) -> Outcome:
        code = main(argv)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Start a command line as a process of its own."""
    processes: list[subprocess.Popen[str]] = []

    def start(*argv: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", CTL, *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT | {"CAHOOTS_VLLM_SOCKET": str(tmp_path / "control.sock")},
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()
