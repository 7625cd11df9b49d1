"""What can change the worker: a person, the settings, a death. Each waits until it is over.

Used by tests (each once) and by tests/bench/worker_changes.py (each several times).
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from engine.harness import DEMO, TINY, Daemon, tree


def swap(daemon: Daemon) -> None:
    """Serve the other model."""
    serving = daemon.status()["model"]["serving"]
    done = daemon.ctl("swap-model", DEMO if serving == TINY else TINY)
    assert done.returncode == 0, done.stderr


def reload(daemon: Daemon) -> None:
    """Change an engine option in the configuration, by `cahootsctl reload`."""
    config = Path(daemon.env["XDG_CONFIG_HOME"]) / "cahoots-vllm" / "cahoots-vllm.toml"
    was = config.read_text()
    seqs = 9 if "max-num-seqs = 8" in was else 8
    config.write_text(f"{was.partition('[options]')[0]}[options]\nmax-num-seqs = {seqs}\n")
    done = daemon.ctl("reload")
    assert done.returncode == 0, done.stderr


def restart(daemon: Daemon) -> None:
    """Have a fresh worker."""
    done = daemon.ctl("restart")
    assert done.returncode == 0, done.stderr


def memory_step(daemon: Daemon) -> None:
    """Ask for less memory than the model's cache needs: the start fails, and steps up by itself."""
    profile = Path(daemon.env["XDG_CONFIG_HOME"]) / "cahoots-vllm" / "models.d"
    path = profile / f"{daemon.status()['model']['serving'].lower()}.toml"
    was, before = path.read_text(), daemon.status()["worker"]["generation"]
    path.write_text(was.replace('kv-cache-memory-bytes = "256M"', "gpu-memory-utilization = 0.02"))
    done = daemon.ctl("reload")
    assert done.returncode == 0, done.stderr
    assert daemon.status()["worker"]["generation"] > before + 1, "no start failed"
    path.write_text(was)
    daemon.ctl("memory", "reset")
    done = daemon.ctl("reload")
    assert done.returncode == 0, done.stderr


def kill_engine_core(daemon: Daemon) -> None:
    """SIGKILL of EngineCore."""
    _kill(daemon, "VLLM::EngineCore")


def kill_worker(daemon: Daemon) -> None:
    """SIGKILL of the process that has the model, as the kernel does when memory is out."""
    _kill(daemon, "VLLM::Worker")


def kill_api_server(daemon: Daemon) -> None:
    """SIGKILL of `vllm serve` itself."""
    before = daemon.status()["worker"]
    os.kill(before["pid"], signal.SIGKILL)
    daemon.wait_ready(after=before["generation"])


def end_api_server(daemon: Daemon) -> None:
    """SIGTERM that nobody of ours sent: vLLM gives its requests up, and its streams look whole."""
    before = daemon.status()["worker"]
    os.kill(before["pid"], signal.SIGTERM)
    daemon.wait_ready(after=before["generation"])


def stop_engine_core(daemon: Daemon) -> None:
    """SIGSTOP of EngineCore: what a hang looks like from outside."""
    _kill(daemon, "VLLM::EngineCore", signal.SIGSTOP)


def _kill(daemon: Daemon, title: str, signum: signal.Signals = signal.SIGKILL) -> None:
    before = daemon.status()["worker"]["generation"]
    found = tree(daemon.process.pid)
    os.kill(next(pid for pid, its in found.items() if its.startswith(title)), signum)
    daemon.wait_ready(after=before)


CHANGES: dict[str, Callable[[Daemon], None]] = {
    "swap": swap,
    "reload": reload,
    "memory step": memory_step,
    "SIGKILL of EngineCore": kill_engine_core,
    "SIGKILL of the worker": kill_worker,
    "SIGKILL of the API server": kill_api_server,
    "restart": restart,
    "SIGTERM to the API server": end_api_server,
    "SIGSTOP of EngineCore": stop_engine_core,
}
