"""Sends entries to journald with fields of their own (systemd.io, JOURNAL_NATIVE_PROTOCOL)."""

import array
import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
_FIELD_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")  # systemd.journal-fields(7); _X is journald's
_TOO_LARGE = (errno.EMSGSIZE, errno.ENOBUFS)
_SEND_BUFFER_BYTES = 8 * 1024 * 1024  # as sd-journal asks for; the kernel may give less


class Journal:
    """A sender that hardly waits: what a full or missing journal does not take is not sent."""

    def __init__(self, path: Path | None = None, *, wait_s: float = 0.0) -> None:
        """Make the socket. It is not connected, so that a restarted journald is found again.

        `wait_s`: so long a full journal is waited for, once: it is full when others flood it (the
        queue is one for all senders, unix(7)) for microseconds, and when it hangs for good.
        """
        self._path = str(path or SOCKET)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        wait = struct.pack("@ll", int(wait_s), int(wait_s % 1 * 1_000_000))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
        self._waits = wait_s > 0
        self._is_stuck = False

    def send(self, message: str, priority: int, fields: Mapping[str, str]) -> bool:
        """Send one entry; `priority` is syslog's, 0 (emergency) to 7 (debug).

        False: journald did not get it. Raises ValueError for a field name that journald drops.
        """
        entry = b"".join(
            _encode(name, value)
            for name, value in [("MESSAGE", message), ("PRIORITY", str(priority)), *fields.items()]
        )
        flags = 0 if self._waits and not self._is_stuck else socket.MSG_DONTWAIT
        try:
            self._socket.sendto(entry, flags, self._path)
        except OSError as error:
            self._is_stuck = error.errno == errno.EAGAIN
            return error.errno in _TOO_LARGE and self._send_in_file(entry, flags)
        self._is_stuck = False
        return True

    def _send_in_file(self, entry: bytes, flags: int) -> bool:
        """Send an entry too large for a datagram: an empty one that carries a sealed memfd."""
        if not hasattr(os, "memfd_create"):
            return False  # a Python built for an old glibc, such as uv's of before 2026
        try:
            file = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError:
            return False
        try:
            _fill_and_seal(file, entry)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))
            self._socket.sendmsg([], [rights], flags, self._path)
        except OSError:
            return False
        finally:
            os.close(file)
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _fill_and_seal(file: int, entry: bytes) -> None:
    rest = memoryview(entry)
    while rest:
        rest = rest[os.write(file, rest) :]
    # journald reads a file in place, from anybody, once nobody can change it (memfd_create(2)).
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)


def _encode(name: str, value: str) -> bytes:
    if _FIELD_NAME.fullmatch(name) is None:
        reason = f"cannot send the journal field {name!r}: use A-Z, 0-9 and _, at most 64"
        raise ValueError(reason)
    data = value.encode(errors="backslashreplace")  # a lone surrogate is no UTF-8
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


def is_journal_stream(env: Mapping[str, str], fd: int = 2) -> bool:
    """Whether a stream of ours goes to the journal, by $JOURNAL_STREAM (systemd.exec(5)).

    The variable is inherited by whoever we start, and means only the stream it was set for: so its
    device and inode are compared.
    """
    device, _, inode = env.get("JOURNAL_STREAM", "").partition(":")
    try:
        stream = os.fstat(fd)
    except OSError:
        return False  # closed
    return (device, inode) == (str(stream.st_dev), str(stream.st_ino))
