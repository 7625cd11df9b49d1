"""What exists of a worker from its spawn to the end of its last process, spawned or found again.

A worker outlives its daemon: its output pipe's read end is in the fd store, its minder ends it
when no daemon comes back.
"""

import fcntl
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.core.launch import WORKER_MARK, LaunchSpec, build_argv
from cahoots_vllm.core.secret import is_secret_name
from cahoots_vllm.host.cgroup import WorkerCgroup
from cahoots_vllm.host.children import Child, Command
from cahoots_vllm.host.oom import expose
from cahoots_vllm.host.process_info import read_environ
from cahoots_vllm.host.process_tree import boot_id
from cahoots_vllm.worker.context import WorkerContext
from cahoots_vllm.worker.leftovers import WorkerMark, end_group, mark_worker
from cahoots_vllm.worker.output import LineSink, OutputPump, line_file
from cahoots_vllm.worker.tree import WorkerTree

# Starts a command, in one way or another. Raises CahootsError (ENGINE_UNUSABLE) or OSError.
Start = Callable[[Command], Awaitable[Child]]

_PIPE_BYTES = 1 << 20  # nobody reads while the daemon restarts; an unprivileged user may have 1 MiB


@dataclass(frozen=True, slots=True)
class Running:
    """One worker's process, output and tree, named after the generation it was started as."""

    generation: int
    child: Child
    pump: OutputPump
    tree: WorkerTree
    minder: Child | None
    api_key: str | None

    async def end(self, context: WorkerContext, on_stuck: Callable[[str], None]) -> None:
        """SIGKILL the whole tree and return when nothing of it is left; as WorkerTree.kill."""
        await self.tree.kill(on_stuck)
        await self.child.exit_status
        self.pump.drain()
        self.forget(context)
        if self.minder is not None:  # outside the tree where there is no cgroup
            self.minder.send_signal(signal.SIGKILL)
            await self.minder.exit_status

    def forget(self, context: WorkerContext) -> None:
        """Take away what a later daemon would find it by: it is gone."""
        self.pump.close()
        self.pump.forget()
        context.store.drop(_output_name(self.generation))
        context.uds(self.generation).unlink(missing_ok=True)


async def spawn(
    context: WorkerContext,
    generation: int,
    launch: LaunchSpec,
    *,
    env: Mapping[str, str],
    secrets: Mapping[str, str],
    sink: LineSink,
    start: Start,
) -> Running:
    """Start a worker. Raises CahootsError (ENGINE_UNUSABLE) or OSError."""
    cgroup = context.cgroup(generation)
    if cgroup is not None:
        cgroup.make()
    uds = context.uds(generation)
    uds.unlink(missing_ok=True)  # vLLM never unlinks: a stale file is Errno 98
    lines = line_file(context.runtime_dir, generation)
    lines.remove()
    read_end, write_end = _pipe()
    command = Command(
        build_argv(launch, str(uds)),
        {**env, **secrets, WORKER_MARK: context.mark(generation)},
        stdout=write_end,
        cgroup=cgroup.path if cgroup is not None else None,
    )
    try:
        child = await start(command)
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    context.store.put(_output_name(generation), read_end, is_polled=False)
    expose(child.pid)
    return Running(
        generation,
        child,
        OutputPump(read_end, sink, secrets.values(), lines),
        WorkerTree(child.pid, context.children, cgroup),
        _start_minder(context, generation, child.pid, cgroup),
        secrets.get("VLLM_API_KEY"),
    )


async def clear_away(
    context: WorkerContext, generation: int, on_stuck: Callable[[str], None]
) -> None:
    """End what a start that came to nothing has left in its cgroup, and remove that."""
    cgroup = context.cgroup(generation)
    if cgroup is not None:
        await end_group(cgroup.path, on_stuck)


def find_again(
    context: WorkerContext, mark: WorkerMark, secrets: Iterable[str], sink: LineSink
) -> Running | None:
    """Return the worker an earlier daemon left, None where nobody could go on with it.

    It is known by boot, pid, start time and the mark in its environment. What is not surely it
    counts as ended: its last words are in the pipe, and say why. Without the pipe nobody could read
    them, and a living one's next word would end it (EPIPE). `secrets` are those of the settings.
    """
    generation = mark.named_after
    pipes = context.store.take(_output_name(generation))
    for spare in pipes[1:]:
        os.close(spare)
    if not pipes or mark.boot != boot_id():
        return None
    environ = read_environ(mark.pid)
    if environ.get(WORKER_MARK) == context.mark(generation):
        child = context.children.adopt(mark.pid, mark.started)
    else:
        environ, child = {}, Child(mark.pid, None)
    context.store.put(_output_name(generation), pipes[0], is_polled=False)
    cgroup = context.cgroup(generation)
    is_in_cgroup = cgroup is not None and cgroup.path.exists()
    # What it was given, and the settings' own: one that has ended has no environment any more.
    given = [value for name, value in environ.items() if is_secret_name(name)]
    return Running(
        generation,
        child,
        OutputPump(pipes[0], sink, [*given, *secrets], line_file(context.runtime_dir, generation)),
        WorkerTree(
            child.pid,
            context.children,
            cgroup if is_in_cgroup else None,
            mark=context.mark(generation),
        ),
        None,  # its minder lives on beside it
        environ.get("VLLM_API_KEY"),
    )


def _output_name(generation: int) -> str:
    return f"output-{generation}"


def _pipe() -> tuple[int, int]:
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        return read_end, write_end  # the user's share of pipe memory is used up (pipe(7))
    return read_end, write_end


def _start_minder(
    context: WorkerContext, generation: int, pid: int, cgroup: WorkerCgroup | None
) -> Child | None:
    """Start the process that ends the worker once no daemon has come back for long."""
    mark = mark_worker(generation, pid)
    if mark is None:
        return None  # gone already
    argv = [sys.executable, "-I", "-m", "cahoots_vllm.worker.minder"]
    argv += [str(context.runtime_dir), str(pid), str(mark.started)]
    argv += [str(context.settings.orphan_timeout_s)]
    argv += [str(cgroup.path)] if cgroup is not None else []
    path = cgroup.path if cgroup is not None else None
    env = {WORKER_MARK: context.mark(generation)}  # it ends with the worker, whoever ends it
    try:
        return context.children.start(Command(argv, env, cgroup=path))
    except (CahootsError, OSError):
        return None  # no process to be had; the worker is served all the same
