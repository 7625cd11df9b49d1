"""Room on the file systems of the directories we use, and whether we may write there. Blocking."""

import os
from pathlib import Path

from cahoots_vllm.core.doctor.memory import DiskFacts, ShmFacts

_SHM = Path("/dev/shm")  # noqa: S108 (looked at, never written)
_PACKAGES = 200


def read_disk(what: str, path: Path) -> DiskFacts:
    """Return the room where `path` is, or would be made. Raises OSError."""
    place = path
    while not place.exists():
        place = place.parent
    room = os.statvfs(place)
    return DiskFacts(
        what=what,
        path=str(path),
        device=place.stat().st_dev,
        free=room.f_bavail * room.f_frsize,
        total=room.f_blocks * room.f_frsize,
        free_inodes=room.f_favail if room.f_files else None,
        why_not_writable=_why_not_writable(path, place),
        runs_programs=not room.f_flag & os.ST_NOEXEC,
    )


def _why_not_writable(path: Path, place: Path) -> str:
    if not _is_writable(place):
        return f"{place} is not writable" if place != path else "permission denied, or read-only"
    foreign = next((each for each in _below(path) if not _is_writable(each)), None)
    # Somebody ran a download as root: the daemon's own into the same place fails much later.
    return f"{foreign} in it is another user's" if foreign is not None else ""


def _is_writable(directory: Path) -> bool:
    return os.access(directory, os.W_OK | os.X_OK)


def _below(path: Path) -> list[Path]:
    """Return the hub's cache directories in it, not the files: there may be thousands."""
    hub = path / "huggingface" / "hub"
    found = [path / "huggingface", hub, *list(hub.glob("models--*"))[:_PACKAGES]]
    found += list(hub.glob("models--*/blobs"))[:_PACKAGES]
    return [each for each in found if each.is_dir()]


def read_shm(path: Path = _SHM) -> ShmFacts:
    """Return the room in /dev/shm; where none is mounted, that. Raises OSError."""
    if not os.path.ismount(path):
        return ShmFacts(0, 0, is_there=False)
    room = os.statvfs(path)
    return ShmFacts(room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize)
