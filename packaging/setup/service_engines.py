"""`cahoots-vllm-engine`: the service's engines, side by side, and the one in use.

They lie in /opt/cahoots-vllm/engines/KIND-VERSION; /opt/cahoots-vllm/engine is a link to the one
in use. Root's files, readable by the service and not writable: it runs what is in there.
"""

import argparse
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import demo, engines, venvs
from .console import SetupError, Steps, say, size
from .pip import User
from .preflight import require_space

ROOT = Path("/opt/cahoots-vllm")
CACHE = Path("/var/cache/cahoots-vllm")
SERVICE = "cahoots-vllm"
CTL = ("/usr/bin/cahootsctl", "--socket", "/run/cahoots-vllm/control.sock")
UNREACHABLE = 4  # cahootsctl's exit status where no daemon answers

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
        require_idle(directory)
        # In one step: what is left where this is killed must not pass for an engine.
        doomed = directory.with_name(f".{name}.removed")
        self.sweep()
        directory.rename(doomed)
        shutil.rmtree(doomed)

    def sweep(self) -> None:
        """Delete what is left of a removal that was killed."""
        for doomed in (self.root / "engines").glob(".*.removed"):
            shutil.rmtree(doomed)


def is_finished(directory: Path) -> bool:
    """Whether an installation came to its end there."""
    return bool(venvs.read_stamp(directory)) and not (directory / venvs.DRAFT).exists()


def require_idle(directory: Path) -> None:
    """Check that no process runs an engine. Raises SetupError."""
    if (pid := user_of(directory)) is not None:
        message = f"{directory.name} is being run by process {pid}"
        remedy = "let the service use another one (cahoots-vllm-engine use NAME) and wait until it"
        raise SetupError(
            message, f"{remedy}\nhas changed over, or stop its worker: cahootsctl stop"
        )


def user_of(directory: Path, proc: Path = Path("/proc")) -> int | None:
    """Return a process that runs this engine, None if there is none."""
    program, mapped = f"{directory}/bin/".encode(), f" {directory}/lib".encode()
    for process in proc.glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")[:2]
            # vLLM's processes give themselves titles, in place of a command line.
            uses = any(word.startswith(program) for word in words)
            if uses or mapped in (process / "maps").read_bytes():
                return int(process.name)
        except OSError:
            continue  # it ended
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
    shelf.root.mkdir(parents=True, exist_ok=True)
    with venvs.exclusive(shelf.root):
        if options.action == "remove":
            shelf.remove(options.name)
            say(f"{options.name} is removed")
            return 0
        name = options.name if options.action == "use" else _install(shelf, options)
        if options.action == "install" and options.no_use:
            return 0
        shelf.use(name)
    say(f"{name} is in use")
    _tell_daemon()
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
    actions.add_parser("list", help="show which are there")
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


def _install(shelf: Shelf, options: argparse.Namespace) -> str:
    """Install what is asked for and return its name. Raises SetupError."""
    kind = "cpu" if options.cpu else "cuda"
    if not options.cpu and not options.cuda:
        kind = "cuda" if engines.has_gpu() else "cpu"
    engine = choose(shelf.root, kind, options.version)
    engine.directory.parent.mkdir(exist_ok=True)
    shelf.sweep()
    steps = Steps(3)
    with steps.step("this machine"):
        say(f"      {engine.directory.name} goes to {engine.directory}")
        if not engines.is_whole(engine):
            require_idle(engine.directory)
            _check_space(engine)
    with steps.step(f"the engine, {engine.directory.name}"):
        engines.ensure(engine)
    with steps.step("the demo model"):
        _ensure_demo(engine)
    return engine.directory.name


def _check_space(engine: engines.Engine) -> None:
    temporary = Path(tempfile.gettempdir())
    needed = max(0, engine.needs_bytes - _size(engine.directory))
    needs = {engine.directory: needed, temporary: engine.needs_temporary_bytes}
    require_space(needs, "what is to be installed")


def _ensure_demo(engine: engines.Engine) -> None:
    """Have the service's user convert the demo model: root writes nothing where others may."""
    if engine.kind != "cpu":
        say("      not needed: it is for hosts without a GPU")
        return
    try:
        account = pwd.getpwnam(SERVICE)
    except KeyError:
        say(f"      not made: there is no user {SERVICE} (it comes with the package)")
        return
    # As systemd makes it for the service (CacheDirectory=), which may not have been started yet.
    CACHE.mkdir(mode=0o750, exist_ok=True)
    if CACHE.stat().st_uid != account.pw_uid:
        os.chown(CACHE, account.pw_uid, account.pw_gid)
    user = User(account.pw_uid, account.pw_gid, CACHE / "home")
    demo.ensure(engine, CACHE / "models" / demo.NAME, user)


def _list(shelf: Shelf) -> int:
    used = shelf.in_use()
    for name in shelf.names():
        directory = shelf.directory(name)
        notes = ["in use"] if name == used else []
        if not is_finished(directory):
            notes.append("half-finished: install it again, or remove it")
        say(f"{name:20} {size(_size(directory)):>8}  {'; '.join(notes)}".rstrip())
    if not shelf.names():
        say("no engine yet: sudo cahoots-vllm-engine install")
    if used is None and shelf.link.exists():
        say(f"in use: {shelf.link.resolve()}, which this program did not install")
    return 0


def _size(directory: Path) -> int:
    return sum(entry.lstat().st_blocks * 512 for entry in directory.rglob("*"))


def _tell_daemon() -> None:
    """Let a running daemon look for the engine now; say what to do where none runs."""
    command = [*CTL, "reload", "--no-wait"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"the service could not be told ({error}): cahootsctl reload")
        return
    if told.returncode == 0:
        say("the running service has been told; watch it with: cahootsctl status")
    elif told.returncode == UNREACHABLE:
        say("start the service with: sudo systemctl enable --now cahoots-vllm")
    else:
        say(f"the running service does not take it, see cahootsctl status:\n{told.stderr.strip()}")
