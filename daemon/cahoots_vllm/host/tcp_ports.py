"""Who listens on a TCP port (proc_net(5)): the address, the user, and the process if visible."""

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from pwd import getpwuid

from cahoots_vllm.core.doctor.endpoint import PortHolder
from cahoots_vllm.host.process_info import shown_command

_PROC = Path("/proc")
_LISTEN = "0A"  # TCP_LISTEN in include/net/tcp_states.h
_WORD = 8  # hexadecimal digits of one 32-bit word, in the host's byte order


def port_holders(port: int, proc: Path = _PROC) -> tuple[PortHolder, ...]:
    """Return who listens on a port, in the network namespace of this process. Raises OSError."""
    rows = [row for name in ("tcp", "tcp6") for row in _listening(proc / "net" / name, port)]
    owners = _owners({inode for _, _, inode in rows}, proc) if rows else {}
    found = []
    for address, uid, inode in rows:
        pid = owners.get(inode)
        command = shown_command(pid, proc) if pid is not None else ""
        found.append(PortHolder(f"{address}:{port}", _user(uid), pid, command))
    return tuple(found)


def _listening(table: Path, port: int) -> Iterator[tuple[str, int, str]]:
    """Yield address, uid and inode of each listening row."""
    try:
        lines = table.read_text().splitlines()[1:]
    except FileNotFoundError:
        return  # a kernel without IPv6
    for line in lines:
        fields = line.split()
        address, _, number = fields[1].partition(":")
        if fields[3] == _LISTEN and int(number, 16) == port:
            yield _address(address), int(fields[7]), fields[9]


def _address(text: str) -> str:
    words = [int(text[i : i + _WORD], 16) for i in range(0, len(text), _WORD)]
    packed = struct.pack(f"={len(words)}I", *words)
    if len(words) == 1:
        return socket.inet_ntop(socket.AF_INET, packed)
    return f"[{socket.inet_ntop(socket.AF_INET6, packed)}]"


def _owners(inodes: set[str], proc: Path) -> dict[str, int]:
    """Return the process of each socket; of several (a fork), the first by pid."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[str, int] = {}
    for pid in sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()):
        for target in _descriptors(proc / str(pid) / "fd"):
            if target in wanted:
                found.setdefault(wanted[target], pid)
    return found


def _descriptors(directory: Path) -> Iterator[str]:
    try:
        names = os.listdir(directory)  # noqa: PTH208 (thousands of them)
    except OSError:
        return  # gone, or another user's
    for name in names:
        try:
            yield os.readlink(directory / name)  # noqa: PTH115 (as above)
        except OSError:
            continue  # closed meanwhile


def _user(uid: int) -> str:
    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
