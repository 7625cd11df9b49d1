"""The programs that the overhead bench measures: engines, gateways, HAProxy; ended on leaving."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.stream_client import Address

_HERE: Final = Path(__file__).resolve().parent
_READY_S: Final = 240.0
_HAPROXY: Final = """\
global
    maxconn 4096
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    option http-keep-alive
    option http-no-delay
listen front
    bind 127.0.0.1:{port}
    server engine unix@{uds}
"""


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked: an engine or a proxy before it."""

    name: str
    address: Address
    # None: not a proxy.
    pid: int | None = None

    def cpu_s(self) -> float:
        """Return the seconds of CPU that the proxy has used."""
        if self.pid is None:
            return 0.0
        text = Path(f"/proc/{self.pid}/stat").read_text()
        fields = text[text.rindex(")") + 2 :].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class How:
    """Which gateway is measured: a checkout's `daemon` directory, and the event loop."""

    name: str
    daemon: Path
    loop: str = "asyncio"


@contextmanager
def fast_engine(directory: Path, *options: str) -> Iterator[tuple[Path, int]]:
    """Run the stand-in; give its socket and its port."""
    uds = directory / "fast.sock"
    with _running([sys.executable, _HERE / "fast_engine.py", "--uds", uds, *options]) as (port, _):
        try:
            yield uds, port
        finally:
            uds.unlink(missing_ok=True)


@contextmanager
def real_engine(directory: Path, engine: Path, model: Path) -> Iterator[Path]:
    """Run `vllm serve` on a Unix socket; give the socket once it answers."""
    uds = directory / "real.sock"
    command: list[str | Path] = [
        engine / "bin" / "vllm", "serve", model, "--served-model-name", "real", "--uds", uds,
        "--enforce-eager", "--max-model-len", "2048", "--kv-cache-memory-bytes", "512M",
        "--disable-uvicorn-access-log",
    ]  # fmt: skip
    env = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    log = directory / "engine.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=env, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _wait_healthy(uds, process)
        yield uds
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the engine's processes are of its group
        process.wait(10)


def _wait_healthy(uds: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(uds))
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                if b" 200 " in connection.recv(100):
                    return
            except OSError:
                pass
        time.sleep(0.5)
    message = "the engine is not ready: see its log"
    raise RuntimeError(message)


@contextmanager
def targets(
    directory: Path, uds: Path, gateways: tuple[How, ...], tcp: int | None = None
) -> Iterator[list[Target]]:
    """Run the proxies before an engine; give all that can be asked, HAProxy where there is one."""
    with ExitStack() as stack:
        found = [Target("direct, Unix socket", str(uds))]
        if tcp is not None:
            found.append(Target("direct, TCP", tcp))
        found += (Target(how.name, *stack.enter_context(_gateway(uds, how))) for how in gateways)
        haproxy = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
        if haproxy is not None:
            found.append(Target("HAProxy", *stack.enter_context(_haproxy(haproxy, directory, uds))))
        yield found


@contextmanager
def _gateway(uds: Path, how: How) -> Iterator[tuple[int, int]]:
    command = [sys.executable, _HERE / "gateway_process.py", "--uds", uds, "--loop", how.loop]
    env = {**os.environ, "PYTHONPATH": str(how.daemon)}
    with _running(command, env) as found:
        yield found


@contextmanager
def _haproxy(executable: str, directory: Path, uds: Path) -> Iterator[tuple[int, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config = directory / "haproxy.cfg"
    config.write_text(_HAPROXY.format(port=port, uds=uds))
    process = subprocess.Popen([executable, "-db", "-q", "-f", config])
    try:
        _wait_listening(port)
        yield port, process.pid
    finally:
        process.kill()
        process.wait(10)


def _wait_listening(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as connection:
            if connection.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    message = f"nothing listens on port {port}"
    raise RuntimeError(message)


@contextmanager
def _running(command: list[object], env: dict[str, str] | None = None) -> Iterator[tuple[int, int]]:
    """Run a program that prints its port first; give that and its pid."""
    process = subprocess.Popen([str(c) for c in command], env=env, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline()), process.pid
    finally:
        process.terminate()
        process.wait(10)
