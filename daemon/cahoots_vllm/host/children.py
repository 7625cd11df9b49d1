"""Child processes: started in a session of their own, watched through a pidfd, reaped by pid.

asyncio's own subprocess support is not used: the daemon is a subreaper (prctl(2),
PR_SET_CHILD_SUBREAPER), so orphans of a worker become its children, and each child must be waited
for by its own pid. A `waitpid(-1)` anywhere would steal exit statuses.
"""

import asyncio
import ctypes
import errno
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.host.process_tree import read_process

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_NO_PROGRAM = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENOEXEC)
_TASK_CHILDREN = Path("/proc/self/task")


@dataclass(frozen=True, slots=True)
class Command:
    """What to run; `cgroup` is a directory the child enters before its program starts."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str = "/"
    stdin: int | None = None
    stdout: int | None = None
    cgroup: Path | None = None


class Child:
    """One process; `exit_status` resolves once it is gone and reaped.

    The status is Popen's: an exit code, or minus the signal's number; None for a process that an
    earlier daemon started: its status went to whoever inherited it.
    """

    def __init__(self, pid: int, pidfd: int | None) -> None:
        """Watch the pidfd: it becomes readable when the process ends (pidfd_open(2)).

        None: the process had ended before anybody could open one.
        """
        self.pid = pid
        self._pidfd = pidfd if pidfd is not None else -1
        self._loop = asyncio.get_running_loop()
        self.exit_status: asyncio.Future[int | None] = self._loop.create_future()
        if pidfd is None:
            self.exit_status.set_result(None)
        else:
            self._loop.add_reader(pidfd, self._reap)

    def _reap(self) -> None:
        try:
            pid, raw = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            status = None
        else:
            if pid == 0:
                return
            status = os.waitstatus_to_exitcode(raw)
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        if not self.exit_status.done():
            self.exit_status.set_result(status)

    @property
    def is_running(self) -> bool:
        """Whether it has not been reaped yet."""
        return self._pidfd >= 0

    def send_signal(self, signum: signal.Signals) -> None:
        """Send a signal to exactly this process; nothing happens when it is gone."""
        if self._pidfd < 0:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, signum)
        except ProcessLookupError:
            return  # it ended and is about to be reaped


class Children:
    """All children of this process: the ones we started, and orphans handed to us."""

    def __init__(self) -> None:
        """Start with none."""
        self._known: dict[int, Child] = {}

    def start(self, command: Command) -> Child:
        """Start a child in a new session; without a standard input of its own it has none.

        Raises CahootsError (ENGINE_UNUSABLE) when the program is none that can be run, OSError when
        the host has no process or memory for it just now.
        """
        argv = list(command.argv)
        if command.cgroup is not None:
            # The shell enters the cgroup first: nothing the program does can be outside of it.
            enter = 'echo 0 > "$0" && exec "$@"'
            argv = ["/bin/sh", "-c", enter, f"{command.cgroup}/cgroup.procs", *argv]
        try:
            process = subprocess.Popen(
                argv,
                env=dict(command.env),
                cwd=command.cwd,
                stdin=command.stdin if command.stdin is not None else subprocess.DEVNULL,
                stdout=command.stdout,
                stderr=subprocess.STDOUT if command.stdout is not None else None,
                start_new_session=True,
            )
        except OSError as error:
            if error.errno not in _NO_PROGRAM:
                raise
            raise CahootsError(
                Kind.ENGINE_UNUSABLE,
                f"cannot run {argv[0]}: {error.strerror}",
                "check the engine's path and permissions",
            ) from error
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError:
            process.kill()  # nobody would own it: an engine without an owner holds the GPU
            process.wait()
            raise
        process.returncode = 0  # Popen must not wait for it as well; its status is Child's
        return self._keep(Child(process.pid, pidfd))

    def adopt(self, pid: int, started: int) -> Child:
        """Watch a process that an earlier daemon started, by pid and start time (proc(5)).

        It has ended when it is gone, or the pid is somebody else's by now.
        """
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return Child(pid, None)
        row = read_process(pid)  # after the pidfd was opened: the pid cannot change hands any more
        if row is None or row.started != started:
            os.close(pidfd)
            return Child(pid, None)
        return self._keep(Child(pid, pidfd))

    def _keep(self, child: Child) -> Child:
        self._known[child.pid] = child
        child.exit_status.add_done_callback(lambda _: self._known.pop(child.pid, None))
        return child

    def others_than(self, pid: int) -> frozenset[int]:
        """Return the pids we started, without this one: roots of other people's trees."""
        return frozenset(self._known) - {pid}

    def reap_orphans(self) -> None:
        """Reap ended children that were handed to us; the ones we started reap themselves."""
        for pid in own_children():
            if pid in self._known:
                continue
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue  # reaped by somebody between the look and the wait


def own_children() -> set[int]:
    """Return the pids of this process's children, over all its threads (proc(5))."""
    pids: set[int] = set()
    for task in _TASK_CHILDREN.iterdir():
        try:
            text = (task / "children").read_text()
        except FileNotFoundError:
            continue  # the thread ended
        pids.update(int(word) for word in text.split())
    return pids


def become_subreaper() -> None:
    """Let orphans of our descendants become our children, not init's (prctl(2))."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent() -> None:
    """Let this process be killed when the one that started it ends, however it ends (prctl(2))."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
