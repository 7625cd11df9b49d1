"""Descriptors that outlive this process: kept by systemd, or carried through our own exec.

systemd keeps them in its file descriptor store (sd_notify(3), FDSTORE=1) and passes all of them to
the next start as it passes sockets (sd_listen_fds(3)). An exec in place carries them itself.
"""

import os
from collections.abc import Callable, Mapping, MutableMapping, Sequence

_FIRST = 3  # SD_LISTEN_FDS_START
_CARRIED = "CAHOOTS_VLLM_FDS"
_LISTEN = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class FdStore:
    """Named descriptors; a name may have several."""

    def __init__(
        self,
        environ: MutableMapping[str, str],
        send: Callable[[str, Sequence[int]], None],
    ) -> None:
        """Take what was inherited, out of `environ` too; `send` tells the service manager."""
        self._send = send
        carried = _carried(environ)
        # Whether this process was another daemon before, and systemd knows of no restart.
        self.is_carried = bool(carried)
        self._found = carried or _listened(environ)
        self._kept: dict[str, list[int]] = {}
        for name in (_CARRIED, *_LISTEN):
            environ.pop(name, None)
        for descriptor in (fd for fds in self._found.values() for fd in fds):
            os.set_inheritable(descriptor, False)  # noqa: FBT003 (its only parameter)

    def take(self, name: str) -> list[int]:
        """Return the descriptors of a name, once; they are the caller's from now on.

        They stay stored until `drop`.
        """
        return self._found.pop(name, [])

    def put(self, name: str, descriptor: int, *, is_polled: bool = True) -> None:
        """Store a descriptor until `drop`; the caller goes on using and closes its own.

        `is_polled` False: kept even when the other end has hung up (a pipe's last words).
        """
        self._kept.setdefault(name, []).append(descriptor)
        poll = "" if is_polled else "\nFDPOLL=0"
        self._send(f"FDSTORE=1\nFDNAME={name}{poll}", [descriptor])

    def drop(self, name: str) -> None:
        """Store a name's descriptors no longer."""
        if self._kept.pop(name, None) is not None:
            self._send(f"FDSTOREREMOVE=1\nFDNAME={name}", ())

    def close_rest(self) -> None:
        """Close what was inherited and nobody took: an old address, a dead worker's pipe."""
        for name, descriptors in self._found.items():
            for descriptor in descriptors:
                os.close(descriptor)
            if name not in self._kept:
                self._send(f"FDSTOREREMOVE=1\nFDNAME={name}", ())
        self._found.clear()

    def carry(self, environ: MutableMapping[str, str]) -> None:
        """Let an exec inherit everything stored; nothing may be started between the two."""
        words = []
        for name, descriptors in self._kept.items():
            for descriptor in descriptors:
                os.set_inheritable(descriptor, True)  # noqa: FBT003 (its only parameter)
                words.append(f"{name}={descriptor}")
        environ[_CARRIED] = " ".join(words)


def _carried(environ: Mapping[str, str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for word in environ.get(_CARRIED, "").split():
        name, _, number = word.rpartition("=")
        found.setdefault(name, []).append(int(number))
    return found


def _listened(environ: Mapping[str, str]) -> dict[str, list[int]]:
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return {}  # meant for whoever started us
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, list[int]] = {}
    for offset in range(int(environ.get("LISTEN_FDS", "0"))):
        name = names[offset] if offset < len(names) else "unknown"
        found.setdefault(name, []).append(_FIRST + offset)
    return found
