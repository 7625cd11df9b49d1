"""The ways of serving a model that are compared: a shell loop, a systemd unit, the daemon.

All get the same engine options. None leaves a process behind.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.start_phases import DAEMON_PHASES, ENGINE_PHASES
from engine.daemon import free_port, running_daemon
from engine.harness import Daemon, gone, tree, wait_for
from system.container import booted

LOOP, SYSTEMD, DAEMON = "shell-loop", "systemd", "daemon"
DEATHS = {"engine-core": "VLLM::EngineCore", "worker": "VLLM::Worker", "api-server": ""}
_END_S = 20.0


@dataclass(frozen=True)
class Way:
    """One way of serving: where it is asked, its `vllm serve`, and where it says how far it is.

    `begun`: when it was told to start, by the monotonic clock.
    """

    begun: float
    port: int
    main: Callable[[], int]
    log: Path
    phases: dict[str, str]
    daemon: Daemon | None = None

    def victim(self, death: str) -> int:
        """Return the pid of the process whose death it is."""
        main = self.main()
        if not DEATHS[death]:
            return main
        return _find(main, lambda title: title.startswith(DEATHS[death]))


def systemd_is_missing() -> str | None:
    """Return why no systemd can be booted here."""
    if os.geteuid() != 0:
        return "it takes root to boot a machine"
    if shutil.which("systemd-nspawn") is None:
        return "there is no systemd-nspawn (package systemd-container)"
    return None


@contextmanager
def shell_loop(engine: Path, model: Path, place: Path) -> Iterator[Way]:
    """Serve as people do by hand."""
    port, log = free_port(), place / "loop.log"
    # What it needs beside `vllm serve`: an engine whose server was killed goes on, and holds its
    # memory.
    command = f"while :; do {shlex.join(_argv(engine, model, port))}; pkill -9 -g 0 VLLM; done"
    begun = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command], env={**os.environ, **_env()}, start_new_session=True,
            stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield Way(begun, port, lambda: _main_below(process.pid), log, ENGINE_PHASES)
    finally:
        _kill_all(process)


@contextmanager
def systemd_unit(engine: Path, model: Path, place: Path) -> Iterator[Way]:
    """Serve by a unit with nothing but Restart=always, in a machine with real systemd."""
    port, log = free_port(), place / "unit.log"
    log.touch()
    settings = {**_env(), "VLLM_CACHE_ROOT": "/srv/cache"}
    bound = {
        engine.resolve(): "/srv/engine",
        model.resolve(): f"/srv/models/{model.name}",
        Path(_env()["VLLM_CACHE_ROOT"]): "/srv/cache",
        place: "/srv/log",
    }
    with booted(bound=bound, has_network=True) as machine:
        words = [f"--setenv={name}={value}" for name, value in settings.items()]
        words += ["--property=Restart=always", "--property=StandardError=inherit"]
        words += [f"--property=StandardOutput=append:/srv/log/{log.name}"]
        argv = _argv(Path("/srv/engine"), Path("/srv/models", model.name), port)
        begun = time.monotonic()
        machine.run(["systemd-run", "--unit=by-hand", *words, *argv])
        yield Way(begun, port, lambda: _main_below(machine.leader), log, ENGINE_PHASES)


@contextmanager
def daemon(engine: Path, models: Mapping[str, Path], home: Path) -> Iterator[Way]:
    """Serve the first of the models with the daemon."""
    # Not below `home`: the path of a Unix socket has to be short.
    with ExitStack() as stack:
        runtime = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cahoots-")))
        begun = time.monotonic()
        one = stack.enter_context(running_daemon(home, runtime, engine, models, "--verbose"))

        def pid() -> int:
            return int(one.status()["worker"]["pid"])

        yield Way(begun, one.port, pid, one.log, DAEMON_PHASES, one)


def _argv(engine: Path, model: Path, port: int) -> list[str]:
    return [
        f"{engine}/bin/python", f"{engine}/bin/vllm", "serve", str(model),
        "--served-model-name", model.name, "--port", str(port), "--enforce-eager",
        "--max-model-len", "2048", "--kv-cache-memory-bytes", "256M",
    ]  # fmt: skip


def _env() -> dict[str, str]:
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HOME": str(Path.home()),
        # The daemon's, so that all know the model's class from before.
        "VLLM_CACHE_ROOT": f"{cache}/cahoots-vllm/vllm",
    }


def _main_below(pid: int) -> int:
    return _find(pid, lambda title: "vllm serve" in title)


def _find(root: int, is_it: Callable[[str], bool]) -> int:
    found = tree(root)
    for pid, title in found.items():
        if is_it(title):
            return pid
    sys.exit(f"what is to be killed is not there, only: {sorted(found.values())}")


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    left = {process.pid, *tree(process.pid)}
    # Its process group too: an engine whose server is gone is not below it any more.
    os.killpg(process.pid, signal.SIGKILL)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: gone(left), _END_S)
