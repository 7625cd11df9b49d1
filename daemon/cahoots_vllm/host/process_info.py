"""Reads about one process what people ask: whose it is, what it runs, a variable it was given.

Who descends from whom is process_tree's.
"""

import pwd
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

_PROC = Path("/proc")
_MAX_COMMAND = 200  # characters
_UNREADABLE = (FileNotFoundError, ProcessLookupError, PermissionError)  # gone, or not for us
_PYTHON = re.compile(r"python[\d.]*t?")
# Short options of python(1), up to the first that takes a value; the value may follow at once.
_PYTHON_OPTION = re.compile(r"-[^-cmWX]*([cmWX])(.*)", re.DOTALL)


def environ_value(pid: int, name: str, proc: Path = _PROC) -> str | None:
    """Return a variable from a process's first environment (proc_pid_environ(5)).

    None: not set, not readable, or gone. A program that writes its own title overwrites this
    memory; setproctitle, as vLLM uses it, leaves it alone only under SPT_NOENV=1.
    """
    return read_environ(pid, proc).get(name)


def read_environ(pid: int, proc: Path = _PROC) -> dict[str, str]:
    """Return a process's first environment, empty if it is not readable or gone."""
    try:
        raw = (proc / str(pid) / "environ").read_bytes()
    except _UNREADABLE:
        return {}
    rows = (row.partition(b"=") for row in raw.split(b"\0") if b"=" in row)
    # The first of a name counts, as in getenv(3).
    found: dict[str, str] = {}
    for name, _, value in rows:
        found.setdefault(name.decode(errors="replace"), value.decode(errors="replace"))
    return found


def owner_name(pid: int, proc: Path = _PROC) -> str:
    """Return the name of the user a process runs as, its uid where it has none, "" if gone."""
    try:
        uid = (proc / str(pid)).stat().st_uid  # the effective one, even of an undumpable process
    except _UNREADABLE:
        return ""
    return user_name(uid)


@lru_cache(maxsize=256)
def user_name(uid: int) -> str:
    """Return a user's name, the uid where it has none."""
    # Remembered: the answer may come from a directory server, slowly.
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def shown_command(pid: int, proc: Path = _PROC) -> str:
    """Return what a process runs, fit for showing to anybody; "" if gone.

    Its program's name, for Python also the script's or module's: command lines hold secrets, so
    no other word is shown (proc_pid_cmdline(5); the thread's name where it is empty). At most 200
    characters, all of them printable.
    """
    process = proc / str(pid)
    try:
        words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        shown = _program(words) or (process / "comm").read_text(errors="replace").strip()
    except _UNREADABLE:
        return ""
    return "".join(c if c.isprintable() else "?" for c in shown)[:_MAX_COMMAND]


def _program(words: list[str]) -> str:
    # A process that wrote its own title has all of it in the first word.
    program = PurePosixPath(next(iter(words[0].split()), "")).name
    if not _PYTHON.fullmatch(program):
        return program
    return " ".join([program, *_python_target(word for word in words[1:] if word)])


def _python_target(arguments: Iterable[str]) -> Iterator[str]:
    """Yield what Python was told to run: a script's name, or "-m" and a module, or "-c"."""
    words = iter(arguments)
    for word in words:
        if not word.startswith("-") or word == "-":
            yield PurePosixPath(word).name
            return
        option = _PYTHON_OPTION.fullmatch(word)
        if option is None:
            continue
        value = option[2] or next(words, "")
        if option[1] in "cm":
            yield "-c" if option[1] == "c" else f"-m {value}"
            return
