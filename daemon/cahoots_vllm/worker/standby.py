"""A standby: an engine process that has imported vLLM and becomes a worker when it is told to.

The other end is launcher.py, in the engine's own Python; what is said between them is told there.
Where one comes from is standby_source.py's.
"""

import asyncio
import json
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from cahoots_vllm.core.secret import Secret, is_secret_name, mask
from cahoots_vllm.host.cgroup import WorkerCgroup
from cahoots_vllm.host.children import Child, Command
from cahoots_vllm.host.oom import prefer_no_more

# From its start. About 13 s on the reference host; a disk that is cold takes longer.
_WARM_WITHIN_S: Final = 120.0
# A start that waits longer for it to get warm had better be a plain one, which reads the same from
# a slow disk, and imports it three times.
_WAIT_S: Final = 60.0
_STARTS_WITHIN_S: Final = 10.0
_GONE_WITHIN_S: Final = 2.0
_REMOVE_EVERY_S: Final = 0.1
_REMOVE_TRIES: Final = 50
_MESSAGE_BYTES: Final = 64 * 1024
_PROBLEM_CHARS: Final = 500


class StandbyError(Exception):
    """It cannot become the worker; it has ended. The words go on from "the standby"."""


@dataclass(frozen=True, slots=True)
class Warmth:
    """What a standby says of itself; `why_not_fork` is None where its processes are forked."""

    version: str
    why_not_fork: str | None


@dataclass(frozen=True, slots=True)
class Connection:
    """One standby's process, its cgroup, the daemon's end of its socket, and how to unstore that.

    `env` is what it was started with.
    """

    child: Child
    socket: socket.socket
    cgroup: WorkerCgroup | None
    env: Mapping[str, str]
    drop: Callable[[], None]


class Standby:
    """One process. `become` ends its wait, `discard` its life, `leave` this daemon's part in it."""

    def __init__(
        self, connection: Connection, warmth: Warmth | None, on_news: Callable[[], None]
    ) -> None:
        """Listen to it. `warmth` is what it has told an earlier daemon.

        `on_news` is called once it is warm, and once it has a problem.
        """
        # None: not warm yet.
        self.warmth = warmth
        # Why it is of no use any more; it has ended, or is about to.
        self.problem: str | None = None
        self._on_news = on_news
        self._is_asked = self._is_starting = False
        secrets = [value for name, value in connection.env.items() if is_secret_name(name)]
        self._secrets = [Secret(value) for value in secrets]
        self._rest = b""
        self._news = asyncio.Event()
        self._child, self._cgroup = connection.child, connection.cgroup
        self._socket, self._drop = connection.socket, connection.drop
        self._socket.settimeout(0)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._hear)
        self._too_late = loop.call_later(_WARM_WITHIN_S, self._fail, "did not get warm in time")
        if warmth is not None:
            self._too_late.cancel()
        self._child.exit_status.add_done_callback(self._ended)

    @property
    def pid(self) -> int:
        """Its process id, a worker's once it became one."""
        return self._child.pid

    def _hear(self) -> None:
        try:
            data = self._socket.recv(_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._fail("ended")
            return
        self._rest += data
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            self._take(line)
        if len(self._rest) > _MESSAGE_BYTES:
            self._fail("says what is no message")

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
            state = message["state"]
        except (ValueError, TypeError, KeyError, RecursionError):
            self._fail("says what is no message")
            return
        match state:
            case "warm":
                self._too_late.cancel()
                why_not = message.get("why_not_fork")
                self.warmth = Warmth(
                    str(message.get("version")), None if why_not is None else str(why_not)
                )
                self._on_news()
            case "starting" if self._is_asked:
                self._is_starting = True
            case "refused":
                self._fail(f"refused: {message.get('why')}")
            case _:
                self._fail("says what is no message")
        self._news.set()

    def _ended(self, _: object) -> None:
        if not self._is_starting:
            self._fail("ended")

    def _fail(self, why: str) -> None:
        is_news = self._socket.fileno() >= 0  # not one let go of; nor the second problem
        if self.problem is None:
            # What an import says may repeat what it was given. Masked before it is cut: half a
            # secret would not be known as one.
            self.problem = mask(why, self._secrets)[:_PROBLEM_CHARS]
        self.discard()
        self._news.set()
        if is_news:
            self._on_news()

    async def become(self, command: Command) -> Child:
        """Have it run this command, whose process it then is; wait for it to get warm if need be.

        Raises StandbyError, after which nothing of it is left to run the command.
        """
        try:
            async with asyncio.timeout(_WAIT_S):
                while self.warmth is None:
                    await self._listen()
            if command.cgroup is not None:
                WorkerCgroup(command.cgroup).enter(self.pid)
            self._is_asked = True
            self._send(command)
            async with asyncio.timeout(_STARTS_WITHIN_S):
                while not self._is_starting:
                    await self._listen()
        except (OSError, TimeoutError) as error:
            self._fail(f"did not start: {error.strerror or 'no answer in time'}")
            raise StandbyError(self.problem) from error
        except BaseException:
            self.discard()
            raise
        self._close()
        prefer_no_more(self.pid)
        self._remove_cgroup()
        return self._child

    async def _listen(self) -> None:
        """Wait for news; raises StandbyError where there will be none."""
        if self.problem is not None:
            raise StandbyError(self.problem)
        self._news.clear()
        await self._news.wait()

    def _send(self, command: Command) -> None:
        spec = {"argv": list(command.argv), "env": dict(command.env), "cwd": command.cwd}
        fds = [command.stdout] if command.stdout is not None else []
        data = json.dumps(spec).encode() + b"\n"
        sent = socket.send_fds(self._socket, [data], fds)
        if sent != len(data):
            what = "the launch spec does not fit into the socket"
            raise OSError(0, what)

    def discard(self) -> None:
        """End it at once, also in the middle of its imports."""
        self._close()
        self._child.send_signal(signal.SIGKILL)
        if self._cgroup is not None:
            with suppress(OSError):  # gone with it already
                self._cgroup.kill()
            self._child.exit_status.add_done_callback(lambda _: self._remove_cgroup())

    async def end(self) -> None:
        """End it and wait until it is gone: its end must not be news to a loop that closes."""
        self.discard()
        await asyncio.wait((self._child.exit_status,), timeout=_GONE_WITHIN_S)

    def leave(self) -> None:
        """Let it wait for the next daemon: its socket stays open, and stored."""
        self._too_late.cancel()
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.detach()

    def _remove_cgroup(self, tries: int = _REMOVE_TRIES) -> None:
        """Remove it as soon as it is empty: what its imports had started may end a moment later."""
        if self._cgroup is not None and not self._cgroup.remove() and tries > 1:
            loop = asyncio.get_running_loop()
            loop.call_later(_REMOVE_EVERY_S, self._remove_cgroup, tries - 1)

    def _close(self) -> None:
        self._too_late.cancel()
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._drop()
