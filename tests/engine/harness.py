"""How the engine tier talks to the daemon and looks at its processes."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from cahoots_vllm.host import process_tree

DEMO = "SmolLM2-135M-Instruct"
TINY = "tiny-qwen3"
# The slowest start seen was 70 s, with a cold page cache and both cores busy.
READY_S = 240.0


@dataclass
class Daemon:
    """The daemon under test and how to talk to it."""

    process: subprocess.Popen[bytes]
    env: dict[str, str]
    port: int
    log: Path

    def ctl(self, *arguments: str, timeout_s: float = READY_S) -> subprocess.CompletedProcess[str]:
        """Run cahootsctl as a person would."""
        return subprocess.run(
            [str(Path(sys.executable).parent / "cahootsctl"), *arguments],
            env=self.env, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def status(self) -> dict[str, Any]:
        """Return `cahootsctl status --json`."""
        found: dict[str, Any] = json.loads(self.ctl("status", "--json").stdout)
        return found

    def wait_ready(self, *, after: int = 0) -> dict[str, Any]:
        """Return the status once a worker younger than generation `after` is ready."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self.process.poll() is None:
            status = self.status()
            # Without a state: the daemon does not listen yet.
            if status.get("state") == "ready" and status["worker"]["generation"] > after:
                return status
            time.sleep(0.5)
        pytest.fail(f"not ready in time: {self.log.read_text()[-3000:]}")

    def client(self) -> OpenAI:
        """Return the real client, with its retries off: every failure is seen."""
        url = f"http://localhost:{self.port}/v1"
        return OpenAI(base_url=url, api_key="none", max_retries=0, timeout=READY_S)


def tree(pid: int) -> dict[int, str]:
    """Return pid and title of every living process below `pid`."""
    rows = process_tree.read_all()
    below = process_tree.descendants([pid], rows) - {pid}
    return {p: process_tree.title(p) for p in below if not rows[p].is_zombie}


def is_alive(pid: int) -> bool:
    """Whether the process lives; a zombie does not."""
    process = process_tree.read_process(pid)
    return process is not None and not process.is_zombie


def gone(pids: set[int]) -> bool:
    """Whether none of these processes lives."""
    return not any(is_alive(pid) for pid in pids)


def wait_for(what: Callable[[], bool], timeout_s: float) -> bool:
    """Return whether it became true in time."""
    deadline = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
