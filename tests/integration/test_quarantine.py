"""An engine that dies reading what it compiled before starts once more, without it."""

from pathlib import Path

import pytest

from cahoots_vllm.core.launch import engine_cache
from fake_vllm.script import Behaviour, failure

from .harness import Daemon


@pytest.fixture
def kernel(daemon: Daemon) -> Path:
    """Return something that an earlier start has compiled."""
    version = next(daemon.engine.glob("lib/python3*/site-packages/vllm-*.dist-info"))
    name = version.name.removeprefix("vllm-").removesuffix(".dist-info")
    file = Path(engine_cache(str(daemon.cache), name)) / "triton" / "kernel.so"
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(64))
    return file


def _moved(kernel: Path) -> list[Path]:
    return list(kernel.parents[2].glob("*.quarantined-*/triton/kernel.so"))


def test_start_that_died_in_its_caches_is_tried_again_at_once_without_them(
    daemon: Daemon, kernel: Path
) -> None:
    daemon.play(failure("cache_damaged"), Behaviour())
    daemon.start_ready()
    assert daemon.started() == 2
    assert not kernel.exists()
    (moved,) = _moved(kernel)
    assert moved.read_bytes() == bytes(64)
    why = daemon.status()["last_failure"]
    assert why["cause"] == "cache_damaged"
    assert "invalid ELF header" in why["evidence"]
    assert why["action"] == "moving the engine's caches aside, to start at once without them"
    said = [entry["text"] for entry in daemon.log_entries(500) if entry["source"] == "daemon"]
    assert any(str(moved.parents[1]) in text for text in said), said
    assert f"vLLM {moved.parents[1].name}" in daemon.ctl("prune", "--dry-run").stdout
    assert moved.exists()


def test_second_death_in_them_is_a_failure_like_any_other(daemon: Daemon, kernel: Path) -> None:
    daemon.play(failure("cache_damaged"), failure("cache_damaged"), Behaviour())
    daemon.start_ready()
    assert daemon.started() == 3
    assert len(_moved(kernel)) == 1
    assert daemon.status()["last_failure"]["action"].startswith("trying again in")
