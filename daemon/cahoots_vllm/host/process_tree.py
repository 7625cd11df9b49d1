"""Reads /proc: who descends from whom. The fallback where no delegated cgroup exists.

`killpg` is no tree kill: engines start helpers in sessions of their own.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """One row of /proc/PID/stat (proc(5)); `started` is in clock ticks since boot."""

    pid: int
    parent: int
    session: int
    started: int
    is_zombie: bool


def boot_id() -> str:
    """Return the kernel's random id of this boot (random(4))."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def read_process(pid: int) -> ProcessInfo | None:
    """Return a process's row, None when it is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None  # gone, or another user's behind hidepid (proc(5)): none of ours
    # The name may hold spaces and parentheses: fields start behind the last one.
    fields = text[text.rindex(")") + 2 :].split()
    return ProcessInfo(pid, int(fields[1]), int(fields[3]), int(fields[19]), fields[0] in "ZX")


def read_all() -> dict[int, ProcessInfo]:
    """Return every process that is visible to us, by pid."""
    rows = (read_process(int(entry.name)) for entry in _PROC.iterdir() if entry.name.isdigit())
    return {row.pid: row for row in rows if row is not None}


def descendants(roots: Iterable[int], rows: dict[int, ProcessInfo]) -> set[int]:
    """Return the roots and everything below them."""
    children: dict[int, list[int]] = {}
    for row in rows.values():
        children.setdefault(row.parent, []).append(row.pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid in found:
            continue
        found.add(pid)
        waiting += children.get(pid, [])
    return found & rows.keys()


def worker_processes(main: int, foreign: frozenset[int]) -> list[ProcessInfo]:
    """Return the living processes of a worker, orphans handed to this process included.

    The daemon is a subreaper, so whatever the worker leaves behind becomes the daemon's child.
    `foreign` are the daemon's other children; two workers' orphans cannot be told apart here, a
    cgroup tells them.
    """
    rows = read_all()
    orphans = {row.pid for row in rows.values() if row.parent == os.getpid()} - foreign
    found = descendants(orphans | {main}, rows) - descendants(foreign, rows) - {os.getpid()}
    return [rows[pid] for pid in found if not rows[pid].is_zombie]


def session_processes(session: int, started: int) -> list[ProcessInfo]:
    """Return what is left of a session and its descendants, e.g. of an earlier daemon's worker.

    `started` guards against a session id that was given again: nobody in the session can be older.
    """
    rows = read_all()
    members = {r.pid for r in rows.values() if r.session == session and r.started >= started}
    return [rows[pid] for pid in descendants(members, rows) if not rows[pid].is_zombie]


def look_twice(look: Callable[[], list[ProcessInfo]]) -> list[ProcessInfo]:
    """Return whom a look finds; nobody only where a second one finds nobody, too.

    /proc is no snapshot. Who was forked after it was listed, by one that ended before its own row
    was read, is missed by that look; its parent has changed by the next.
    """
    return look() or look()


def kill(processes: Iterable[ProcessInfo], signum: signal.Signals) -> None:
    """Signal each process if it is still the one that was seen (pid and start time)."""
    for process in processes:
        try:
            pidfd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        try:
            again = read_process(process.pid)
            if again is not None and again.started == process.started:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(pidfd, signum)
        finally:
            os.close(pidfd)


def title(pid: int) -> str:
    """Return a process's command line as one string, empty when it is gone (proc(5))."""
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()
