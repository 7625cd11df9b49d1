"""What systemd does for a service, as far as the daemon needs it: notifications and the fd store.

Written after sd_notify(3), sd_listen_fds(3) and what systemd 252 was seen to do; the real one is
tests/system's.
"""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

_MAX_FDS = 64
# Between fork and exec: LISTEN_PID must be the child's own, and the descriptors stand from 3 on.
_START = """
import os, sys
fds = [int(word) for word in sys.argv[1].split(",") if word]
high = [os.dup2(fd, 200 + i, inheritable=False) for i, fd in enumerate(fds)]
for fd in fds:
    os.close(fd)
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class ServiceManager:
    """Listens at `address` from now on; keeps descriptors over the daemon's restarts."""

    def __init__(self, address: Path) -> None:
        self.address = address
        self.messages: list[str] = []
        self.stored: list[tuple[str, int]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(address))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def names(self) -> list[str]:
        """Return the names in the store."""
        return sorted(name for name, _ in self.stored)

    def said(self, line: str) -> int:
        """Return how often a notification's line came."""
        return sum(line in message.splitlines() for message in tuple(self.messages))

    def _read(self) -> None:
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._socket, 4096, _MAX_FDS)
            except OSError:
                return  # closed
            message = data.decode()
            self.messages.append(message)
            values = dict(line.partition("=")[::2] for line in message.splitlines())
            if "FDSTORE" in values:
                self._store(values["FDNAME"], descriptors)
            elif "FDSTOREREMOVE" in values:
                gone = [fd for name, fd in self.stored if name == values["FDNAME"]]
                self.stored = [row for row in self.stored if row[1] not in gone]
                for descriptor in gone:
                    os.close(descriptor)

    def _store(self, name: str, descriptors: list[int]) -> None:
        """Keep each open file once, as systemd does."""
        there = {os.fstat(fd).st_ino for _, fd in self.stored}
        for descriptor in descriptors:
            if os.fstat(descriptor).st_ino in there:
                os.close(descriptor)
            else:
                self.stored.append((name, descriptor))

    def popen(
        self, command: Sequence[str], environment: Mapping[str, str], cwd: Path, log: int
    ) -> subprocess.Popen[bytes]:
        """Start the service with what it stored; `command` is Python's arguments."""
        fds = [fd for _, fd in self.stored]
        env = {
            **environment,
            "NOTIFY_SOCKET": str(self.address),
            "LISTEN_FDS": str(len(fds)),
            "LISTEN_FDNAMES": ":".join(name for name, _ in self.stored),
        }
        argv = [sys.executable, "-c", _START, ",".join(map(str, fds)), *command]
        return subprocess.Popen(
            argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=fds
        )

    def forget(self) -> None:
        """Let go of what is stored, as systemd does when the unit is stopped or has failed."""
        for _, descriptor in self.stored:
            os.close(descriptor)
        self.stored.clear()

    def close(self) -> None:
        """Let go of everything; connections to what was stored are refused from now on."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)
        self.forget()
