"""The stand-in of launcher.py in the real engine's Python: what it says, and how it can go wrong.

It becomes the stand-in's `vllm` by execve(2), so that its pid stays, as the real one's does. The
file `standby` in the engine's directory says what goes wrong; it is read at each start.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

FILE = "standby"
# What can be written there.
REFUSE, GARBAGE, DIE, SILENT, HANG = "refuse", "garbage", "die", "silent", "hang"
FLOOD, WARM_GARBAGE, TOO_EARLY = "flood", "warm, then garbage", "starting, but not asked to"
LATE_GARBAGE, LATE_DEATH = "garbage, asked to start", "death, asked to start"
_NO_JSON = b"\xff\x00 no JSON\n"
# Gets warm as soon as it is no longer written there.
SLOW = "slow"


# What a shell adds on the way here, as in the real one; it drops what it could not name itself.
_SHELLS = {"PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"}


def main(arguments: list[str], engine: Path) -> int:
    """Be a standby: `launcher.py --fd 0 --learn FILE -- ARGV`."""
    if not arguments[0].endswith("/launcher.py") or arguments[1:3] != ["--fd", "0"]:
        return 2
    signal.alarm(900)  # nothing outlives a failed test for ever; execve(2) keeps it
    trouble = _trouble(engine)
    daemon = socket.socket(fileno=0)
    if trouble in {DIE, HANG, GARBAGE, REFUSE, FLOOD}:
        return _fail(daemon, trouble)
    while _trouble(engine) == SLOW:
        time.sleep(0.05)
    _say(daemon, state="warm", version="0.32.0+cpu", fork=True, why_not_fork=None)
    if trouble == WARM_GARBAGE:
        daemon.sendall(_NO_JSON)
    if trouble == TOO_EARLY:
        _say(daemon, state="starting")
    data, fds = _hear(daemon)
    if not data:
        return 0
    _fail_late(daemon, trouble)
    spec = json.loads(data)
    env, own = spec["env"], dict(os.environ)
    names = (env.keys() | own.keys()) - {"CAHOOTS_VLLM_WORKER", *_SHELLS}
    names = {name for name in names if name.isascii() and name.isidentifier()}
    if differing := [name for name in sorted(names) if env.get(name) != own.get(name)]:
        _say(daemon, state="refused", why=f"the environment differs in {', '.join(differing)}")
        return 0
    _say(daemon, state="starting")
    Path(arguments[4]).write_text("late\n")  # what the real one's processes import after the fork
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(fds[0], 1)
    os.dup2(fds[-1], 2)
    os.chdir(spec["cwd"])
    os.execve(spec["argv"][0], spec["argv"], env)  # noqa: S606 (no shell is wanted)
    return 0


def _hear(daemon: socket.socket) -> tuple[bytes, list[int]]:
    """Return the spec and its descriptors, nothing at the end of file."""
    data, fds = b"", list[int]()
    while not data.endswith(b"\n"):
        more, new, _, _ = socket.recv_fds(daemon, 1 << 16, 4)
        if not more:
            return b"", fds
        data, fds = data + more, [*fds, *new]
    return data, fds


def _fail_late(daemon: socket.socket, trouble: str) -> None:
    if trouble == LATE_DEATH:
        os.kill(os.getpid(), signal.SIGKILL)
    if trouble == LATE_GARBAGE:
        daemon.sendall(_NO_JSON)
    if trouble in {LATE_GARBAGE, SILENT}:
        signal.pause()


def _trouble(engine: Path) -> str:
    try:
        return (engine / FILE).read_text()
    except FileNotFoundError:
        return ""


def _fail(daemon: socket.socket, trouble: str) -> int:
    if trouble == GARBAGE:
        daemon.sendall(_NO_JSON)
    if trouble == FLOOD:
        daemon.sendall(b"x" * (1 << 20))  # and never a line
    if trouble in {HANG, GARBAGE, FLOOD}:
        signal.pause()
    if trouble == REFUSE:
        token = os.environ.get("HF_TOKEN", "")
        _say(daemon, state="refused", why=f"this engine is not known{token}")
    return int(trouble == DIE)


def _say(daemon: socket.socket, **message: object) -> None:
    daemon.sendall(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:], Path(sys.argv[1])))
