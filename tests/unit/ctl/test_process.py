"""What only a process of its own shows: signals, closed pipes, rights, what is imported."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path

import pytest

from .conftest import ENVIRONMENT, Spawn
from .fake_daemon import OPERATION, FakeDaemon, answer, chunked, running

NOBODY = 65534
AS_NOBODY = f"""
import os, sys
from cahoots_vllm.ctl.main import main
if os.getuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def public_directory() -> Iterator[Path]:
    # Not in pytest's own directory: that one is closed to others, whatever the socket allows.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def test_a_socket_for_others_only(public_directory: Path) -> None:
    with running(public_directory / "control.sock") as daemon:
        daemon.on("GET /v1/status", answer({"state": "ready"}))
        # 0660 shuts out nobody; run by an ordinary user, who owns the socket, only 0000 does.
        Path(daemon.path).chmod(0o660 if os.getuid() == 0 else 0)
        result = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, "status", "--socket", daemon.path],
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            timeout=10,
            check=False,
        )
    assert (result.returncode, result.stdout) == (77, "")
    assert result.stderr == (
        f"cahootsctl: cannot use {daemon.path}: permission denied\n"
        "root, the daemon's user and members of the group cahoots-vllm may: "
        "`usermod -aG cahoots-vllm USER`, then log in again\n"
    )
    assert daemon.requests == []


def test_ctrl_c_detaches_from_an_operation(daemon: FakeDaemon, spawn: Spawn) -> None:
    daemon.on("POST /v1/swap-model", answer(OPERATION, status=202))

    def running_on(writer: BufferedIOBase) -> None:
        time.sleep(0.2)
        writer.write(answer(OPERATION))

    daemon.on("GET /v1/operations/7/wait?timeout=1", running_on)
    process = spawn("swap-model", "org/B")
    assert process.stderr is not None
    assert process.stderr.readline() == "starting org/B: loading weights 50 %\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=5)
    assert (process.returncode, out) == (130, "")
    assert err == (
        "swap-model org/B goes on as operation 7\n"
        "`cahootsctl operations wait 7` waits for it\n"
        "`cahootsctl operations abort 7` ends it\n"
    )
    assert not [route for route, _ in daemon.requests if route.startswith("DELETE")]


def test_ctrl_c_ends_a_stream_quietly(daemon: FakeDaemon, spawn: Spawn) -> None:
    def talk(writer: BufferedIOBase) -> None:
        writer.write(chunked(b'{"text": "a"}\n', ends=False))
        time.sleep(9)

    daemon.on("GET /v1/logs?n=200&follow=1", talk)
    process = spawn("logs", "-f")
    assert process.stdout is not None
    assert process.stdout.readline() == "? None: a\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=5) == ("", "")
    assert process.returncode == 130


def test_a_reader_that_has_enough_is_no_error(daemon: FakeDaemon, spawn: Spawn) -> None:
    daemon.on("GET /v1/logs?n=9999&follow=0", chunked(*[b'{"text": "a"}\n'] * 9999))
    process = spawn("logs", "-n", "9999")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=5) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named(daemon: FakeDaemon) -> None:
    daemon.on("GET /v1/status", answer({"state": "ready"}))
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "cahoots_vllm.ctl.main", "--socket", daemon.path, "status"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
            timeout=10,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == "cahootsctl: cannot write: No space left on device\n"


def test_loads_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); import cahoots_vllm.ctl.main;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=10,
        check=True,
    ).stdout.split()
    heavy = {"aiohttp", "pydantic", "rich", "asyncio", "ssl", "email", "http", "dataclasses"}
    assert not heavy.intersection(loaded)
