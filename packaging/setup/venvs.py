"""Makes virtual environments, and knows which are whole, half-finished, outdated or broken.

An environment is whole when its stamp, written last, is that of its requirements and of its Python.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .console import SetupError, say
from .pip import CommandError, NotFoundError, compile_all

STAMP = "cahoots-vllm.json"
DRAFT = f"{STAMP}.new"  # there while the environment is being made
OLDEST_PYTHON = [3, 11]


@contextmanager
def exclusive(place: Path) -> Iterator[None]:
    """Let one setup at a time work in this directory; the lock is on the directory itself."""
    directory = os.open(place, os.O_RDONLY)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"somebody else is setting up things in {place}; waiting for the end of that")
            fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def digest(*parts: str) -> str:
    """Return one hash for all that an environment is made from."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def python_version(environment: Path) -> list[int] | None:
    """Return [major, minor] of the environment's Python, or None when it does not run."""
    command = [str(environment / "bin" / "python"), "-I", "-S", "-c"]
    script = "import sys; print(*sys.version_info[:2])"
    try:
        found = subprocess.run([*command, script], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return [int(number) for number in found.stdout.split()]


def read_stamp(environment: Path) -> dict[str, object]:
    """Return the environment's stamp; an empty one where there is none that can be read."""
    return _read(environment / STAMP)


def _read(file: Path) -> dict[str, object]:
    try:
        stamp = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def begun_from(environment: Path) -> str | None:
    """Return the requirements from which the environment was made or begun, None if unknown."""
    draft = environment / DRAFT
    stamp = _read(draft) if draft.exists() else read_stamp(environment)
    found = stamp.get("requirements")
    return found if isinstance(found, str) else None


def is_whole(environment: Path, requirements: str) -> bool:
    """Whether the environment was finished from these requirements and its Python still runs."""
    stamp = read_stamp(environment)
    version = python_version(environment)
    return (
        version is not None
        and stamp.get("requirements") == requirements
        and stamp.get("python") == version
    )


def ensure(environment: Path, requirements: str, fill: Callable[[Path], dict[str, object]]) -> None:
    """Make the environment whole: create or mend it, `fill` it, stamp it.

    `fill` installs into it and returns what else the stamp shall hold. An environment that was
    there before and cannot be mended is made anew, once.
    """
    existed = environment.exists()
    if existed:
        say(f"      {_state(environment)}: repairing it")
        (environment / STAMP).unlink(missing_ok=True)
        _forget_half_installed(environment)
    try:
        if not _is_usable(environment):
            _create(environment)
        (environment / DRAFT).write_text(json.dumps({"requirements": requirements}))
        extra = fill(environment)
    except CommandError as error:
        if not existed or isinstance(error, NotFoundError) or "index cannot" in error.message:
            raise
        say(f"      it cannot be mended ({error.message}): making it anew")
        shutil.rmtree(environment)
        _create(environment)
        extra = fill(environment)
    compile_all(environment)
    stamp = {"requirements": requirements, "python": python_version(environment), **extra}
    (environment / DRAFT).write_text(json.dumps(stamp))
    (environment / DRAFT).rename(environment / STAMP)


def _state(environment: Path) -> str:
    if python_version(environment) is None:
        return f"the Python of {environment} does not run"
    if not read_stamp(environment):
        return f"{environment} is half-finished"
    return f"{environment} is from another version of the requirements"


def _forget_half_installed(environment: Path) -> None:
    """Drop what says that a package is installed where pip was killed while it unpacked it.

    pip writes RECORD last and takes a package without it for installed.
    """
    for metadata in environment.glob("lib/python*/site-packages/*.dist-info"):
        if not (metadata / "RECORD").exists():
            shutil.rmtree(metadata)


def _is_usable(environment: Path) -> bool:
    version = python_version(environment)
    if version is None or version < OLDEST_PYTHON:
        return False
    command = [str(environment / "bin" / "python"), "-m", "pip", "--version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _create(environment: Path) -> None:
    command = [sys.executable, "-m", "venv", "--clear", str(environment)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        detail = (made.stdout + made.stderr).strip()
        remedy = f"look at what {sys.executable} -m venv says:\n{detail}"
        message = f"cannot make a virtual environment in {environment}"
        raise SetupError(message, remedy)
