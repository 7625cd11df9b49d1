"""What watched files hold at one moment, and the directories that tell of a change. Blocking.

Nothing is remembered here: `watch` compares one look with the next.
"""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

_MAX_BYTES = 4 * 1024 * 1024  # what reads a settings file refuses more
_MAX_LINKS = 40  # the kernel's own bound, path_resolution(7)
_MOUNTS = Path("/proc/self/mountinfo")
# Changed on another host, or behind the kernel's back: inotify(7) tells of none of it.
_REMOTE = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|fuse|fuse\..+|virtiofs|vboxsf|prl_fs|drvfs|ceph|lustre|gpfs|afs"
    r"|beegfs|ocfs2|gfs2"
)
_GONE = (errno.ENOENT, errno.ENOTDIR)
_CLOSED = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV)


@dataclass(frozen=True, slots=True)
class Mark:
    """A file's content by its hash, or why it has none; `stamp` tells a rewrite of the same.

    `is_void`: missing or empty, as a file is between two steps of an editor or a shell's `>`.
    """

    content: str
    stamp: tuple[int, ...] = ()
    is_void: bool = False


MISSING = Mark("missing", is_void=True)


@dataclass(frozen=True, slots=True)
class Look:
    """The marks by file, and where events tell of a change.

    `places`: directories to watch, with device and inode; `names`: paths whose events matter;
    `folders`: directories in which every *.toml matters; `blind`: why events will not tell
    everything, else "".
    """

    marks: Mapping[Path, Mark] = field(default_factory=dict)
    places: frozenset[tuple[str, int, int]] = frozenset()
    names: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()
    blind: str = ""


def look_at(sources: tuple[Path, ...]) -> Look:
    """Look at files; a directory stands for its *.toml.

    Raises OSError where the host, not the file, is the reason: no descriptors, an input error.
    """
    trail = _Trail()
    marks: dict[Path, Mark] = {}
    for source in sources:
        real = trail.follow(source)
        if real is None or not os.path.isdir(real):  # noqa: PTH112 (strings: this runs often)
            marks[source] = _mark(source)
            continue
        trail.add_folder(real)
        try:
            names = sorted(entry.name for entry in Path(real).iterdir() if entry.suffix == ".toml")
        except OSError as error:
            marks[source] = _unread(error)
            continue
        for name in names:
            trail.follow(source / name)
            marks[source / name] = _mark(source / name)
    return trail.look(marks)


def _unread(error: OSError) -> Mark:
    if error.errno in _GONE:
        return MISSING
    if error.errno in _CLOSED:
        return Mark(f"closed {error.errno}")
    raise error


def _mark(path: Path) -> Mark:
    try:
        # Non-blocking: a FIFO would wait for its other end for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return _unread(error)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return Mark("no file")
        content = _read(descriptor)
        info = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    stamp = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
    return Mark(f"{info.st_size} {digest}", stamp, is_void=not content)


def _read(descriptor: int) -> bytes:
    parts, left = [], _MAX_BYTES
    while left and (part := os.read(descriptor, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


class _Trail:
    """Collects what lies on the way to files: directories whose entries decide where it leads."""

    def __init__(self) -> None:
        self._places: set[str] = set()
        self._names: set[str] = set()
        self._folders: set[str] = set()

    def follow(self, path: Path) -> str | None:
        """Go as the kernel does (path_resolution(7)); return the end, None if there is none.

        Each directory with a link in it counts, the one with the file, and where a part is missing
        the last one that exists.
        """
        here, ahead, links = "/", list(reversed(path.parts[1:])), 0
        while ahead:
            part = ahead.pop()
            # "here" has no link in it, so that ".." below means what it says.
            entry = os.path.join(here, part)  # noqa: PTH118 (as above)
            target = self._step(here, entry, is_last=not ahead)
            if target == entry and ahead:
                here = entry
            elif target == entry:
                return entry
            elif target is None or links == _MAX_LINKS:
                return None
            else:
                links += 1
                here = "/" if target.startswith("/") else here
                ahead += (part for part in reversed(target.split("/")) if part not in ("", "."))
        return here

    def _step(self, directory: str, entry: str, *, is_last: bool) -> str | None:
        """Return a link's target, the entry itself where it leads on, None where the way ends."""
        try:
            mode = os.lstat(entry).st_mode
            target = os.readlink(entry) if stat.S_ISLNK(mode) else None  # noqa: PTH115 (as above)
        except OSError:
            mode, target = 0, None
        if target is None and stat.S_ISDIR(mode) and not is_last:
            return entry
        self._places.add(directory)
        self._names.add(entry)
        return target or (entry if is_last and mode else None)

    def add_folder(self, real: str) -> None:
        """Note a directory whose *.toml count."""
        self._places.add(real)
        self._folders.add(real)

    def look(self, marks: Mapping[Path, Mark]) -> Look:
        """Return all of it, and why some of the directories cannot tell."""
        places = set()
        blind = ""
        for place in sorted(self._places):
            try:
                info = os.stat(place)  # noqa: PTH116 (as above)
            except OSError:
                continue  # gone since: the next look goes another way
            kind = _file_system(info.st_dev)
            if not os.access(place, os.R_OK, effective_ids=True):
                blind = blind or f"no permission to watch {place}"
                continue
            if _REMOTE.fullmatch(kind):
                blind = blind or f"{place} is on {kind}, where others change files unnoticed"
            places.add((place, info.st_dev, info.st_ino))
        return Look(
            marks, frozenset(places), frozenset(self._names), frozenset(self._folders), blind
        )


@lru_cache(maxsize=64)
def _file_system(device: int) -> str:
    """Return the type of a mounted file system (proc_pid_mountinfo(5)), "" if it is not listed.

    Btrfs gives its subvolumes devices of their own, which are not: none of them is remote.
    """
    try:
        lines = _MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        ours, _, theirs = line.partition(" - ")
        if ours.split()[2] == number:
            return theirs.split()[0]
    return ""
