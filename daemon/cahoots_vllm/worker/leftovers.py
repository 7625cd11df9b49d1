"""Ends what an earlier daemon left behind: a worker nobody supervises holds the GPU for ever."""

import asyncio
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cahoots_vllm.core.launch import WORKER_MARK
from cahoots_vllm.host import cgroup, process_tree, shared_memory
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.process_info import environ_value
from cahoots_vllm.worker.reap import end_cgroup

_POLL_S = 0.05
_DEADLINE_S = 10.0
_END_DEADLINE_S = 20.0
_LOOK_DEADLINE_S = 2.0
# A generation's socket and lines (WorkerContext.uds, line_file).
_FILE = re.compile(r"worker-(\d+)\.(?:sock|log(?:\.[12])?)")


@dataclass(frozen=True, slots=True)
class WorkerMark:
    """How a worker is known again: session and start time (clock ticks since boot) of its main.

    `boot` is the kernel's boot id (random(4)): pids and ticks begin again with each boot.
    `number` is the generation that its socket, cgroup and processes are named after, None: its own.
    `made_for`: a digest of all that it is good for, where it can be put to sleep.
    """

    generation: int
    pid: int
    started: int
    boot: str = ""
    number: int | None = None
    made_for: str = ""

    @property
    def named_after(self) -> int:
        """The generation that it was started as."""
        return self.generation if self.number is None else self.number


def mark_worker(
    generation: int, pid: int, number: int | None = None, made_for: str = ""
) -> WorkerMark | None:
    """Return the mark to remember, None if the process is gone already."""
    process = process_tree.read_process(pid)
    if process is None:
        return None
    boot = process_tree.boot_id()
    return WorkerMark(generation, pid, process.started, boot, number, made_for)


async def end_all(
    cgroup_parent: Path | None,
    runtime_dir: Path,
    mark: WorkerMark | None,
    spared: int | None,
    on_stuck: Callable[[str], None],
) -> int:
    """End every worker of earlier daemons; return how many processes there were, cgroups aside.

    `mark` is the one that was noted last; `spared` is the session, and first process, of a standby
    that is gone on with. `on_stuck` as of `end_group`. The caller holds the lock of the directory.
    """
    if cgroup_parent is not None:
        for path in cgroup.worker_cgroups(cgroup_parent):
            if spared not in cgroup.WorkerCgroup(path).pids():
                await end_group(path, on_stuck)
    count = await end_marked(f"{runtime_dir}#", spared)
    count += await end_leftovers(mark) if mark is not None else 0
    await _forget(runtime_dir, None)
    return count


async def end_others(
    cgroup_parent: Path | None,
    runtime_dir: Path,
    kept: int,
    spared: int | None,
    on_stuck: Callable[[str], None],
) -> int:
    """End the workers of earlier daemons but the one named after `kept`; else as `end_all`."""
    own = f"worker-{kept}"
    for path in cgroup.worker_cgroups(cgroup_parent) if cgroup_parent is not None else ():
        if path.name.startswith("worker-") and path.name != own:
            await end_group(path, on_stuck)
    count = await end_marked(f"{runtime_dir}#", spared, f"{runtime_dir}#{kept}")
    await _forget(runtime_dir, kept)
    return count


async def end_group(path: Path, on_stuck: Callable[[str], None]) -> None:
    """End what is in a worker's cgroup, and remove that; `on_stuck` is told who is left after 15 s.

    Nobody waits for those: a driver or a disk that hangs is no reason not to serve.
    """
    group = cgroup.WorkerCgroup(path)
    try:
        await run_blocking(partial(end_cgroup, path), deadline_s=_END_DEADLINE_S)
    except TimeoutError:  # no thread can be had, maybe for those in there: one write ends them
        with suppress(FileNotFoundError):  # gone meanwhile
            group.kill()
    if group.is_populated:
        on_stuck(f"has not ended yet: {', '.join(map(str, group.pids()))}")


async def _forget(runtime_dir: Path, kept: int | None) -> None:
    with suppress(TimeoutError):  # a start takes away what has its own number
        forget = partial(_forget_files, runtime_dir, kept)
        await run_blocking(forget, deadline_s=_END_DEADLINE_S)


def _forget_files(runtime_dir: Path, kept: int | None) -> None:
    """Delete what the workers that are gone have left there: not those of the generation `kept`."""
    for path in runtime_dir.iterdir():
        found = _FILE.fullmatch(path.name)
        if found is not None and int(found[1]) != kept:
            with suppress(OSError):  # a directory of that name is none of ours
                path.unlink(missing_ok=True)


async def end_marked(prefix: str, spared: int | None = None, but: str | None = None) -> int:
    """SIGKILL every process whose mark begins so (WORKER_MARK); return how many there were.

    Not those whose mark is `but`, nor the session `spared`. Whatever session else it is in, and
    even if nobody has noted its worker. The caller holds the lock of the directory that the mark
    names: no other daemon can own one.
    """
    killed, shared = await _kill(
        lambda: [row for row, mark in _marked(prefix) if row.session != spared and mark != but]
    )
    # What a worker that is gone on with has mapped as well is still in use.
    await _take_away(shared, [row for row, _ in _marked(prefix)])
    return killed


async def _kill(look: Callable[[], list[process_tree.ProcessInfo]]) -> tuple[int, set[str]]:
    """SIGKILL until nobody is seen; return how many there were, and what memory they shared."""
    killed: set[int] = set()
    shared: set[str] = set()
    deadline = asyncio.get_running_loop().time() + _DEADLINE_S
    while left := process_tree.look_twice(look):
        if asyncio.get_running_loop().time() > deadline:
            break  # in an uninterruptible wait, or not ours to kill: serving must not wait for it
        killed.update(process.pid for process in left)
        with suppress(TimeoutError):  # a hung process may keep its own (proc_pid_maps(5)) from us
            shared |= await _mapped(left)  # now: the dead cannot be asked
        process_tree.kill(left, signal.SIGKILL)
        await asyncio.sleep(_POLL_S)
    return len(killed), shared


async def _mapped(rows: list[process_tree.ProcessInfo]) -> set[str]:
    look = partial(shared_memory.mapped, [row.pid for row in rows])
    return await run_blocking(look, deadline_s=_LOOK_DEADLINE_S)


async def _take_away(shared: set[str], living: list[process_tree.ProcessInfo]) -> None:
    """Unlink what the killed have shared, but for what these others have mapped, too."""
    with suppress(TimeoutError):  # as above; then all is left
        names = shared - await _mapped(living)
        await run_blocking(partial(shared_memory.unlink, names), deadline_s=_LOOK_DEADLINE_S)


def _marked(prefix: str) -> list[tuple[process_tree.ProcessInfo, str]]:
    rows = (row for row in process_tree.read_all().values() if not row.is_zombie)
    marks = ((row, environ_value(row.pid, WORKER_MARK) or "") for row in rows)
    return [(row, mark) for row, mark in marks if mark.startswith(prefix)]


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
    killed, shared = await _kill(lambda: process_tree.session_processes(mark.pid, mark.started))
    await _take_away(shared, [])
    return killed
