"""Starts a daemon on a real engine, in a home of its own, and ends it with all it started."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from engine.harness import Daemon, is_alive, tree


def make_tiny(engine: Path, target: Path) -> None:
    """Make the second real model: a Qwen3 of two layers with random weights."""
    script = Path(__file__).with_name("make_tiny.py")
    subprocess.run([engine / "bin" / "python", script, target], check=True, timeout=300)


@contextmanager
def running_daemon(
    home: Path, runtime: Path, engine: Path, models: Mapping[str, Path], *more: str
) -> Iterator[Daemon]:
    """Serve the first of the models; `runtime` stands for XDG_RUNTIME_DIR; `more`: arguments."""
    port = free_port()
    (home / ".env").write_text(
        f"LLM_PROVIDER=local\nLOCAL_LLM_URL=http://localhost:{port}/v1\n"
        f"LOCAL_LLM_MODEL={next(iter(models))}\n"
    )
    profiles = home / "config" / "cahoots-vllm" / "models.d"
    profiles.mkdir(parents=True)
    for name, source in models.items():
        (profiles / f"{name.lower()}.toml").write_text(
            f'name = "{name}"\nsource = "{source.absolute()}"\n[options]\nenforce-eager = true\n'
            'max-model-len = 2048\nkv-cache-memory-bytes = "256M"\n'
        )
    # A hang is to be noticed within a test's time.
    (profiles.parent / "cahoots-vllm.toml").write_text("[worker]\nstall_timeout_s = 30\n")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "CAHOOTS_"))}
    # The vLLM cache is kept over runs: the first start of a model class adds 9 s.
    env["XDG_CACHE_HOME"] = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    env |= {f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CONFIG", "STATE")}
    env["XDG_RUNTIME_DIR"] = str(runtime)
    with started(home, env, engine, port, *more) as daemon:
        yield daemon


@contextmanager
def started(
    home: Path, env: dict[str, str], engine: Path, port: int, *more: str
) -> Iterator[Daemon]:
    """Run the daemon in a home with its files; none of its processes is left."""
    log = home / "daemon.log"
    command = [sys.executable, "-m", "cahoots_vllm.main", "--user"]
    command += ["--engine", str(engine.absolute()), *more]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=home, env=env, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield Daemon(process, env, port, log)
    finally:
        left = set(tree(process.pid))
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            process.kill()
            for pid in left:
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
