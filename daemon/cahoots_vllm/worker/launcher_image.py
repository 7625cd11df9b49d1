"""What only a new process image can have, and what is written into it later.

Part of launcher.py, run by the engine's own Python: the standard library only.
"""

import argparse
import ctypes
import importlib.util
import os
import re
import sys
from pathlib import Path

_MARK_BYTES = 1024  # a runtime directory and a generation
# setproctitle writes over the arguments, which it does not find in more than 8 KiB.
_TITLE_BYTES = 4096


def exec_prepared(program: str, options: argparse.Namespace, mark: str) -> None:
    """Become the same program with what only a new process image can have.

    The OpenMP library that the CPU engine loads before all others in its processes
    (vllm/platforms/cpu.py), room for a title, and room for the mark.
    """
    os.set_inheritable(options.fd, True)  # noqa: FBT003 (it takes no keyword)
    env = {**os.environ, mark: os.environ.get(mark, "").ljust(_MARK_BYTES)}
    preload = openmp_library()
    own = ["--fd", str(options.fd), "--learn", options.learn, "--room", "x" * _TITLE_BYTES]
    if preload and "omp" not in env.get("LD_PRELOAD", ""):
        own += ["--was", env.get("LD_PRELOAD", "")]
        env["LD_PRELOAD"] = ":".join(filter(None, [env.get("LD_PRELOAD"), preload]))
    argv = [sys.executable, program, *own, "--", *options.argv]
    os.execve(sys.executable, argv, env)  # noqa: S606 (no shell is wanted)


def openmp_library() -> str | None:
    """Return the path vLLM would preload on a CPU engine, None on any other."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return None
    package = Path(torch.origin).parent
    version = package / "version.py"
    if not re.search(r"^cuda\b.*= None$", version.read_text(), re.MULTILINE):
        return None
    found = [*package.parent.glob("torch.libs/libgomp*.so*"), *package.glob("lib/libgomp*.so*")]
    return str(found[0]) if found else None


def show_variable(name: str, value: str) -> None:
    """Set a variable also where proc(5) shows it: a daemon that comes back knows its workers by it.

    Raises ValueError when it is longer than what was kept free for it.
    """
    os.environ[name] = value
    raw = Path("/proc/self/environ").read_bytes()
    at = (b"\0" + raw).find(f"\0{name}=".encode())
    new = f"{name}={value}\0".encode()
    if at < 0 or len(new) > _MARK_BYTES:
        why = f"{name} has no room for its value"
        raise ValueError(why)
    # After the name, which may hold blanks and brackets, `env_start` is the 48th field (proc(5)).
    start = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[47])
    room = len(f"{name}=") + _MARK_BYTES
    ctypes.memmove(start + at, new.ljust(room, b"\0"), room)


def size() -> dict[str, int]:
    """Return how much memory the process uses and how many threads it has (proc(5))."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return {
        "rss_bytes": int(status["VmRSS"].split()[0]) * 1024,
        "threads": int(status["Threads"]),
    }
