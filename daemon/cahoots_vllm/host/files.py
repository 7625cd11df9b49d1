"""Small files: read with a bound, written atomically."""

import contextlib
import os
import pwd
import tempfile
from pathlib import Path

from cahoots_vllm.core.errors import CahootsError, Kind

_MAX_BYTES = 4 * 1024 * 1024  # a settings or state file above this is a mistake


def read_text(path: Path, *, what: str) -> str:
    """Return a settings file's text.

    Raises CahootsError (BAD_SETTINGS) that says which file, why and what to do.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise CahootsError(
            Kind.BAD_SETTINGS, f"cannot read {what} {path}: no such file", "create it"
        ) from error
    except IsADirectoryError as error:
        # Docker makes one where a file that is to be mounted is missing.
        raise CahootsError(
            Kind.BAD_SETTINGS,
            f"cannot read {what} {path}: it is a directory",
            "put a file in its place",
        ) from error
    except OSError as error:
        raise CahootsError(
            Kind.BAD_SETTINGS,
            f"cannot read {what} {path}: {error.strerror}",
            f"let user {_user()} read it: setfacl -m u:{_user()}:r {path}",
        ) from error
    if len(raw) > _MAX_BYTES:
        raise CahootsError(
            Kind.BAD_SETTINGS, f"cannot read {what} {path}: larger than 4 MiB", "check the path"
        )
    try:
        return raw.decode("utf-8-sig")  # editors on Windows put a byte order mark first
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise CahootsError(
            Kind.BAD_SETTINGS, f"cannot read {what} {path}, line {line}: not UTF-8", "mend the line"
        ) from error


def _user() -> str:
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def write_atomically(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Replace a file so that a reader or a crash sees the old or the new one, never a part.

    The directory is made if missing. Raises OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
