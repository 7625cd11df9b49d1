"""A machine with real systemd: a container over an overlay of the running root.

Everything installed on the host is in it, what is written there is gone with it. Pids are the
container's own. Knows nothing of the service under test; `Service` in service.py does.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

_T = TypeVar("_T")

PATIENCE_S = 30.0
_BOOT_S = 60.0
_BOOT = Path(__file__).with_name("boot.sh")
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "SYSTEMD_PAGER": "cat",
    "SYSTEMD_COLORS": "0",
}
# Run in the container's network only: the test's own Python and libraries are the host's.
_HTTP = """
import http.client, json, sys
method, port, path, timeout_s, headers = json.loads(sys.argv[1])
body = sys.stdin.buffer.read()
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
connection.request(method, path, body=body or None, headers=headers)
response = connection.getresponse()
text = response.read().decode()
print(json.dumps([response.status, dict(response.getheaders()), text]))
"""


def wait_for(
    condition: Callable[[], _T | None], timeout_s: float = PATIENCE_S, *, what: str = ""
) -> _T:
    """Return the condition's value once it is true; fail when the time has run out."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > end:
            message = f"not within {timeout_s} s: {what or condition}"
            raise AssertionError(message)
        time.sleep(0.05)
    return value


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, whole."""

    status: int
    headers: dict[str, str]
    text: str

    def json(self) -> Any:  # noqa: ANN401 (whatever was sent)
        """Return the body, parsed."""
        return json.loads(self.text)


class Machine:
    """A booted container. `leader` is its PID 1 as the host numbers it."""

    def __init__(self, leader: int) -> None:
        """Talk to a container that is running."""
        self.leader = leader

    # --- commands --------------------------------------------------------------------------

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str | None = None,
        check: bool = True,
        stdin: str | bytes = "",
        env: Mapping[str, str] | None = None,
        timeout_s: float = 120.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, as root or as `user` with its groups."""
        command = self._inside(argv, user, env or {})
        given = stdin.encode() if isinstance(stdin, str) else stdin
        raw = subprocess.run(
            command, input=given, capture_output=True, timeout=timeout_s, check=False
        )
        done = subprocess.CompletedProcess(
            list(argv), raw.returncode, raw.stdout.decode(errors="replace"),
            raw.stderr.decode(errors="replace"),
        )  # fmt: skip
        if check and done.returncode != 0:
            message = f"{list(argv)}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
            raise AssertionError(message)
        return done

    def say(self, *argv: str, user: str | None = None) -> str:
        """Return what a command prints, without the last newline."""
        return self.run(argv, user=user).stdout.rstrip("\n")

    def start(
        self, argv: Sequence[str], *, user: str | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a command that goes on beside the test; its output is piped."""
        return subprocess.Popen(
            self._inside(argv, user, env or {}),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def start_beside(self, argv: Sequence[str]) -> subprocess.Popen[str]:
        """Start a command of the host in the container's network: the tests' Python, a client."""
        return subprocess.Popen(
            [*self._enter("--net"), *argv],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def _inside(
        self, argv: Sequence[str], user: str | None, env: Mapping[str, str]
    ) -> Sequence[str]:
        words = [f"{name}={value}" for name, value in {**_ENVIRONMENT, **env}.items()]
        # Not runuser: PAM would write a line to the journal for each command.
        become = (
            ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"] if user else []
        )
        return [*self._enter("--all"), "env", "-i", *words, *become, *argv]

    def _enter(self, what: str) -> list[str]:
        return ["nsenter", what, f"--target={self.leader}", "--"]

    # --- files -----------------------------------------------------------------------------

    def write(
        self, path: str, content: str | bytes, *, owner: str = "root:root", mode: str = "0644"
    ) -> None:
        """Write a file in one step, as an editor does; its directory is made."""
        script = (
            'mkdir -p "$(dirname "$1")" && cat >"$1.new" && chown "$2" "$1.new" && '
            'chmod "$3" "$1.new" && mv "$1.new" "$1"'
        )
        self.run(["sh", "-c", script, "sh", path, owner, mode], stdin=content)

    def read(self, path: str) -> str:
        """Return a file's text."""
        return self.run(["cat", path]).stdout

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return self.run(["test", "-e", path], check=False).returncode == 0

    # --- systemd ---------------------------------------------------------------------------

    def systemctl(
        self, *argv: str, check: bool = True, timeout_s: float = 240.0
    ) -> subprocess.CompletedProcess[str]:
        """Run systemctl."""
        return self.run(["systemctl", *argv], check=check, timeout_s=timeout_s)

    def show(self, unit: str, name: str) -> str:
        """Return one property of a unit."""
        return self.say("systemctl", "show", f"--property={name}", "--value", unit)

    def main_pid(self, unit: str = "cahoots-vllm.service") -> int:
        """Return the unit's main process, 0 for none."""
        return int(self.show(unit, "MainPID"))

    def journal(self, *argv: str) -> list[dict[str, Any]]:
        """Return entries of the journal, oldest first, with all their fields."""
        self.run(["journalctl", "--sync"])
        said = self.run(["journalctl", "--quiet", "--output=json", "--all", *argv]).stdout
        return [json.loads(line) for line in said.splitlines()]

    def messages(self, *argv: str) -> str:
        """Return the texts of entries of the journal, a line each."""
        return "\n".join(str(entry["MESSAGE"]) for entry in self.journal(*argv))

    # --- the network -----------------------------------------------------------------------

    def http(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        port: int = 8001,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 120.0,
    ) -> Answer:
        """Send one request over the container's loopback; `body` is sent as JSON."""
        sent = {"Content-Type": "application/json", **(headers or {})}
        asked = json.dumps([method, port, path, timeout_s, sent])
        done = subprocess.run(
            [*self._enter("--net"), sys.executable, "-c", _HTTP, asked],
            input=json.dumps(body) if body is not None else "",
            capture_output=True, text=True, timeout=timeout_s + 10, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise ConnectionError(done.stderr.strip().splitlines()[-1])
        return Answer(*json.loads(done.stdout))


@contextmanager
def booted(
    lower: Mapping[Path, str] | None = None,
    read_only: Mapping[Path, str] | None = None,
    options: Sequence[str] = ("--private-network",),
) -> Iterator[Machine]:
    """Boot a machine, and leave nothing of it behind.

    `lower` and `read_only`: directories of the host and where they are in the container; what is
    written to the former stays in the container. `options` are systemd-nspawn's.
    """
    name = f"cahoots-{os.getpid()}-{secrets.token_hex(2)}"
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as directory:
        place = Path(directory)
        console = place.with_suffix(".log")
        words = [f"--lower={source}:{target}" for source, target in (lower or {}).items()]
        words += [f"--bind-ro={source}:{target}" for source, target in (read_only or {}).items()]
        command = ["unshare", "--mount", "--propagation=private", str(_BOOT), directory, name]
        with console.open("wb") as log:
            container = subprocess.Popen(
                [*command, *words, "--", *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        leader = None
        try:
            leader = wait_for(lambda: _leader(container, console), _BOOT_S, what="PID 1 is there")
            machine = Machine(leader)
            wait_for(lambda: _is_up(machine, container, console), _BOOT_S, what="systemd is up")
            yield machine
        finally:
            # Its PID 1 takes every process of the container with it.
            if leader is not None:
                with suppress(ProcessLookupError):
                    os.kill(leader, signal.SIGKILL)
            else:
                container.kill()
            container.wait(PATIENCE_S)
            console.unlink()
            _forget(name)


def _leader(container: subprocess.Popen[bytes], console: Path) -> int | None:
    """Return the pid of the container's PID 1: nspawn's child, once nspawn is there."""
    _fail_if_ended(container, console)
    children = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
    for child in map(int, children):
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return child
    return None


def _is_up(machine: Machine, container: subprocess.Popen[bytes], console: Path) -> bool:
    _fail_if_ended(container, console)
    waiting = ["systemctl", "is-system-running", "--wait"]
    state = machine.run(waiting, check=False, timeout_s=_BOOT_S).stdout.strip()
    # degraded: a unit of the host's that has no place in a container.
    return state in ("running", "degraded")


def _fail_if_ended(container: subprocess.Popen[bytes], console: Path) -> None:
    if container.poll() is not None:
        message = (
            f"systemd-nspawn ended with {container.returncode}:\n{console.read_text()[-3000:]}"
        )
        raise AssertionError(message)


def _forget(name: str) -> None:
    """Remove the empty directories that the container leaves on the host."""
    for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"):
        top = Path(root) / name
        for group in sorted((p for p in top.rglob("*") if p.is_dir()), reverse=True):
            group.rmdir()
        if top.is_dir():
            top.rmdir()
    with suppress(OSError):
        Path(f"/run/systemd/nspawn/propagate/{name}").rmdir()
