"""What a daemon says of its standby, and waiting for it to say so."""

from pathlib import Path
from typing import Any

from .harness import Daemon, wait_for


def standby(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.status()["standby"]
    return found


def wait_warm(daemon: Daemon, *, after: int | None = None) -> int:
    """Return the pid of a warm standby other than `after`."""

    def warm() -> int | None:
        found = standby(daemon)
        is_new = found["state"] == "warm" and found["pid"] != after
        return int(found["pid"]) if is_new else None

    return wait_for(warm, what="a standby is warm")


def wait_worker(daemon: Daemon, pid: int) -> None:
    """Return once this process is the worker, and serves."""

    def is_it() -> bool | None:
        status = daemon.status()
        return (status["state"] == "ready" and status["worker"]["pid"] == pid) or None

    wait_for(is_it, what=f"{pid} is the worker")


def wait_none(daemon: Daemon) -> str:
    """Return why there is no standby, once there is none."""

    def why() -> str | None:
        found = standby(daemon)
        return str(found["why"]) if found["state"] == "none" and found["why"] else None

    return wait_for(why, what="there is no standby")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False
