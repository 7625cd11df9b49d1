"""What the daemon costs: memory and CPU while a worker is ready, and how fast it answers.

    python tests/bench/footprint.py [--seconds 60]

Measures the daemon that is running (its pid is asked of the control socket), then starts daemons
of its own on the stand-in engine to time from start to the first answer. Prints a Markdown table
with the issue's aims; nothing fails here.
"""

import argparse
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "daemon"), str(ROOT / "tests")]

from cahoots_vllm.core.wire import socket_candidates  # noqa: E402 (needs the path above)
from fake_vllm.engine_dir import make_engine  # noqa: E402 (as above)

_TICKS = os.sysconf("SC_CLK_TCK")
_RUNS = 11


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to watch the CPU")
    seconds = parser.parse_args().seconds
    rows = [("figure", "aim", "seen"), ("---", "---", "---")]
    pid = _daemon_pid()
    if pid is None:
        sys.stderr.write("no daemon answers: start packaging/quickstart in another terminal\n")
        return 1
    state = json.loads(_run_ctl("status", "--json"))["state"]
    rows += [
        (f"RSS of the daemon, worker {state}", "< 80 MiB", f"{_rss_mib(pid):.1f} MiB"),
        (
            f"CPU of the daemon over {seconds:.0f} s",
            "< 0.5 %",
            f"{_cpu_percent(pid, seconds):.2f} %",
        ),
        ("`cahootsctl status`, wall", "< 150 ms", _spread(lambda: _timed_ctl("status"))),
        ("daemon start to first answer, wall", "< 1000 ms", _spread(_time_start)),
    ]
    sys.stdout.write("\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n")
    return 0


def _daemon_pid() -> int | None:
    for path in socket_candidates(os.environ, os.getuid()):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                connection.connect(path)
            except OSError:
                continue
            raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            return int(struct.unpack("3i", raw)[0])
    return None


def _rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def _cpu_percent(pid: int, seconds: float) -> float:
    before = _cpu_seconds(pid)
    time.sleep(seconds)
    return (_cpu_seconds(pid) - before) / seconds * 100


def _cpu_seconds(pid: int) -> float:
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text[text.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _spread(measure: Callable[[], float]) -> str:
    """Return median and range of several runs, in milliseconds."""
    times = sorted(measure() * 1000 for _ in range(_RUNS))
    return f"{statistics.median(times):.0f} ms ({times[0]:.0f} to {times[-1]:.0f}, {_RUNS} runs)"


def _executable(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _run_ctl(*arguments: str) -> bytes:
    return subprocess.run(
        [_executable("cahootsctl"), *arguments], capture_output=True, check=False
    ).stdout


def _timed_ctl(*arguments: str) -> float:
    started = time.perf_counter()
    _run_ctl(*arguments)
    return time.perf_counter() - started


def _time_start() -> float:
    """Return the seconds from starting a daemon to its first answer on the control socket."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        engine = make_engine(directory / "engine")
        port = _free_port()
        (directory / ".env").write_text(
            f"LLM_PROVIDER=mock\nLOCAL_LLM_URL=http://localhost:{port}/v1\n"
        )
        env = {
            **os.environ,
            **{f"XDG_{kind}_HOME": name for kind in ("CONFIG", "STATE", "CACHE")},
            "XDG_RUNTIME_DIR": name,
        }
        started = time.perf_counter()
        daemon = subprocess.Popen(
            [_executable("cahoots-vllmd"), "--user", "--engine", str(engine)],
            cwd=directory, env=env, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            return _wait_for_answer(directory / "cahoots-vllm" / "control.sock", started)
        finally:
            daemon.terminate()
            daemon.wait(10)


def _wait_for_answer(path: Path, started: float) -> float:
    while time.perf_counter() - started < 30:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                connection.connect(str(path))
                connection.sendall(b"GET /v1/health HTTP/1.0\r\nHost: localhost\r\n\r\n")
                if b" 200 " in connection.recv(100):
                    return time.perf_counter() - started
            except OSError:
                time.sleep(0.005)
    return float("nan")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
