"""Replaces the content of somebody's file and keeps everything else about it: owner, mode, links.

All or nothing, by a new file beside the old one and rename(2). A file of our own in a directory
closed to us is written in place, as the package installs `.env`. Blocking.
"""

import contextlib
import errno
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

_MAX_BYTES = 4 * 1024 * 1024  # what reads a settings file refuses more
_ACL = "system.posix_acl_access"  # acl(5), as Linux keeps it
_NO_PERMISSION = (errno.EACCES, errno.EPERM)
# An owner that our user namespace does not know is EINVAL (user_namespaces(7)).
_NOT_OURS_TO_GIVE = (*_NO_PERMISSION, errno.EINVAL)
_REASONS = {
    errno.ENOENT: "it is gone",
    errno.EISDIR: "it is not a regular file",
    errno.ENXIO: "it is not a regular file",
    errno.EBUSY: "it is mounted as a single file, which cannot be replaced",
}


class CannotSwapError(Exception):
    """Why not; `forbidden` is the path whose owner may, where permissions are the reason."""

    def __init__(self, reason: str, forbidden: Path | None = None) -> None:
        """Keep both."""
        super().__init__(reason)
        self.reason = reason
        self.forbidden = forbidden


@dataclass(frozen=True, slots=True)
class SwapFile:
    """A file as it was when it was read; `real` is where its links end."""

    path: Path
    real: Path
    content: bytes
    seen: os.stat_result

    @classmethod
    def open(cls, path: Path) -> "SwapFile":
        """Read a file that we may write. Raises CannotSwapError."""
        real = path
        try:
            real = Path(os.path.realpath(path, strict=True))
            # Also for writing: a file closed to us is not to be replaced by its directory's leave.
            file = os.open(real, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(file, "rb") as opened:
                seen = os.fstat(file)
                if not stat.S_ISREG(seen.st_mode):
                    raise CannotSwapError(_REASONS[errno.EISDIR])
                content = opened.read(_MAX_BYTES + 1)
        except OSError as error:
            raise _explain(error, "the file", real) from error
        if len(content) > _MAX_BYTES:
            reason = "it is larger than 4 MiB"
            raise CannotSwapError(reason)
        return cls(path, real, content, seen)

    def replace(self, content: bytes, *, is_rehearsal: bool = False) -> None:
        """Put the new content in place of the old. Raises CannotSwapError: nothing has changed.

        A rehearsal does all of it but the renaming.
        """
        directory = self.real.parent
        if self.seen.st_uid == os.geteuid() and not _is_open(directory):
            if not is_rehearsal:  # opening it has shown all that can be
                self._overwrite(content)
            return
        try:
            file, name = tempfile.mkstemp(dir=directory, prefix=f".{self.real.name}.")
            try:
                with os.fdopen(file, "wb") as opened:
                    _make_alike(file, self.real, self.seen)
                    opened.write(content)
                    opened.flush()
                    os.fsync(file)
                self._check_unchanged()
                if is_rehearsal:
                    Path(name).unlink()
                    return
                Path(name).replace(self.real)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise _explain(error, f"in {directory}", directory) from error
        _sync(directory)

    def _overwrite(self, content: bytes) -> None:
        """Write into the file itself: in one write(2), with line ends up to the old length.

        So nobody ever finds the end of the old text behind the new one, whoever is killed.
        """
        try:
            file = os.open(self.real, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                self._check_unchanged()
                _fill(file, content, self.content)
            finally:
                os.close(file)
        except OSError as error:
            raise _explain(error, "the file", self.real) from error

    def _check_unchanged(self) -> None:
        now = self.real.stat()
        is_same = os.path.realpath(self.path) == str(self.real)
        if not is_same or _identity(now) != _identity(self.seen):
            reason = "it changed meanwhile"
            raise CannotSwapError(reason)


def _fill(file: int, content: bytes, old: bytes) -> None:
    """Put the content into an open file; what was there where there is no room for it."""
    try:
        _write_whole(file, content.ljust(len(old), b"\n"))
        os.ftruncate(file, len(content))
        os.fsync(file)
    except OSError:
        os.pwrite(file, old, 0)
        os.ftruncate(file, len(old))
        raise


def _write_whole(file: int, content: bytes) -> None:
    if os.pwrite(file, content, 0) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _is_open(directory: Path) -> bool:
    return os.access(directory, os.W_OK | os.X_OK, effective_ids=True)


def _identity(info: os.stat_result) -> tuple[int, ...]:
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def _explain(error: OSError, where: str, forbidden: Path) -> CannotSwapError:
    if error.errno in _NO_PERMISSION:
        return CannotSwapError(f"no permission to write {where}", forbidden)
    said = (error.strerror or str(error)).lower()
    return CannotSwapError(_REASONS.get(error.errno or 0, said))


def _make_alike(file: int, model: Path, info: os.stat_result) -> None:
    """Give a new file the owner, group, extended attributes and mode of another.

    Raises CannotSwapError where the new file would let in others than the old one does.
    """
    ours = os.fstat(file)
    try:
        if (ours.st_uid, ours.st_gid) != (info.st_uid, info.st_gid):
            os.fchown(file, info.st_uid, info.st_gid)
        _copy_attributes(file, model)
        os.fchmod(file, stat.S_IMODE(info.st_mode))  # after chown(2), which clears bits
    except OSError as error:
        if error.errno not in _NOT_OURS_TO_GIVE:
            raise
        reason = "its owner, group or access list cannot be kept"
        raise CannotSwapError(reason, model) from error


def _copy_attributes(file: int, model: Path) -> None:
    try:
        names = os.listxattr(model)
    except OSError:
        names = []  # this file system has none
    if _ACL not in names:
        with contextlib.suppress(OSError):  # none to remove
            os.removexattr(file, _ACL)  # a new file inherits its directory's default one
    for name in names:
        try:
            os.setxattr(file, name, os.getxattr(model, name))
        except OSError:
            if name == _ACL:
                raise
            continue  # a label that the kernel or its security module gives itself


def _sync(directory: Path) -> None:
    """Make the rename last; where that cannot be asked for, it has happened all the same."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
