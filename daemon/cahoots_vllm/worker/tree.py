"""A worker's whole process tree: who is in it, and how it is ended without leaving anyone.

With a delegated cgroup that is one write; without, a walk over descendants and orphans until
none is left (the daemon is a subreaper).
"""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from cahoots_vllm.core.launch import WORKER_MARK
from cahoots_vllm.host import process_tree, shared_memory
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.cgroup import WorkerCgroup
from cahoots_vllm.host.children import Children
from cahoots_vllm.host.process_info import environ_value

_POLL_S = 0.02
_STUCK_S = 10.0
_LOOK_DEADLINE_S = 2.0
_GROWTH_MIB = 8.0
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 1024 / 1024


class WorkerTree:
    """The processes of one generation."""

    def __init__(
        self,
        main: int,
        children: Children,
        cgroup: WorkerCgroup | None,
        *,
        mark: str | None = None,
    ) -> None:
        """`main` is the pid and session of the API server.

        `mark`: an earlier daemon started it, so its orphans are not ours; known by their
        environment instead (WORKER_MARK).
        """
        self._main = main
        self._children = children
        self._cgroup = cgroup
        self._mark = mark
        self._shared: set[str] = set()

    def pids(self) -> list[int]:
        """Return the living processes, zombies left out."""
        if self._cgroup is not None:
            return self._cgroup.pids()
        return [process.pid for process in self._walk()]

    def _walk(self) -> list[process_tree.ProcessInfo]:
        if self._mark is not None:
            rows = process_tree.read_all().values()
            return [row for row in rows if not row.is_zombie and self._is_marked(row.pid)]
        foreign = self._children.others_than(self._main)
        return process_tree.worker_processes(self._main, foreign)

    def _is_marked(self, pid: int) -> bool:
        return environ_value(pid, WORKER_MARK) == self._mark

    def engine_processes(self) -> dict[int, str]:
        """Return pid and title of EngineCore and the workers.

        They set their titles `VLLM::…` once they are up (vllm/utils/system_utils.py:181).
        """
        titles = {pid: process_tree.title(pid) for pid in self.pids()}
        return {pid: title for pid, title in titles.items() if title.startswith("VLLM::")}

    def resident_mib(self) -> float:
        """Return the resident memory of all its processes in MiB (shared pages count twice)."""
        return sum(_resident_pages(pid) for pid in self.pids()) * _PAGE_MIB

    async def note_shared_memory(self) -> None:
        """Remember what it shares by name: the dead cannot be asked, nor can some of the hung.

        A process that hangs in its memory's lock lets nobody read its mappings (mmap_lock). It is
        ended all the same, as where no thread can be had for the look.
        """
        look = partial(shared_memory.mapped, self.pids())
        with suppress(TimeoutError):
            self._shared |= await run_blocking(look, deadline_s=_LOOK_DEADLINE_S)

    async def kill(self, on_stuck: Callable[[str], None]) -> None:
        """SIGKILL until nobody is left.

        Never gives up, who waits for it may: a process in an uninterruptible wait (state D, a hung
        driver or disk) dies once that ends. `on_stuck` is told who it is after 10 s, and every 10 s
        again.
        """
        said_at = asyncio.get_running_loop().time()
        await self.note_shared_memory()
        while not self._is_empty():
            now = asyncio.get_running_loop().time()
            if now - said_at >= _STUCK_S:
                said_at = now
                on_stuck(f"cannot be killed yet: {', '.join(map(str, self.pids()))}")
            if self._cgroup is not None:
                self._cgroup.kill()
            else:
                process_tree.kill(self._walk(), signal.SIGKILL)
            self._children.reap_orphans()
            await asyncio.sleep(_POLL_S)
        self._children.reap_orphans()
        with suppress(TimeoutError):
            take_away = partial(shared_memory.unlink, self._shared)
            await run_blocking(take_away, deadline_s=_LOOK_DEADLINE_S)
        if self._cgroup is not None:
            self._cgroup.remove()

    def _is_empty(self) -> bool:
        if self._cgroup is not None:
            return not self._cgroup.is_populated
        return not process_tree.look_twice(self._walk)


def _resident_pages(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


class Growth:
    """When the tree's resident memory last changed: a large load may log nothing for minutes."""

    def __init__(self, tree: WorkerTree, *, every_s: float) -> None:
        """Look at the tree once every so many seconds."""
        self._tree = tree
        self._every_s = every_s
        self._sampled_at = self._grown_at = asyncio.get_running_loop().time()
        self._resident = 0.0

    def grown_at(self, now: float) -> float:
        """Return the time of the last change seen; looks at the tree once every `every_s`."""
        if now - self._sampled_at >= self._every_s:
            self._sampled_at, before = now, self._resident
            self._resident = self._tree.resident_mib()
            if abs(self._resident - before) >= _GROWTH_MIB:
                self._grown_at = now
        return self._grown_at
