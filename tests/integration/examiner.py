"""Runs the doctor on a planted fault, with and without a daemon."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .harness import Daemon

_PATIENCE_S = 30


@dataclass(frozen=True)
class Report:
    """What the doctor answered."""

    document: dict[str, Any]

    def of(self, check: str) -> list[dict[str, str]]:
        return [f for f in self.document["findings"] if f["check"] == check]

    def found(self, check: str, level: str) -> str:
        """Return the sentence of the one finding of a check at a level, with its remedy."""
        found = [f for f in self.of(check) if f["level"] == level]
        assert found, json.dumps(self.of(check) or self.document, indent=1)
        assert found[0]["remedy"] or level == "ok"
        return f"{found[0]['sentence']} -> {found[0]['remedy']}"

    @property
    def problems(self) -> list[str]:
        rows = [f for f in self.document["findings"] if f["level"] != "ok"]
        return [f"{f['level']} {f['check']}: {f['sentence']}" for f in rows]


def examine(daemon: Daemon) -> Report:
    """Ask a running daemon."""
    return Report(daemon.api("GET", "/v1/doctor"))


def examine_alone(
    daemon: Daemon, *, inside: str = "", environment: dict[str, str] | None = None
) -> Report:
    """Examine the host where no daemon answers; `inside`: a shell's words in other namespaces.

    They stand before the program: `unshare -m sh -c 'INSIDE; exec "$@"'`.
    """
    command = [sys.executable, "-m", "cahoots_vllm.main", "--user"]
    command += ["--engine", str(daemon.engine), "--doctor", "cannot reach the daemon"]
    if inside:
        command = ["unshare", "-mn", "sh", "-ec", f'{inside}; exec "$@"', "sh", *command]
    done = subprocess.run(
        command, cwd=daemon.root, env=daemon.environment | (environment or {}),
        capture_output=True, text=True, timeout=_PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    document = json.loads(done.stdout)
    assert done.returncode == (0 if document["healthy"] else 1)
    assert not done.stderr, done.stderr
    return Report(document)


def is_root() -> bool:
    return os.geteuid() == 0


def ctl(
    daemon: Daemon, *words: str, socket: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run cahootsctl as a person does."""
    place = str(socket or daemon.socket)
    command = [sys.executable, "-m", "cahoots_vllm.ctl.main", "--socket", place, *words]
    return subprocess.run(
        command, cwd=daemon.root, env=daemon.environment, capture_output=True, text=True,
        timeout=_PATIENCE_S, check=False,
    )  # fmt: skip
