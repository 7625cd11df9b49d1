"""A search for sizes that fit a scripted GPU: the right lever, the right way, told and remembered.

The stand-in engine does vLLM's own sums (tests/fake_vllm/gpu_memory.py), so that only the right
change can make it serve.
"""

import json
import subprocess

import pytest

from fake_vllm.gpu_log import gpu_failure
from fake_vllm.script import Behaviour

from .harness import Daemon, Json, wait_for
from .scripted_gpus import Gpu, ScriptedGpus

SHARE, CONTEXT = "gpu-memory-utilization", "max-model-len"
BATCH, SEQS = "max-num-batched-tokens", "max-num-seqs"
KV_BYTES = "kv-cache-memory-bytes"
# 24 GiB of which 23.3 are free for an engine; weights of 8, batch of 2: see gpu_memory.Needs.
HIDDEN = {"hidden": 4.2}  # at 0.9 graph capture fails, at 0.85 it does not


def needs(**gib: float) -> Behaviour:
    return Behaviour(memory=gib)


def long_context(daemon: Daemon) -> None:
    """Let the model be good for the default of 32,768 tokens."""
    config = json.dumps({"max_position_embeddings": 32768})
    (daemon.root / "models" / "org-a" / "config.json").write_text(config)


def failed(daemon: Daemon) -> Json:
    found: Json = daemon.status()["last_failure"]
    return found


def said(daemon: Daemon, *args: str) -> str:
    """Return what cahootsctl says, without its line breaks."""
    return " ".join(daemon.ctl(*args).stdout.split())


def diagnoses(daemon: Daemon) -> list[Json]:
    """Return the diagnosis events so far, read until the stream is quiet."""
    found: list[Json] = []
    with daemon.open_stream("/v1/events", {"Last-Event-ID": "0"}, timeout_s=1) as stream:
        try:
            while line := stream.readline():
                if line.startswith(b"data: ") and b'"evidence"' in line:
                    found.append(json.loads(line[6:]))
        except TimeoutError:
            pass
    return found


def test_allocation_after_the_kv_cache_takes_one_step_down_and_is_told_everywhere(
    gpu_daemon: Daemon,
) -> None:
    gpu_daemon.play(needs(**HIDDEN))
    gpu_daemon.start_ready()
    assert gpu_daemon.started_with(SHARE) == ["0.9", "0.85"]
    changed = [{"option": SHARE, "before": 0.9, "after": 0.85}]
    why = failed(gpu_daemon)
    assert (why["cause"], why["changed"]) == ("gpu_oom_startup_alloc", changed)
    assert why["evidence"].startswith("torch.OutOfMemoryError: CUDA out of memory.")
    assert why["action"] == f"changed {SHARE} from 0.9 to 0.85"
    [event] = diagnoses(gpu_daemon)
    assert (event["cause"], event["changed"]) == (why["cause"], changed)
    worker = gpu_daemon.status()["worker"]
    [row] = worker["adapted"]
    assert (row["option"], row["asked"], row["used"]) == (SHARE, 0.9, 0.85)
    assert (row["cause"], worker["gpu_memory_utilization"]) == ("gpu_oom_startup_alloc", 0.85)
    assert worker["restarts"] == 0
    for text in (said(gpu_daemon, "status"), gpu_daemon.log.read_text()):
        assert f"{SHARE} from 0.9 to 0.85" in text


def test_what_worked_is_the_first_try_of_the_next_daemon_until_it_is_reset(
    gpu_daemon: Daemon,
) -> None:
    gpu_daemon.play(needs(**HIDDEN))
    gpu_daemon.start_ready()
    assert gpu_daemon.stop() == 0
    [record] = gpu_daemon.read_state()["memory"]
    assert (record["key"]["devices"], record["key"]["engine"]) == (["GPU-0"], "0.32.0")
    gpu_daemon.start_ready()
    assert gpu_daemon.started_with(SHARE) == ["0.9", "0.85", "0.85"]
    shown = said(gpu_daemon, "memory", "show")
    assert f"{SHARE} from 0.9 to 0.85 (worked)" in shown
    assert f"{SHARE} 0.9, {CONTEXT} 2048: too much memory" in shown
    outcome = gpu_daemon.ctl("memory", "reset")
    assert outcome.returncode == 0, outcome.stderr
    assert gpu_daemon.api("GET", "/v1/memory") == {"memory": []}
    assert gpu_daemon.stop() == 0
    gpu_daemon.start_ready()
    assert gpu_daemon.started_with(SHARE) == ["0.9", "0.85", "0.85", "0.9", "0.85"]


def test_other_sizes_asked_for_and_another_gpu_begin_a_search_of_their_own(
    gpu_daemon: Daemon, gpus: ScriptedGpus
) -> None:
    gpu_daemon.play(needs(**HIDDEN))
    gpu_daemon.start_ready()
    assert gpu_daemon.stop() == 0
    gpus.show(Gpu(uuid="GPU-9"))
    gpu_daemon.start_ready()
    assert gpu_daemon.stop() == 0
    gpu_daemon.configure(options={SHARE: 0.7})
    gpu_daemon.start_ready()
    assert gpu_daemon.started_with(SHARE) == ["0.9", "0.85", "0.9", "0.85", "0.7"]


@pytest.mark.parametrize(
    ("gib", "batch", "seqs"),
    [
        # Profiling: the batch first, and with it the sequences; the share stays.
        ({"weights": 14.0, "activation_per_1k": 1.3}, [None, "2048"], [None, "128"]),
        ({"weights": 17.0, "activation_per_1k": 3.2}, [None, "2048", "1024"], [None, "128", "64"]),
        # The sampler's warm-up: the sequences only.
        ({"per_seq": 0.02}, [None, None], [None, "128"]),
    ],
)
def test_allocation_before_the_kv_cache_or_in_the_sampler_lowers_the_batch(
    gpu_daemon: Daemon, gib: dict[str, float], batch: list[str | None], seqs: list[str | None]
) -> None:
    gpu_daemon.play(needs(**gib))
    gpu_daemon.start_ready()
    assert failed(gpu_daemon)["cause"] == "gpu_oom_startup_alloc"
    assert gpu_daemon.started_with(BATCH) == batch
    assert gpu_daemon.started_with(SEQS) == seqs
    assert set(gpu_daemon.started_with(SHARE)) == {"0.9"}


def test_weights_that_do_not_fit_are_given_up_with_what_to_do(gpu_daemon: Daemon) -> None:
    gpu_daemon.play(needs(weights=30))
    gpu_daemon.start()
    gpu_daemon.wait_phase("failed")
    why = failed(gpu_daemon)
    assert (why["cause"], gpu_daemon.started()) == ("gpu_oom_startup_alloc", 1)
    assert "quantized or smaller model" in why["remedy"]
    assert "the weights do not fit" in why["action"]
    assert "quantized" in gpu_daemon.ctl("status").stdout


def test_weights_that_do_not_fit_beside_others_are_tried_twice_and_when_those_are_gone(
    gpu_daemon: Daemon, gpus: ScriptedGpus, holder: subprocess.Popen[bytes]
) -> None:
    gpus.show(Gpu().held_by(holder.pid, 2_400))
    gpu_daemon.play(needs(weights=21.4, activation_per_1k=0.01, graphs=0.05, kv_per_1k=0.01))
    gpu_daemon.start()
    wait_for(lambda: gpu_daemon.status()["waiting_for"])
    assert gpu_daemon.started_with(SHARE) == ["0.86", "0.81"]
    assert failed(gpu_daemon)["cause"] == "gpu_oom_startup_alloc"
    [row] = gpu_daemon.status()["waiting_for"]["holders"]
    assert row["pid"] == holder.pid
    holder.kill()
    holder.wait(5)
    gpu_daemon.wait_phase("ready")
    assert gpu_daemon.started_with(SHARE)[2:] == ["0.9"]


@pytest.mark.parametrize(
    ("gib", "shares", "context"),
    [
        # 32768 tokens need 11.8 GiB, 11.15 are there: the share goes up by what is missing.
        ({"kv_per_1k": 0.36}, ["0.9", "0.94"], "32768"),
        # They need 16.4, and 12.6 are there at most: the engine's own estimate.
        ({"kv_per_1k": 0.5}, ["0.9", "0.9"], "22304"),
    ],
)
def test_kv_cache_too_small_goes_up_else_to_the_engines_estimate(
    gpu_daemon: Daemon, gib: dict[str, float], shares: list[str], context: str
) -> None:
    long_context(gpu_daemon)
    gpu_daemon.play(needs(**gib))
    gpu_daemon.start_ready()
    assert failed(gpu_daemon)["cause"] == "kv_cache_too_small"
    assert gpu_daemon.started_with(SHARE) == shares
    assert gpu_daemon.started_with(CONTEXT) == ["32768", context]


def test_context_is_never_shortened_below_the_floor(gpu_daemon: Daemon) -> None:
    long_context(gpu_daemon)
    gpu_daemon.play(needs(weights=21.8, activation_per_1k=0))
    gpu_daemon.start()
    gpu_daemon.wait_phase("failed")
    assert all(int(context or 0) >= 8192 for context in gpu_daemon.started_with(CONTEXT))
    assert gpu_daemon.started() <= 11
    why = failed(gpu_daemon)
    assert why["cause"] == "kv_cache_too_small"
    assert "no sizes are left to try" in why["action"]


def test_no_memory_for_cache_blocks_goes_up_by_what_is_missing(gpu_daemon: Daemon) -> None:
    gpu_daemon.play(needs(weights=20, kv_per_1k=0.1))
    gpu_daemon.start_ready()
    assert failed(gpu_daemon)["cause"] == "kv_cache_none"
    assert gpu_daemon.started_with(SHARE) == ["0.9", "0.95"]  # -0.85 GiB of 24, and a little more


def test_disturbed_memory_profiling_is_started_again_unchanged(gpu_daemon: Daemon) -> None:
    gpu_daemon.play(gpu_failure("profile_disturbed"), needs())
    gpu_daemon.start_ready()
    why = failed(gpu_daemon)
    assert (why["cause"], why["changed"]) == ("gpu_oom_startup_free", [])
    assert gpu_daemon.started_with(SHARE) == ["0.9", "0.9"]
    assert gpu_daemon.status()["worker"]["adapted"] == []


def test_memory_taken_after_the_look_is_fitted_by_the_engines_figures(gpu_daemon: Daemon) -> None:
    gpu_daemon.play(needs(unseen=4))  # 19.30 of 24.00 GiB, the engine says
    gpu_daemon.start_ready()
    assert failed(gpu_daemon)["cause"] == "gpu_oom_startup_free"
    assert gpu_daemon.started_with(SHARE) == ["0.9", "0.79"]


def test_out_of_memory_while_serving_takes_a_step_down(gpu_daemon: Daemon) -> None:
    gpu_daemon.play(needs(busy=4))
    gpu_daemon.start_ready()
    gpu_daemon.chat("one too many")
    gpu_daemon.wait_generation(2)
    assert failed(gpu_daemon)["cause"] == "gpu_oom_serving"
    assert gpu_daemon.says("now") == "fake: now"
    assert gpu_daemon.started_with(SHARE) == ["0.9", "0.85"]


def test_kv_cache_in_bytes_is_lowered_in_bytes(gpu_daemon: Daemon) -> None:
    """With it the engine ignores the share, so that must stay."""
    gpu_daemon.configure(options={KV_BYTES: 15 << 30})
    gpu_daemon.play(needs())
    gpu_daemon.start_ready()
    used = [int(size or 0) for size in gpu_daemon.started_with(KV_BYTES)]
    assert used[0] == 15 << 30
    assert used[-1] < used[0]
    assert set(gpu_daemon.started_with(SHARE)) == {"0.9"}


def test_adapt_off_changes_nothing_and_says_so(gpu_daemon: Daemon) -> None:
    gpu_daemon.configure(memory={"adapt": False})
    gpu_daemon.play(needs(**HIDDEN))
    gpu_daemon.start()
    gpu_daemon.wait_phase("failed")
    assert gpu_daemon.started() == 1
    assert "memory.adapt is off in cahoots-vllm.toml" in failed(gpu_daemon)["action"]
    assert "memory.adapt is off in cahoots-vllm.toml" in gpu_daemon.log.read_text()


def test_reason_of_giving_up_is_shown_in_the_text_status(gpu_daemon: Daemon) -> None:
    gpu_daemon.configure(memory={"adapt": False})
    gpu_daemon.play(needs(**HIDDEN))
    gpu_daemon.start()
    gpu_daemon.wait_phase("failed")
    assert "memory.adapt is off" in said(gpu_daemon, "status")
