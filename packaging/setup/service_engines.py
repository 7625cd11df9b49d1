"""`cahoots-vllm-engine`: the service's engines, side by side, and the one in use.

They lie in /opt/cahoots-vllm/engines/KIND-VERSION; /opt/cahoots-vllm/engine is a link to the one
in use. Root's files, readable by the service and not writable: it runs what is in there.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import demo, engines, venvs
from .console import SetupError, Steps, say, size
from .preflight import require_space

ROOT = Path("/opt/cahoots-vllm")
CACHE = Path("/var/cache/cahoots-vllm")
USER = "cahoots-vllm"
CTL = "/usr/bin/cahootsctl"

DESCRIPTION = """\
Installs vLLM for the cahoots-vllm service, below /opt/cahoots-vllm, and says which one it uses.
"""


@dataclass(frozen=True, slots=True)
class Shelf:
    """The engines below one directory."""

    root: Path

    @property
    def link(self) -> Path:
        """What the daemon looks for."""
        return self.root / "engine"

    def directory(self, name: str) -> Path:
        """Return where an engine of that name lies, or would."""
        return self.root / "engines" / name

    def names(self) -> list[str]:
        """Return what is there, whole or not."""
        found = (self.root / "engines").glob("*/")
        return sorted(path.name for path in found if not path.name.startswith("."))

    def in_use(self) -> str | None:
        """Return the name of the one in use, None where none is, or one that is not ours."""
        try:
            target = self.link.readlink()
        except OSError:
            return None
        return target.name if target.parent.name == "engines" else None

    def use(self, name: str) -> None:
        """Let the daemon find this one from now on, at no moment none. Raises SetupError."""
        directory = self.directory(name)
        if not is_finished(directory):
            known = ", ".join(n for n in self.names() if is_finished(self.directory(n)))
            message = f"there is no finished engine {name} in {directory.parent}"
            raise SetupError(
                message,
                f"use one of these: {known}"
                if known
                else "install one: sudo cahoots-vllm-engine install",
            )
        if self.link.exists() and not self.link.is_symlink():
            message = f"{self.link} is a directory that this program did not make"
            raise SetupError(message, f"move it away: mv {self.link} {self.link}.old")
        fresh = self.link.with_name(".engine.new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path("engines") / name)
        fresh.replace(self.link)

    def remove(self, name: str) -> None:
        """Delete an engine that nobody uses. Raises SetupError."""
        directory = self.directory(name)
        if name not in self.names():
            message = f"there is no engine {name}"
            raise SetupError(message, "see which there are: cahoots-vllm-engine list")
        if name == self.in_use():
            message = f"{name} is the engine in use"
            raise SetupError(message, "use another one first: sudo cahoots-vllm-engine use NAME")
        if (pid := user_of(directory)) is not None:
            message = f"{name} is being run by process {pid}"
            raise SetupError(message, "let the worker change first: cahootsctl reload")
        shutil.rmtree(directory)


def is_finished(directory: Path) -> bool:
    """Whether an installation came to its end there."""
    return bool(venvs.read_stamp(directory)) and not (directory / venvs.DRAFT).exists()


def user_of(directory: Path, proc: Path = Path("/proc")) -> int | None:
    """Return a process that runs a program of this directory, None if there is none."""
    start = f"{directory}/bin/".encode()
    for entry in proc.glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")[:2]
        except OSError:
            continue  # it ended
        if any(word.startswith(start) for word in words):
            return int(entry.parent.name)
    return None


def main(arguments: Sequence[str]) -> int:
    """Do what is asked; return the exit status. Raises SetupError."""
    options = _parse(arguments)
    shelf = Shelf(options.root)
    if options.action == "list":
        return _list(shelf)
    if os.geteuid() != 0:
        message = "engines of the service are root's"
        raise SetupError(message, f"run it as root: sudo cahoots-vllm-engine {options.action}")
    # Whatever root's umask: the service must be able to read it.
    os.umask(0o022)
    if options.action == "install":
        return _install(shelf, options)
    if options.action == "use":
        shelf.use(options.name)
        say(f"{options.name} is in use")
        _tell_daemon()
        return 0
    shelf.remove(options.name)
    say(f"{options.name} is removed")
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cahoots-vllm-engine", description=DESCRIPTION)
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    install = actions.add_parser("install", help="install an engine and use it")
    kind = install.add_mutually_exclusive_group()
    kind.add_argument("--cuda", action="store_true", help="vLLM for NVIDIA GPUs")
    kind.add_argument("--cpu", action="store_true", help="its CPU build, and the demo model")
    install.add_argument("--version", metavar="V", type=_version, help="another version of vLLM")
    install.add_argument("--no-use", action="store_true", help="leave the one in use as it is")
    actions.add_parser("list", help="show which are there (default of nothing: see --help)")
    for action, what in (("use", "let the service use this one"), ("remove", "delete one")):
        actions.add_parser(action, help=what).add_argument("name", metavar="NAME", type=_name)
    return parser.parse_args(arguments)


def _version(text: str) -> str:
    if not text or not all(c.isalnum() or c in ".+-" for c in text) or not text[0].isdigit():
        message = "not a version"
        raise argparse.ArgumentTypeError(message)
    return text


def _name(text: str) -> str:
    if not text or "/" in text or text.startswith("."):
        message = "not the name of an engine"
        raise argparse.ArgumentTypeError(message)
    return text


def choose(root: Path, kind: str, version: str | None) -> engines.Engine:
    """Return the engine that is meant. Raises SetupError for a version that cannot be had."""
    if kind == "cpu" and version not in (None, engines.CPU_VLLM):
        message = f"the CPU engine is made for vLLM {engines.CPU_VLLM} only, not for {version}"
        raise SetupError(message, "leave out --version, or install one for GPUs: --cuda")
    standard = engines.CPU_VLLM if kind == "cpu" else engines.CUDA_VLLM
    directory = Shelf(root).directory(f"{kind}-{version or standard}")
    return engines.Engine(directory, kind, None if version == standard else version)


def _install(shelf: Shelf, options: argparse.Namespace) -> int:
    kind = "cpu" if options.cpu else "cuda"
    if not options.cpu and not options.cuda:
        kind = "cuda" if engines.has_gpu() else "cpu"
    engine = choose(shelf.root, kind, options.version)
    engine.directory.parent.mkdir(parents=True, exist_ok=True)
    steps = Steps(3)
    with venvs.exclusive(shelf.root):
        with steps.step("this machine"):
            say(f"      {engine.directory.name} goes to {engine.directory}")
            _check_space(engine)
        with steps.step(f"the engine, {engine.directory.name}"):
            engines.ensure(engine)
        with steps.step("the demo model"):
            _ensure_demo(engine)
        if options.no_use:
            return 0
        shelf.use(engine.directory.name)
    say(f"{engine.directory.name} is in use")
    _tell_daemon()
    return 0


def _check_space(engine: engines.Engine) -> None:
    if engines.is_whole(engine):
        return
    temporary = Path(tempfile.gettempdir())
    needs = {engine.directory: engine.needs_bytes, temporary: engine.needs_temporary_bytes}
    require_space(needs, "what is to be installed")


def _ensure_demo(engine: engines.Engine) -> None:
    if engine.kind != "cpu":
        say("      not needed: it is for hosts without a GPU")
        return
    if not CACHE.is_dir():
        say(f"      not made: {CACHE} is not there (it comes with the package cahoots-vllm)")
        return
    demo.ensure(engine, CACHE / "models" / demo.NAME, USER)


def _list(shelf: Shelf) -> int:
    used = shelf.in_use()
    for name in shelf.names():
        directory = shelf.directory(name)
        state = "in use" if name == used else ""
        if not is_finished(directory):
            state = "half-finished: install it again, or remove it"
        say(f"{name:20} {size(_size(directory)):>8}  {state}".rstrip())
    if not shelf.names():
        say("no engine yet: sudo cahoots-vllm-engine install")
    if used is None and shelf.link.exists():
        say(f"in use: {shelf.link.resolve()}, which this program did not install")
    return 0


def _size(directory: Path) -> int:
    return sum(entry.lstat().st_blocks * 512 for entry in directory.rglob("*"))


def _tell_daemon() -> None:
    """Let a running daemon take the engine now; say what to do where none runs."""
    command = [CTL, "reload", "--no-wait"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        told = None
    if told is not None and told.returncode == 0:
        say("the running service changes to it; watch it with: cahootsctl status")
    else:
        say("start the service with: sudo systemctl enable --now cahoots-vllm")
