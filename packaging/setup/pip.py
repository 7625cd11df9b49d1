"""Runs pip (and other long commands) with visible progress, and puts its errors into sentences."""

import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .console import MovingLine, SetupError, size

NETWORK_SIGNS = (
    "NewConnectionError",
    "NameResolutionError",
    "Temporary failure in name resolution",
    "Network is unreachable",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ProxyError",
    "SSLError",
    "Connection refused",
    "Connection aborted",
    "Remote end closed connection",
)
NOT_FOUND_SIGNS = ("No matching distribution found", "Could not find a version that satisfies")
TAIL = 30


@dataclass(frozen=True, slots=True)
class User:
    """Somebody with fewer rights, as whom root runs a command."""

    uid: int
    gid: int
    home: Path


class CommandError(SetupError):
    """A command failed; `output` holds the end of what it said."""

    def __init__(self, message: str, remedy: str, output: str) -> None:
        """Keep the output beside what a person is told."""
        super().__init__(message, remedy)
        self.output = output


class NotFoundError(CommandError):
    """The package index answered, and it does not offer what was asked for."""


def explain(output: str, what: str) -> CommandError:
    """Turn pip's output into an error with a remedy.

    The network comes first: pip also calls "not found" what it could not look up.
    """
    if "No space left on device" in output:
        return CommandError(
            f"cannot install {what}: the disk is full",
            "free some space, or point TMPDIR at a directory with more room, and run this again",
            output,
        )
    if any(sign in output for sign in NETWORK_SIGNS):
        return CommandError(
            f"cannot install {what}: the package index cannot be reached",
            "check the network, and the proxy (HTTPS_PROXY) or the index (PIP_INDEX_URL) where you "
            "use one; then run this again: it goes on from here",
            output,
        )
    last = "\n".join(output.splitlines()[-TAIL:])
    if any(sign in output for sign in NOT_FOUND_SIGNS):
        return NotFoundError(
            f"cannot install {what}: the package index does not offer it for this Python and "
            "machine",
            f"use another Python (3.11 to 3.14) or index (PIP_INDEX_URL). pip said:\n{last}",
            output,
        )
    return CommandError(f"cannot install {what}", f"pip said:\n{last}", output)


def install(environment: Path, what: str, *arguments: str) -> None:
    """Run `pip install` in a virtual environment; raise CommandError when it fails.

    Byte code is left to `compile_all`, which uses every core.
    """
    command = [str(environment / "bin" / "python"), "-m", "pip", "install", "--no-compile"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    code, output = run([*command, *arguments], environment)
    if code != 0:
        raise explain(output, what)


def compile_all(environment: Path) -> None:
    """Compile everything installed to byte code, so that the first start need not."""
    command = [str(environment / "bin" / "python"), "-m", "compileall", "-qq", "-j", "0"]
    # Its exit status says that some template is no valid Python, which is no failure.
    run([*command, str(environment / "lib")], environment, "compiling to byte code")


def run(
    command: Sequence[str], place: Path, doing: str = "", user: User | None = None
) -> tuple[int, str]:
    """Run a command under a moving line: what it last said, and what it took of `place`'s disk.

    Return its exit status and output. When this process is interrupted, or killed, so is the
    command: the next run must not meet it.
    """
    line, lines = MovingLine(), list[str]()
    before = _free_bytes(place)
    with _start(command, user) as process:
        arrived: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(process, arrived), daemon=True).start()
        try:
            while (text := _next(arrived)) is not None:
                # pip names each local directory in which a package is not: true, and noise.
                if text and not text.startswith("WARNING: Location"):
                    lines.append(text)
                written = size(before - _free_bytes(place))
                line.show(f"{written} written  {lines[-1].strip() if lines else doing}")
        except BaseException:
            process.terminate()
            raise
        finally:
            line.clear()
    return process.returncode, "\n".join(lines)


def _start(command: Sequence[str], user: User | None) -> subprocess.Popen[str]:
    tied = ["setpriv", "--pdeathsig=KILL", "--"] if shutil.which("setpriv") else []
    return subprocess.Popen(
        [*tied, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=() if user else None,
        # Where root is, and keeps temporary files, others may not be.
        cwd="/" if user else None,
        env=_environment(user) if user else None,
    )


def _environment(user: User) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
    return {**kept, "HOME": str(user.home)}


def _read(process: subprocess.Popen[str], arrived: "queue.SimpleQueue[str | None]") -> None:
    for text in process.stdout or ():
        arrived.put(text.rstrip())
    arrived.put(None)


def _next(arrived: "queue.SimpleQueue[str | None]") -> str | None:
    """Return the next line, "" when a second went by without one, None at the end."""
    try:
        return arrived.get(timeout=1)
    except queue.Empty:
        return ""


def _free_bytes(place: Path) -> int:
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize
