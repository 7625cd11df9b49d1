"""Ends what an earlier daemon left behind: a worker nobody supervises holds the GPU for ever."""

import asyncio
import signal
from dataclasses import dataclass

from cahoots_vllm.host import process_tree

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class WorkerMark:
    """How a worker is known again: session and start time (clock ticks since boot) of its main."""

    generation: int
    pid: int
    started: int


def mark_worker(generation: int, pid: int) -> WorkerMark | None:
    """Return the mark to remember, None if the process is gone already."""
    process = process_tree.read_process(pid)
    return WorkerMark(generation, pid, process.started) if process is not None else None


async def end_leftovers(mark: WorkerMark) -> int:
    """SIGKILL what is left of that worker; return how many processes there were.

    A pid given to somebody else since is not touched: the session's leader, if it lives, must
    have the remembered start time, and no member may be older.
    """
    leader = process_tree.read_process(mark.pid)
    if leader is not None and leader.started != mark.started:
        return 0
    killed: set[int] = set()
    while left := process_tree.session_processes(mark.pid, mark.started):
        killed.update(process.pid for process in left)
        process_tree.kill(left, signal.SIGKILL)
        await asyncio.sleep(_POLL_S)
    return len(killed)
