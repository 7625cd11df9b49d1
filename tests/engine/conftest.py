"""One daemon on a real engine with a real model, shared by the tests of a module.

The engine and the model come from packaging/test: CAHOOTS_TEST_ENGINE, CAHOOTS_TEST_MODEL.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.harness import DEMO, TINY, Daemon, is_alive, tree

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def engine() -> Path:
    """Return the real engine."""
    path = Path(os.environ.get("CAHOOTS_TEST_ENGINE") or ROOT / ".engine")
    if not (path / "bin" / "vllm").exists():
        pytest.fail("no engine: run packaging/test --tier engine")
    return path


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """Return the directory of the demo model."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    default = f"{cache}/cahoots-vllm/models/{DEMO}"
    path = Path(os.environ.get("CAHOOTS_TEST_MODEL") or default)
    if not (path / "config.json").exists():
        pytest.fail("no demo model: run packaging/test --tier engine")
    return path


@pytest.fixture(scope="session")
def tiny_model(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the second real model: a Qwen3 of two layers with random weights."""
    target = tmp_path_factory.mktemp("models") / TINY
    script = Path(__file__).with_name("make_tiny.py")
    subprocess.run([engine / "bin" / "python", script, target], check=True, timeout=300)
    return target


@pytest.fixture(scope="module")
def daemon(
    engine: Path, demo_model: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """Run the daemon until the module's tests are done; none of its processes may be left."""
    home = tmp_path_factory.mktemp("home")
    port = free_port()
    (home / ".env").write_text(
        f"LLM_PROVIDER=local\nLOCAL_LLM_URL=http://localhost:{port}/v1\nLOCAL_LLM_MODEL={DEMO}\n"
    )
    profiles = home / "config" / "cahoots-vllm" / "models.d"
    profiles.mkdir(parents=True)
    for name, source in ((DEMO, demo_model), (TINY, tiny_model)):
        (profiles / f"{name.lower()}.toml").write_text(
            f'name = "{name}"\nsource = "{source}"\n[options]\nenforce-eager = true\n'
            'max-model-len = 2048\nkv-cache-memory-bytes = "256M"\n'
        )
    env = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "CAHOOTS_"))}
    # The vLLM cache is kept over runs: the first start of a model class adds 9 s.
    env["XDG_CACHE_HOME"] = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    env |= {f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CONFIG", "STATE")}
    env["XDG_RUNTIME_DIR"] = str(tmp_path_factory.mktemp("run"))
    log = home / "daemon.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cahoots_vllm.main", "--user", "--engine", str(engine)],
            cwd=home, env=env, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    running = Daemon(process, env, port, log)
    try:
        yield running
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
