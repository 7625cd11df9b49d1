"""What is checked before anything starts: room on the disks, and the port."""

import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from .console import SetupError, say, size

LISTENING = "0A"  # state TCP_LISTEN in /proc/net/tcp, proc(5)


def require_space(needs: Mapping[Path, int], what: str) -> None:
    """Check that each directory's filesystem has room for what all directories on it need."""
    per_device: dict[int, list[tuple[Path, int]]] = {}
    for directory, count in needs.items():
        existing = _nearest_existing(directory)
        per_device.setdefault(existing.stat().st_dev, []).append((existing, count))
    for entries in per_device.values():
        place, needed = entries[0][0], sum(count for _, count in entries)
        free = shutil.disk_usage(place).free
        text = f"{what} needs about {size(needed)} free in {place}, has {size(free)}"
        if free < needed:
            remedy = "free some space there"
            if len(entries) > 1 or place != _nearest_existing(next(iter(needs))):
                remedy += ", or point TMPDIR or XDG_CACHE_HOME at a disk with more room"
            raise SetupError(text, f"{remedy}, and run this again")
        if needed:
            say(f"      {text}")


def _nearest_existing(directory: Path) -> Path:
    return next(place for place in (directory, *directory.parents) if place.exists())


def require_port(port: int) -> None:
    """Check that the gateway's port can be listened on; else say who holds it."""
    with socket.socket() as probe:
        # As servers do: a port whose last connections are just closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError as error:
            message = f"port {port} may be listened on by root only"
            raise SetupError(message, "choose one above 1023 with --port") from error
        except OSError as error:
            holder = find_holder(port)
            remedy = f"stop that program, or take another port: --port {port + 1}"
            if holder is not None and "cahoots-vllmd" in holder:
                remedy = f"it is this very daemon: use it (cahootsctl status), or {remedy}"
            by = f" by {holder}" if holder else ""
            message = f"port {port} is taken{by}"
            raise SetupError(message, remedy) from error


def require_alone(control_socket: str) -> None:
    """Check that no other daemon of this user answers: its answers would pass for this one's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(control_socket)
        except OSError:
            return
    message = f"a daemon of yours is running already, at {control_socket}"
    raise SetupError(message, "use it (cahootsctl status), or end it with Ctrl-C where it runs")


def find_holder(port: int) -> str | None:
    """Return command and pid of the process that listens on a TCP port, if they can be seen."""
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(entry.readlink()) in inodes for entry in (process / "fd").iterdir()):
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                command = " ".join(Path(word).name for word in words[:2] if word)
                return f"{command} (pid {process.name})"
        except OSError:
            continue  # it ended, or it is another user's
    return "a process of another user"


def _listening_inodes(port: int) -> Iterator[str]:
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if not table.exists():
            continue  # a host without IPv6
        for row in table.read_text().splitlines()[1:]:
            fields = row.split()
            if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]
