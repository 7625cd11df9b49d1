"""`cahootsctl bench --quick` on the real engine: exact lengths, real figures, a kept result."""

import json

import pytest

from engine.harness import Daemon

pytestmark = pytest.mark.timeout(600)


def test_quick_bench_measures_the_real_engine(daemon: Daemon) -> None:
    daemon.wait_ready()
    done = daemon.ctl("bench", "--quick", "--json", timeout_s=400)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["kept_at"], result["notes"]
    for way in (result["gateway"], result["direct"]):
        many = way["many"]
        # Exact by the engine's own count.
        assert many["input_tokens"] == many["requests"] * 128
        assert many["output_tokens"] == many["requests"] * 32
        assert way["prefill"]["prompt_tokens"] == 512
        assert way["single"]["tokens_per_s_per_stream"] > 0
        assert way["prefix_cache"]["again_ttft_ms"] < way["prefix_cache"]["first_ttft_ms"] / 2
    shown = daemon.ctl("bench", "--history")
    print("\n" + shown.stdout)  # noqa: T201 (figures)
    assert "tokens/s" in shown.stdout
