"""What the real engine compiled is damaged on the disk: it starts without it, by itself."""

import time
from pathlib import Path

import pytest

from engine.harness import TINY
from engine.test_failures import Story, say, wait_state

pytestmark = pytest.mark.timeout(900)
# Once the engine hung over a damaged kernel, where it ends else: after 300 s the daemon ends it.
_PATIENCE_S = 600.0


@pytest.fixture
def story(engine: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(tmp_path, engine, tmp_path_factory.mktemp("run"))


def test_kernels_that_a_power_cut_left_empty_are_moved_aside_and_compiled_again(
    story: Story, tiny_model: Path
) -> None:
    options = 'max-model-len = 512\nkv-cache-memory-bytes = "256M"\n'  # compiled: not eager
    story.profile(TINY, str(tiny_model), options)
    story.write_env(TINY)
    place = story.home / "cache" / "cahoots-vllm" / "vllm"
    with story.running() as daemon:
        begun = time.monotonic()
        assert wait_state(daemon, "ready", "failed")["state"] == "ready"
        say("first start, compiling", begun)
        assert daemon.ctl("stop").returncode == 0
        kernels = list(place.glob("*/torch_compile_cache/**/*.main.so"))
        assert kernels
        for kernel in kernels:
            kernel.write_bytes(bytes(kernel.stat().st_size))
        begun = time.monotonic()
        assert daemon.ctl("start", "--no-wait").returncode == 0
        assert wait_state(daemon, "ready", "failed", timeout_s=_PATIENCE_S)["state"] == "ready"
        say("start over damaged kernels, and again without them", begun)
        why = daemon.status()["last_failure"]
        assert why["cause"] == "cache_damaged", why
        assert "invalid ELF header" in why["evidence"]
        assert daemon.status()["worker"]["generation"] == 3
    assert len(list(place.glob("*.quarantined-*"))) == 1
