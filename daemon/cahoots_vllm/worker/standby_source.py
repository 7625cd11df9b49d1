"""Where a standby comes from: started, or found again after its daemon has ended.

It outlives its daemon only while somebody holds the daemon's end of its socket: the fd store. With
the last copy closed it ends by itself (launcher.py).
"""

import hashlib
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

from cahoots_vllm.core.launch import WORKER_MARK
from cahoots_vllm.host.cgroup import WorkerCgroup, standby_cgroups
from cahoots_vllm.host.children import Child, Command
from cahoots_vllm.host.oom import prefer
from cahoots_vllm.host.process_info import read_environ
from cahoots_vllm.host.process_tree import read_process
from cahoots_vllm.worker.context import WorkerContext
from cahoots_vllm.worker.reap import end_cgroup
from cahoots_vllm.worker.standby import Connection, Standby, Warmth

_LAUNCHER: Final = Path(__file__).with_name("launcher.py")


@dataclass(frozen=True, slots=True)
class StandbyMark:
    """How a standby is known again in the same boot: `started` is in clock ticks (proc(5)).

    `number` names its cgroup and its stored socket. `made_for` is a digest of all that it is good
    for, since the environment holds secrets. `warmth`: what it said once, if it has.
    """

    number: int
    pid: int
    started: int
    made_for: str
    warmth: Warmth | None = None


def mark_standby(number: int, standby: Standby, made_for: str) -> StandbyMark | None:
    """Return the mark to remember, None if the process is gone already."""
    process = read_process(standby.pid)
    if process is None:
        return None
    return StandbyMark(number, standby.pid, process.started, made_for, standby.warmth)


@lru_cache(maxsize=1)
def protocol_print() -> str:
    """Return a digest of what this daemon's standbys run. Blocking, once.

    Another daemon may speak to it in another way where its own launcher is another one.
    """
    files = sorted(_LAUNCHER.parent.glob("launcher*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def start_standby(
    context: WorkerContext,
    number: int,
    argv: Sequence[str],
    env: Mapping[str, str],
    learned: Path,
    *,
    on_news: Callable[[], None],
) -> Standby:
    """Start one, for an argv of the engine's `vllm serve` that it will most likely become.

    `learned`: what engine processes have imported late is noted there, for the next standby.

    Raises CahootsError (ENGINE_UNUSABLE), OSError.
    """
    cgroup = _cgroup(context, number)
    if cgroup is not None:
        cgroup.make()
    engine = Path(argv[0]).parent
    own = [f"{engine}/python", str(_LAUNCHER), "--fd", "0", "--learn", str(learned), "--"]
    ours, theirs = socket.socketpair()
    nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        child = context.children.start(
            Command(
                [*own, *argv],
                {**env, WORKER_MARK: context.standby_mark},
                stdin=theirs.fileno(),
                stdout=nothing,
                cgroup=cgroup.path if cgroup is not None else None,
            )
        )
    except BaseException:
        ours.close()
        if cgroup is not None:
            cgroup.remove()
        raise
    finally:
        theirs.close()
        os.close(nothing)
    prefer(child.pid)
    return Standby(_connection(context, number, child, ours, env), None, on_news)


def find_standby(
    context: WorkerContext, mark: StandbyMark, on_news: Callable[[], None]
) -> Standby | None:
    """Return the standby an earlier daemon of this boot left, None where there is none to go on.

    It is known by pid, start time and the mark in its environment, which is another one once it is
    a worker. One that cannot be gone on with is ended; its cgroup is the caller's.
    """
    child = context.children.adopt(mark.pid, mark.started)
    env = read_environ(mark.pid) if child.is_running else {}
    # The launcher pads it, to have room for another one.
    is_it = env.get(WORKER_MARK, "").rstrip() == context.standby_mark
    sockets = context.store.take(_socket_name(mark.number)) if is_it else []
    if sockets:
        ours = socket.socket(fileno=sockets[0])
        connection = _connection(context, mark.number, child, ours, env)
        standby = Standby(connection, mark.warmth, on_news)
        if not _is_at_end(ours):
            return standby
        standby.discard()
        return None
    if is_it:  # nobody could tell it anything
        child.send_signal(signal.SIGKILL)
    return None


def end_standbys(parent: Path, kept: int | None) -> None:
    """End what is in standbys' cgroups, but in that of the number `kept`. Blocking."""
    spared = WorkerCgroup.of_standby(parent, kept).path if kept is not None else None
    for path in standby_cgroups(parent):
        if path != spared:
            end_cgroup(path)


def _connection(
    context: WorkerContext, number: int, child: Child, ours: socket.socket, env: Mapping[str, str]
) -> Connection:
    """Store the socket; return all that there is of a standby."""
    name = _socket_name(number)
    context.store.put(name, ours.fileno())
    drop = partial(context.store.drop, name)
    return Connection(child, ours, _cgroup(context, number), env, drop)


def _is_at_end(ours: socket.socket) -> bool:
    """Whether its end is closed, and nothing is left to be read."""
    try:
        return not ours.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _cgroup(context: WorkerContext, number: int) -> WorkerCgroup | None:
    if context.cgroup_parent is None:
        return None
    return WorkerCgroup.of_standby(context.cgroup_parent, number)


def _socket_name(number: int) -> str:
    return f"standby-{number}"
