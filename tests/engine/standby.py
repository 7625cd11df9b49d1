"""Starts the real `vllm serve` plainly and from a standby, and asks both the same."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cahoots_vllm.worker.launcher_pages import THREAD
from engine.harness import READY_S, gone, is_alive, tree, wait_for
from integration.standby import Standby

# In every process of a worker, as the daemon sets it.
MARK = "CAHOOTS_VLLM_WORKER"
_LOOK_S = 0.02


class UnixConnection(http.client.HTTPConnection):
    """The standard library's client, over a Unix socket."""

    def __init__(self, uds: Path) -> None:
        super().__init__("localhost", timeout=READY_S)
        self._uds = str(uds)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(READY_S)
        self.sock.connect(self._uds)


@dataclass
class Served:
    """One `vllm serve`, however it was started; `begun` is when it was told to."""

    process: subprocess.Popen[bytes]
    uds: Path
    model: Path
    log: Path
    begun: float = field(default_factory=time.monotonic)

    def is_up(self) -> bool:
        """Whether /health answers 200."""
        connection = UnixConnection(self.uds)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def first_token_s(self) -> float:
        """Return the seconds from its start until a token came out."""
        deadline = time.monotonic() + READY_S
        while not (self.uds.exists() and self.is_up()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(self.said()[-3000:])
            time.sleep(_LOOK_S)
        self.answer("The capital of France is", 1)
        return time.monotonic() - self.begun

    def answer(self, prompt: str, tokens: int) -> str:
        """Return what it says at temperature 0, exactly so many tokens."""
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        connection = UnixConnection(self.uds)
        try:
            data = json.dumps({"model": str(self.model), **body})
            connection.request(
                "POST", "/v1/completions", data, {"Content-Type": "application/json"}
            )
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return str(found["choices"][0]["text"])
        finally:
            connection.close()

    def tokens_a_second(self, concurrency: int, tokens: int) -> float:
        """Return its throughput over that many requests at once."""
        with ThreadPoolExecutor(concurrency) as pool:
            begun = time.monotonic()
            prompts = [f"Tell me about the number {n}." for n in range(concurrency)]
            for asked in [pool.submit(self.answer, prompt, tokens) for prompt in prompts]:
                asked.result()
            return concurrency * tokens / (time.monotonic() - begun)

    def titles(self) -> list[str]:
        """Return the titles of the processes below it, and its own command line."""
        raw = Path(f"/proc/{self.process.pid}/cmdline").read_bytes()
        own = raw.replace(b"\0", b" ").decode().strip()
        below = [title.split(" -c ")[0] for title in tree(self.process.pid).values()]
        return [own.replace(self.uds.name, "UDS"), *sorted(below)]

    def worker(self) -> int:
        """Return the pid of its worker process."""
        found = tree(self.process.pid)
        return next(pid for pid, title in found.items() if title.startswith("VLLM::Worker"))

    def threads(self) -> list[str]:
        """Return the names of its worker's threads."""
        tasks = Path(f"/proc/{self.worker()}/task").iterdir()
        return [(task / "comm").read_text().strip() for task in tasks]

    def settle(self) -> None:
        """Wait until its worker's memory lies where it stays."""
        assert wait_for(lambda: THREAD not in self.threads(), 120)

    def said(self) -> str:
        """Return its whole output."""
        return self.log.read_text(errors="replace")

    def end(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """End it and return its exit status."""
        self.process.send_signal(signum)
        return self.process.wait(60)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop all of it for a while."""
        pids = {self.process.pid, *tree(self.process.pid)}
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill all of it at once, as the daemon does."""
        pids = {self.process.pid, *tree(self.process.pid)}
        for pid in pids:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(60)
        assert wait_for(lambda: gone(pids), 20)


@dataclass
class Bay:
    """Where engines are started, plainly and from standbys; all of them end with it."""

    engine: Path
    home: Path
    learned: str = "learned"
    _started: list[Served] = field(default_factory=list)
    _standbys: list[Standby] = field(default_factory=list)

    def env(self, **more: str) -> dict[str, str]:
        """Return the environment of a start."""
        keep = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
        return {
            **keep, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "PYTHONUNBUFFERED": "1",
            "SPT_NOENV": "1", "VLLM_DISABLE_LOG_LOGO": "1", MARK: "bay#0",
            "VLLM_CACHE_ROOT": str(self.home / "cache"), **more,
        }  # fmt: skip

    def argv(self, model: Path, uds: Path, *more: str) -> list[str]:
        """Return the arguments of a small start."""
        small = ["--enforce-eager", "--max-model-len", "4096", "--kv-cache-memory-bytes", "512M"]
        vllm = str(self.engine / "bin" / "vllm")
        return [vllm, "serve", str(model), "--uds", str(uds), *small, *more]

    def plain(self, model: Path, *more: str) -> Served:
        """Start the plain command."""
        uds, log = self._place("plain")
        uds.unlink(missing_ok=True)
        with log.open("wb") as out:
            process = subprocess.Popen(
                self.argv(model, uds, *more), env=self.env(), cwd="/", stdin=subprocess.DEVNULL,
                stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        return self._keep(Served(process, uds, model, log))

    def standby(self, model: Path | None, **more: str) -> Standby:
        """Start a standby that may know the model to come."""
        arguments = ["--learn", str(self.home / self.learned)]
        if model is not None:
            arguments += ["--", *self.argv(model, self.home / "not-yet.sock")]
        one = Standby(self.engine / "bin" / "python", self.env(**more), *arguments)
        self._standbys.append(one)
        return one

    def launch(self, standby: Standby, model: Path, *more: str, **env: str) -> Served:
        """Let a warm standby become the plain command."""
        uds, log = self._place("standby")
        uds.unlink(missing_ok=True)
        with log.open("wb") as out:
            begun = time.monotonic()
            spec = {"argv": self.argv(model, uds, *more), "env": self.env(**env), "cwd": "/"}
            standby.send(spec, out.fileno())
            assert standby.hear() == {"state": "starting"}
        return self._keep(Served(standby.process, uds, model, log, begun))

    def close(self) -> None:
        """End everything that was started here."""
        for one in self._started:
            one.kill()
        for standby in self._standbys:
            standby.close()

    def _place(self, kind: str) -> tuple[Path, Path]:
        name = f"{kind}-{len(self._started)}"
        return self.home / f"{name}.sock", self.home / f"{name}.log"

    def _keep(self, one: Served) -> Served:
        self._started.append(one)
        return one


@contextmanager
def bay(engine: Path, home: Path) -> Iterator[Bay]:
    """Return a place to start engines, and end them all."""
    one = Bay(engine, home)
    try:
        yield one
    finally:
        one.close()


# What differs between two plain starts: pids, times, names made up, how fast the disk was.
_VARIES: tuple[tuple[str, str], ...] = (
    (r"\bpid[= ]\d+|process \[\d+\]", "PID"),
    (r"\d\d-\d\d \d\d:\d\d:\d\d|\b[EIW]\d{4} [\d:.]+( \d+)?", "TIME"),
    (r"[\d.]+ (s\b|seconds|GiB)|\([\d.]+/[\d.]+\) GiB", "N"),
    (r"vllm_dist_\w+", "FILE"),
    (r"(plain|standby)-\d+\.sock", "SOCKET"),
    (r"GET, HEAD|HEAD, GET", "METHODS"),
)
# Said by each process that imports it; and about times that no test should look at.
_NOT_COMPARED = ("Triton not available", "Completed |", "resource_tracker", "/health", "FutureWarn")


def comparable(text: str) -> list[str]:
    """Return the lines of an output, sorted, without what differs between any two starts."""
    lines = []
    for line in text.replace("\r", "\n").splitlines():
        if line.strip() and not any(word in line for word in _NOT_COMPARED):
            for pattern, name in _VARIES:
                line = re.sub(pattern, name, line)  # noqa: PLW2901 (step by step)
            lines.append(line)
    return sorted(lines)


def seen(what: Callable[[], bool]) -> bool:
    """Return whether it becomes true."""
    return wait_for(what, 20)
