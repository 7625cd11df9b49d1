"""A machine with real systemd: a container over an overlay of the running root.

Everything installed on the host is in it, what is written there is gone with it. Pids are the
container's own. container.py boots it; what is under test is service.py's.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

_T = TypeVar("_T")

PATIENCE_S = 30.0
BOOT_S = 60.0
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

    def __init__(self, boot: int) -> None:
        """Wait until what this boot.sh boots is up."""
        self._boot = boot
        self.leader = wait_for(lambda: find_leader(boot), BOOT_S, what="PID 1 is there")
        self._wait_up()

    def reboot(self) -> None:
        """Boot once more, with what is on its disk."""
        before = self.leader
        self.run(["systemctl", "--no-block", "reboot"])

        def is_new() -> int | None:
            leader = find_leader(self._boot)
            return leader if leader != before else None

        self.leader = wait_for(is_new, BOOT_S, what="another PID 1 is there")
        self._wait_up()

    def _wait_up(self) -> None:
        def is_up() -> bool:
            waiting = ["systemctl", "is-system-running", "--wait"]
            state = self.run(waiting, check=False, timeout_s=BOOT_S).stdout.strip()
            # degraded: a unit of the host's that has no place in a container.
            return state in ("running", "degraded")

        wait_for(is_up, BOOT_S, what="systemd is up")

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
        try:
            raw = subprocess.run(
                command, input=given, capture_output=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            said = (error.stdout or b"") + (error.stderr or b"")
            message = (
                f"{list(argv)}: not over after {timeout_s:.0f} s\n{said!r}\n{self._what_runs()}"
            )
            raise AssertionError(message) from error
        done = subprocess.CompletedProcess(
            list(argv), raw.returncode, raw.stdout.decode(errors="replace"),
            raw.stderr.decode(errors="replace"),
        )  # fmt: skip
        if check and done.returncode != 0:
            message = f"{list(argv)}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
            raise AssertionError(message)
        return done

    def _what_runs(self) -> str:
        """Return every process and what it waits for in the kernel: why a command hangs."""
        shown = ["ps", "-eo", "pid,ppid,stat,wchan:24,etimes,time,args", "--cols", "160"]
        command = self._inside(shown, None, {})
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)
        return done.stdout.decode(errors="replace")

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

    def start_beside(
        self, argv: Sequence[str], *, has_input: bool = False
    ) -> subprocess.Popen[str]:
        """Start a command of the host in the container's network: the tests' Python, a client."""
        return subprocess.Popen(
            [*self._enter("--net"), *argv],
            stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

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


def find_leader(boot: int) -> int | None:
    """Return the pid of a container's PID 1, systemd-nspawn's child below `boot`; None: not yet."""
    level = _children(boot)
    while level:
        for nspawn in (pid for pid in level if _name(pid) == "systemd-nspawn"):
            # Another child, at first: systemd-nspawn itself, which makes PID 1.
            return next((pid for pid in _children(nspawn) if _name(pid) == "systemd"), None)
        level = [child for pid in level for child in _children(pid)]
    return None


def _children(pid: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except (FileNotFoundError, ProcessLookupError):
        return []  # ended while we looked


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""  # as above
