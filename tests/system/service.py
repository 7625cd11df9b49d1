"""cahoots-vllm in a machine: how its tests configure it, talk to it and look at it."""

import json
import subprocess
from dataclasses import dataclass, field
from typing import Any

from system.machine import Answer, Machine, wait_for

UNIT = "cahoots-vllm.service"
USER = "cahoots-vllm"
DEMO = "SmolLM2-135M-Instruct"
ETC = "/etc/cahoots-vllm"
ENV_FILE = f"{ETC}/.env"
# The slowest start seen was 70 s, with a cold page cache and both cores busy.
READY_S = 240.0
_QUESTION = "What is the capital of France? Answer in one sentence."


@dataclass
class Service:
    """The installed service; `seconds` holds what its tests have timed."""

    machine: Machine
    model: str = DEMO
    env: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    # --- files -----------------------------------------------------------------------------

    def write_env(self, **values: str) -> None:
        """Write `.env` with these values over those already in it."""
        default = {"LLM_PROVIDER": "local", "LOCAL_LLM_MODEL": self.model}
        self.env = default | self.env | values
        text = "".join(f"{key}={value}\n" for key, value in self.env.items())
        self.write_config(".env", text, owner=USER)

    def write_config(self, name: str, text: str, *, owner: str = "root") -> None:
        """Write a file below /etc/cahoots-vllm; `.env` is the service's own, as installed."""
        self.machine.write(f"{ETC}/{name}", text, owner=f"{owner}:{USER}", mode="0640")

    # --- its life --------------------------------------------------------------------------

    def revive(self) -> None:
        """Make it run and its model ready, whatever state it is in."""
        self.machine.systemctl("reset-failed", UNIT, check=False)
        self.machine.systemctl("start", UNIT)
        self.ctl("start")
        self.wait_ready()

    # --- what it is told -------------------------------------------------------------------

    def ctl(
        self, *argv: str, user: str | None = None, check: bool = False, timeout_s: float = READY_S
    ) -> subprocess.CompletedProcess[str]:
        """Run cahootsctl."""
        return self.machine.run(["cahootsctl", *argv], user=user, check=check, timeout_s=timeout_s)

    def status(self) -> dict[str, Any]:
        """Return `cahootsctl status --json`; without "state" when the daemon does not answer."""
        found: dict[str, Any] = json.loads(self.ctl("status", "--json").stdout)
        return found

    def wait_ready(self, *, after: int = 0, timeout_s: float = READY_S) -> dict[str, Any]:
        """Return the status once a worker younger than generation `after` is ready."""

        def is_ready() -> dict[str, Any] | None:
            status = self.status()
            is_there = status.get("state") == "ready" and status["worker"]["generation"] > after
            return status if is_there else None

        return wait_for(is_ready, timeout_s, what=f"ready; the journal:\n{self.said()}")

    def worker_pid(self) -> int:
        """Return the pid of the worker's API server."""
        return int(self.status()["worker"]["pid"])

    # --- what it serves --------------------------------------------------------------------

    def chat(self, text: str = _QUESTION, *, timeout_s: float = READY_S) -> Answer:
        """Send a chat through the gateway."""
        body = {
            "model": self.model, "temperature": 0, "max_tokens": 40,
            "messages": [{"role": "user", "content": text}],
        }  # fmt: skip
        return self.machine.http("POST", "/v1/chat/completions", body, timeout_s=timeout_s)

    def says(self, text: str = _QUESTION) -> str:
        """Return the content of a chat's answer; fail unless it is 200."""
        answer = self.chat(text)
        assert answer.status == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])

    # --- what it is doing ------------------------------------------------------------------

    def said(self) -> str:
        """Return what the unit, its daemon and its workers wrote to the journal."""
        return self.machine.messages("--lines=60", f"--unit={UNIT}")

    def processes(self) -> dict[int, str]:
        """Return pid and command of every process of the unit: daemon, workers, minders."""
        group = self.machine.show(UNIT, "ControlGroup") or f"/system.slice/{UNIT}"
        script = (
            f"cat $(find /sys/fs/cgroup{group} /sys/fs/cgroup/unified{group} -name cgroup.procs "
            "2>/dev/null) /dev/null"
        )
        pids = self.machine.say("sh", "-c", script).split()
        rows = self.machine.say("ps", "-e", "-o", "pid=,args=").splitlines()
        named = dict(row.split(maxsplit=1) for row in map(str.strip, rows))
        return {int(pid): named[pid] for pid in pids if pid in named}
