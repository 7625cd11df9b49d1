"""Ends what an earlier daemon left behind: a worker nobody supervises holds the GPU for ever."""

import asyncio
import signal
from dataclasses import dataclass

from cahoots_vllm.core.launch import WORKER_MARK
from cahoots_vllm.host import process_tree
from cahoots_vllm.host.process_info import environ_value

_POLL_S = 0.05
_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class WorkerMark:
    """How a worker is known again: session and start time (clock ticks since boot) of its main.

    `boot` is the kernel's boot id (random(4)): pids and ticks begin again with each boot.
    """

    generation: int
    pid: int
    started: int
    boot: str = ""


def mark_worker(generation: int, pid: int) -> WorkerMark | None:
    """Return the mark to remember, None if the process is gone already."""
    process = process_tree.read_process(pid)
    if process is None:
        return None
    return WorkerMark(generation, pid, process.started, process_tree.boot_id())


async def end_marked(prefix: str) -> int:
    """SIGKILL every process whose mark begins so (WORKER_MARK); return how many there were.

    Whatever session it is in, and even if nobody has noted its worker. The caller holds the lock of
    the directory that the mark names: no other daemon can own one.
    """
    killed: set[int] = set()
    deadline = asyncio.get_running_loop().time() + _DEADLINE_S
    while left := _marked(prefix):
        if asyncio.get_running_loop().time() > deadline:
            break  # as below
        killed.update(process.pid for process in left)
        process_tree.kill(left, signal.SIGKILL)
        await asyncio.sleep(_POLL_S)
    return len(killed)


def _marked(prefix: str) -> list[process_tree.ProcessInfo]:
    rows = (row for row in process_tree.read_all().values() if not row.is_zombie)
    return [row for row in rows if (environ_value(row.pid, WORKER_MARK) or "").startswith(prefix)]


async def end_leftovers(mark: WorkerMark) -> int:
    """SIGKILL what is left of that worker; return how many processes there were.

    A pid given to somebody else since is not touched: the session's leader, if it lives, must
    have the remembered start time, and no member may be older.
    """
    if mark.boot != process_tree.boot_id():
        return 0
    leader = process_tree.read_process(mark.pid)
    if leader is not None and leader.started != mark.started:
        return 0
    killed: set[int] = set()
    deadline = asyncio.get_running_loop().time() + _DEADLINE_S
    while left := process_tree.session_processes(mark.pid, mark.started):
        if asyncio.get_running_loop().time() > deadline:
            break  # in an uninterruptible wait, or not ours to kill: serving must not wait for it
        killed.update(process.pid for process in left)
        process_tree.kill(left, signal.SIGKILL)
        await asyncio.sleep(_POLL_S)
    return len(killed)
