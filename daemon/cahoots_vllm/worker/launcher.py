"""A standby: imports vLLM in the engine's own Python, waits, then becomes that `vllm serve`.

Run by path, by ENGINE/bin/python, with nothing but the standard library and vLLM:

    launcher.py --fd N [--learn FILE] [-- ENGINE/bin/vllm serve MODEL ...]

N is one end of a Unix stream socket (0: as standard input). `--learn`: where the engine's processes
note what they imported after the fork; the next standby imports it beforehand. Behind `--`: what it
will most probably be asked for; model and tokenizer of a local directory are looked at beforehand.

The environment is that of the start to come. Only CAHOOTS_VLLM_WORKER may differ: vLLM and its
libraries read too much of the rest while they are imported.

On the socket: one JSON object a line. The standby says, in this order,
    {"state": "warm", "version", "fork", "why_not_fork", "rss_bytes", "imported", "threads",
     "warm_s", "rehearsed", "why_not_rehearsed"}      once it can start
    {"state": "starting"}                             it is `vllm serve` from now on
  or, at any point before that,
    {"state": "refused", "why"}                       and exits 0: use the plain command.
It hears one launch spec, at most 1 MiB:
    {"argv": [ENGINE/bin/vllm, "serve", ...], "env": {the whole environment}, "cwd": DIRECTORY}
with no, one or two descriptors (SCM_RIGHTS) to become its standard output and standard error.
An end of file before a spec ends it, as SIGTERM and SIGINT do by their default action. What its
imports printed comes first in the new output, as it does from the plain command.

Whoever sends the spec has moved the process where it belongs (cgroup). Its pid stays; its start
time is the standby's. After "starting" argv, title, signals, output and exit codes are the plain
command's; proc(5) shows the mark of the spec, the rest of the environment as it was all along.
"""

import argparse
import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType

MARK = "CAHOOTS_VLLM_WORKER"  # core.launch.WORKER_MARK
SPEC_BYTES = 1 << 20
# Of why it is refused: it is the daemon that masks the secrets in them, and cuts them then to what
# is shown. It takes 64 KiB a line; a character is up to 12 bytes of JSON.
WHY_CHARS = 5000
# What /bin/sh adds on the way into a cgroup (host.children), to the plain command as well.
_SHELLS = ("PWD", "OLDPWD", "SHLVL", "_")


class RefusedError(Exception):
    """The plain command has to do it."""

    def __init__(self, *, why: str) -> None:
        """Say why, with no value of the launch spec in it."""
        super().__init__(why)


@dataclass(frozen=True)
class Spec:
    """One launch, as it was asked for."""

    argv: list[str]
    env: dict[str, str]
    cwd: str


def read_spec(data: bytes, vllm: Path) -> Spec:
    """Return the launch spec in one line; raises RefusedError, which holds no value of it."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise RefusedError(why="the launch spec is no JSON") from None
    if not isinstance(found, dict) or set(found) != {"argv", "env", "cwd"}:
        raise RefusedError(why="the launch spec has not exactly argv, env and cwd")
    argv, env, cwd = found["argv"], found["env"], found["cwd"]
    texts = [cwd, *(argv if isinstance(argv, list) else [None])]
    texts += [*env, *env.values()] if isinstance(env, dict) else [None]
    if not all(isinstance(text, str) and "\0" not in text for text in texts):
        raise RefusedError(why="the launch spec has a value of the wrong type")
    if argv[1:2] != ["serve"] or Path(argv[0]).resolve() != vllm.resolve():
        raise RefusedError(why="the launch spec is not for this engine's vllm serve")
    return Spec(argv, env, cwd)


def changed_names(before: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Return the names of the variables that differ and may not.

    On the way into a cgroup /bin/sh drops names that it could not have given itself (dash does), on
    the plain command's as on the standby's.
    """
    names = (before.keys() | wanted.keys()) - {MARK, *_SHELLS}
    names = {name for name in names if name.isascii() and name.isidentifier()}
    return sorted(name for name in names if before.get(name) != wanted.get(name))


def hear(sock: socket.socket) -> tuple[bytes, list[int]]:
    """Return the first line and the descriptors that came with it; nothing at the end of file."""
    data, fds = b"", list[int]()
    while b"\n" not in data:
        more, new, _, _ = socket.recv_fds(sock, 1 << 16, 4)
        data, fds = data + more, fds + new
        if not more:
            return b"", fds
        if len(data) > SPEC_BYTES:
            raise RefusedError(why="the launch spec is too long")
    if len(fds) > 2:  # noqa: PLR2004 (standard output and standard error)
        raise RefusedError(why="the launch spec came with more than two descriptors")
    return data.partition(b"\n")[0], fds


def say(sock: socket.socket, **message: object) -> None:
    """Send one line; the other end may be gone, which the next read finds."""
    with contextlib.suppress(OSError):
        sock.sendall(json.dumps(message).encode() + b"\n")


class Noise:
    """What the imports print, kept to be said where the plain command says it."""

    def __init__(self) -> None:
        """Take standard output and standard error."""
        self._file = os.memfd_create("output", os.MFD_CLOEXEC)
        self._before = [os.dup(1), os.dup(2)]
        self._become([self._file])
        self._keep = -1

    def cut(self) -> None:
        """Forget whatever comes from now on."""
        _flush()
        self._keep = os.lseek(self._file, 0, os.SEEK_CUR)

    def give(self, fds: list[int]) -> None:
        """Let standard output and error be these, or what they were, and say it there."""
        _flush()
        size = self._keep if self._keep >= 0 else os.lseek(self._file, 0, os.SEEK_CUR)
        self._become(fds or self._before)
        for fd in {*fds, *self._before}:
            os.close(fd)
        with contextlib.suppress(OSError):  # nobody reads: the next print ends it, as ever
            os.write(1, os.pread(self._file, size, 0))
        os.close(self._file)

    def _become(self, fds: list[int]) -> None:
        os.dup2(fds[0], 1)
        os.dup2(fds[-1], 2)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def wait(sock: socket.socket, before: Mapping[str, str], vllm: Path) -> tuple[Spec, list[int]]:
    """Return the launch spec once it came; end with the daemon. Raises RefusedError."""
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    data, fds = hear(sock)
    if not data:
        os._exit(0)  # nothing to tidy up, and nobody to read what the engine's modules would say
    spec = read_spec(data, vllm)
    changed = changed_names(before, spec.env)
    if changed:
        raise RefusedError(
            why=f"the environment differs from the standby's in {', '.join(changed)}"
        )
    try:
        os.chdir(spec.cwd)
    except OSError as error:
        raise RefusedError(why=f"cannot enter the directory: {error.strerror}") from error
    signal.signal(signal.SIGINT, handler)
    return spec, fds


def become(argv: list[str]) -> None:
    """Run the engine's own `vllm` script as the main program; its end is the process's."""
    set_title = importlib.import_module("setproctitle").setproctitle
    set_title(" ".join([sys.executable, *argv]))
    Path("/proc/self/comm").write_text(Path(argv[0]).name)
    sys.argv = argv
    sys.path[0] = str(Path(argv[0]).parent)
    main_module = ModuleType("__main__")
    main_module.__file__ = argv[0]
    sys.modules["__main__"] = main_module  # what a spawned process imports, too
    sys.excepthook = _show_without_launcher
    exec(compile(Path(argv[0]).read_text(), argv[0], "exec"), main_module.__dict__)  # noqa: S102 (the engine's own script)


def _show_without_launcher(
    kind: type[BaseException], error: BaseException, frames: TracebackType | None
) -> None:
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    sys.__excepthook__(kind, error.with_traceback(frames), frames)


def stand_by(sock: socket.socket, options: argparse.Namespace) -> list[str]:
    """Get warm, wait, and return the arguments to run with; raises RefusedError."""
    begun = time.monotonic()
    warm, fork, image, pages = (
        importlib.import_module(f"launcher_{name}") for name in ("warm", "fork", "image", "pages")
    )
    preload = os.environ.get("LD_PRELOAD", "")
    before = restore_environ(options.was)
    vllm = Path(sys.executable).with_name("vllm")
    sys.path[0] = str(vllm.parent)
    learned = Path(options.learn) if options.learn else None
    noise = Noise()
    try:
        # First of all: it looks for the arguments before the first variable of the environment.
        importlib.import_module("setproctitle").setproctitle("cahoots-vllm standby")
        imported = warm.warm_up(learned)
        rehearsal = warm.Rehearsal(options.argv, noise.cut)
        why_not_fork = fork.arrange(preload)
        pages.arrange()
    except ImportError as error:
        noise.give([])
        raise RefusedError(why=str(error)) from error
    if learned is not None:
        with contextlib.suppress(OSError):  # but a hint: nothing is learned from this start
            sys.meta_path.insert(0, warm.Notebook(learned))
    gc.collect()
    gc.freeze()  # pages that no collection writes to stay shared with the forked processes
    say(
        sock,
        state="warm",
        version=sys.modules["vllm"].__version__,
        fork=why_not_fork is None,
        why_not_fork=why_not_fork,
        imported=imported,
        warm_s=round(time.monotonic() - begun, 2),
        rehearsed=rehearsal.why_not is None,
        why_not_rehearsed=rehearsal.why_not,
        **image.size(),
    )
    spec, fds = wait(sock, before, vllm)
    if rehearsal.is_stale():
        raise RefusedError(why="the model's files have changed since the standby read them")
    image.show_variable(MARK, spec.env.get(MARK, ""))
    say(sock, state="starting")
    sock.close()
    noise.give(fds)
    return spec.argv


def restore_environ(was: str | None) -> dict[str, str]:
    """Undo what the new image needed, and return the environment the standby was started with.

    `was`: LD_PRELOAD then, None where it was let alone.
    """
    os.environ[MARK] = os.environ[MARK].rstrip()
    if was:
        os.environ["LD_PRELOAD"] = was
    elif was is not None:
        del os.environ["LD_PRELOAD"]
    return dict(os.environ)


def main() -> None:
    """Be a standby, then `vllm serve`."""
    parser = argparse.ArgumentParser(description="Stand by for one vllm serve.")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--learn", default="")
    parser.add_argument("--room", help=argparse.SUPPRESS)
    parser.add_argument("--was", help=argparse.SUPPRESS)
    parser.add_argument("argv", nargs="*")
    options = parser.parse_args()
    if options.room is None:
        importlib.import_module("launcher_image").exec_prepared(__file__, options, MARK)
    sock = socket.socket(fileno=os.dup(options.fd))  # the copy is not inherited
    os.close(options.fd)
    if options.fd == 0:
        os.open(os.devnull, os.O_RDONLY)
        os.set_inheritable(0, True)  # noqa: FBT003 (it takes no keyword)
    try:
        argv = stand_by(sock, options)
    except RefusedError as error:
        say(sock, state="refused", why=str(error)[:WHY_CHARS])
        os._exit(0)
    except Exception as error:  # noqa: BLE001 (whatever fails: the plain command has to do it)
        say(sock, state="refused", why=f"{type(error).__name__}: {error}"[:WHY_CHARS])
        os._exit(0)
    become(argv)


if __name__ == "__main__":
    main()
