"""Real start-up lines of several vLLM versions, and lines that must not be taken for them."""

from collections.abc import Iterable
from pathlib import Path
from string import Template

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cahoots_vllm.core.phases import StartProgress, advance

LOGS = Path(__file__).parents[2] / "fake_vllm" / "logs"
VALUES = {
    "main": 100,
    "engine": 101,
    "worker": 102,
    "now": "11-22 22:33:35",
    "version": "0.32.0",
    "model": "org/name",
    "max_model_len": 2048,
    "address": "unix:/run/worker-1.sock",
}
API = "(APIServer pid=100) INFO 11-22 22:33:35 [api_utils.py:286] "
ENGINE = "(EngineCore pid=101) INFO 11-22 22:33:35 [core.py:133] "
ENGINE_DP = "(EngineCore_DP0 pid=101) INFO 11-22 22:33:35 [core.py:75] "
WORKER = "(Worker_TP0 pid=102) INFO 11-22 22:33:35 [worker.py:1] "
ORDER = (
    "importing",
    "reading arguments",
    "resolving the configuration",
    "starting the engine",
    "starting workers",
    "loading weights",
    "profiling memory",
    "compiling",
    "allocating the KV cache",
    "capturing CUDA graphs",
    "starting the server",
    "answering the first request",
)
# One start on CUDA, worded as 0.10 to 0.15 said it.
OLD_START = (
    API + "vLLM API server version 0.10.2",
    API + "Resolved architecture: Qwen3ForCausalLM",
    API + "Using max model len 32768",
    ENGINE_DP + "Initializing a V1 LLM engine (v0.10.2) with config: model='org/name'",
    ENGINE_DP + "rank 0 in world size 1 is assigned as DP rank 0, PP rank 0, TP rank 0, EP rank 0",
    ENGINE_DP + "Starting to load model org/name...",
    "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<00:00,  1.20it/s]",
    ENGINE_DP + "Loading weights took 2.31 seconds",
    ENGINE_DP + "Model loading took 18.1470 GiB and 3.117 seconds",
    ENGINE_DP + "Using cache directory: /cache/vllm/torch_compile_cache/a1/rank_0_0 for vLLM's "
    "torch.compile",
    ENGINE_DP + "torch.compile takes 21.15 s in total",
    ENGINE_DP + "Available KV cache memory: 46.14 GiB",
    ENGINE_DP + "GPU KV cache size: 188,976 tokens",
    ENGINE_DP + "Maximum concurrency for 32,768 tokens per request: 5.77x",
    "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE): 100%|██████████| 67/67 [00:03<00:00]",
    ENGINE_DP + "Graph capturing finished in 7 secs, took 0.95 GiB",
    ENGINE_DP + "init engine (profile, create kv cache, warmup model) took 41.17 seconds",
    API + "Supported_tasks: ['generate']",
    API + "Starting vLLM API server 0 on http://127.0.0.1:8001",
    "INFO:     Application startup complete.",
)
# The same, worded as 0.20 to 0.33 say it.
NEW_START = (
    API + "vLLM server version 0.33.0, serving model org/name",
    API + "Resolved architecture: Qwen3ForCausalLM",
    API + "Using max model len 32768",
    ENGINE + "Initializing a V1 LLM engine (v0.33.0) with config: model='org/name'",
    WORKER + "world_size=1 rank=0 local_rank=0 distributed_init_method=tcp://x backend=nccl",
    WORKER + "Starting to load model org/name...",
    "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<00:00,  1.20it/s]",
    WORKER + "Loading weights took 2.31 seconds",
    WORKER + "Model loading took 18.15 GiB memory and 3.117 seconds",
    WORKER + "[backbone] Starting torch.compile",
    WORKER + "[backbone] torch.compile took 21.15 s in total",
    WORKER + "Available KV cache memory: 46.14 GiB",
    ENGINE + "GPU KV cache size: 188,976 tokens, Maximum concurrency for 32,768 tokens per "
    "request: 5.77x",
    "Capturing CUDA graphs (decode, FULL): 100%|██████████| 67/67 [00:03<00:00, 20.1it/s]",
    ENGINE
    + "init engine (profile, create kv cache, warmup model) took 41.17 s (compilation: 21 s)",
    API + "Supported tasks: ['generate']",
    API + "Starting vLLM server on unix:/run/worker-1.sock",
    "INFO:     Application startup complete.",
)
DECOYS = (
    (
        "(APIServer pid=1) WARNING 11-22 22:33:35 [system_utils.py:255] Found ulimit of 20000 and "
        "failed to automatically increase with error current limit exceeds maximum limit. This can "
        "cause fd limit errors like `OSError: [Errno 24] Too many open files`. Consider increasing"
    ),
    (
        "(EngineCore pid=1) INFO 11-22 22:33:35 [shm_broadcast.py:109] No available shared memory "
        "broadcast block found in 60 seconds. This typically happens when some processes are "
        "hanging or doing some time-consuming work (e.g. compilation)"
    ),
    (
        "(APIServer pid=1) ERROR 11-22 22:33:35 [repo_utils.py:57] Error retrieving file list: "
        "timed out, retrying 1 of 2"
    ),
    "Triton is installed, but doesn't include CPU backend. Disabling Triton.",
    "INFO:     Waiting for application startup.",
    "INFO:     Started server process [4242]",
    "Downloading shards:  50%|█████     | 1/2 [00:10<00:10, 10.0s/it]",
    "model-00001-of-00002.safetensors:  50%|█████     | 1.2G/2.4G [00:10<00:10, 120MB/s]",
    (
        "(EngineCore pid=1) INFO 11-22 22:33:35 [x.py:1] Time spent downloading weights for "
        "org/name: 12.5 seconds"
    ),
    "(Worker pid=1) INFO 11-22 22:33:35 [base_loader.py:82] Initializing model took 0.1 seconds",
    "(APIServer pid=1) INFO 11-22 22:33:35 [launcher.py:195] Route: /v1/models, Methods: GET",
    "(APIServer pid=1) INFO 11-22 22:33:35 [api_utils.py:286] non-default args: {'model': 'x'}",
    "nanobind: leaked 3 instances!",
    "",
    "\r",
)


def _read(lines: Iterable[str], start: StartProgress | None = None) -> list[StartProgress]:
    progress = [start or StartProgress()]
    for line in lines:
        progress.append(advance(progress[-1], line))
    return progress


def _sub_phases(progress: Iterable[StartProgress]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.sub_phase for each in progress))


@pytest.mark.parametrize(
    ("start", "version"), [(OLD_START, "0.10.2"), (NEW_START, "0.33.0")], ids=["0.10", "0.33"]
)
def test_a_start_goes_through_every_sub_phase_in_order(
    start: tuple[str, ...], version: str
) -> None:
    progress = _read(start)
    assert _sub_phases(progress) == ORDER
    assert progress[-1].engine_version == version
    assert progress[-1].max_model_len == 32768
    assert progress[-1].can_generate is True


def test_a_real_start_of_the_cpu_engine_is_followed_to_its_end() -> None:
    text = Template((LOGS / "startup.log").read_text("utf-8")).safe_substitute(VALUES)
    progress = _read(text.splitlines())
    expected = [name for name in ORDER if name not in {"compiling", "capturing CUDA graphs"}]
    expected.remove("reading arguments")  # the logo is off in our workers: VLLM_DISABLE_LOG_LOGO
    assert _sub_phases(progress) == tuple(expected)
    assert progress[-1].engine_version == "0.32.0"
    assert progress[-1].max_model_len == 2048
    fractions = [each.fraction for each in progress if each.sub_phase == "loading weights"]
    assert sorted({each for each in fractions if each is not None}) == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("line", "sub_phase"),
    [
        # 0.20 and later on CPU
        ("Warming up model for the compilation...", "compiling"),
        ("Auto set (1.74/23.54) GiB for KV cache on node 0, with", "allocating the KV cache"),
        ("Explicitly set (0.5/8) GiB for KV cache on node 0", "allocating the KV cache"),
        ("CPU KV cache size: 1,852,800 tokens", "allocating the KV cache"),
        ("Available KV cache memory: -6.54 GiB", "allocating the KV cache"),
        ("GPU + host KV cache size: 1,000 tokens", "allocating the KV cache"),
        # prefetch, 0.20 and later
        ("Prefetching checkpoint files: 10% (1/10)", "loading weights"),
        # 0.12 to 0.15, the wording of `world size`
        ("world_size=2 rank=1 local_rank=1 distributed_init_method=x backend=nccl", "starting wo"),
        ("Starting vLLM API server 3 on http://[::]:8001", "starting the server"),
    ],
)
def test_wordings_of_other_versions_and_platforms(line: str, sub_phase: str) -> None:
    assert advance(StartProgress(), WORKER + line).sub_phase.startswith(sub_phase)


@pytest.mark.parametrize("decoy", DECOYS)
@pytest.mark.parametrize("position", [0, 3, 6, len(NEW_START)])
def test_decoys_change_nothing(decoy: str, position: int) -> None:
    before = _read(NEW_START[:position])[-1]
    assert advance(before, decoy) == before


@given(st.lists(st.sampled_from((*OLD_START, *NEW_START, *DECOYS)), max_size=40))
def test_sub_phases_only_move_forward_whatever_the_order_of_lines(lines: list[str]) -> None:
    ranks = [each.rank for each in _read(lines)]
    assert ranks == sorted(ranks)


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert advance(StartProgress(), text).rank >= 0


def test_a_late_loading_bar_does_not_take_a_later_sub_phase_back() -> None:
    late = _read(NEW_START)[-1]
    bar = "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<00:00,  1.20it/s]"
    assert advance(late, bar) == late


def test_fraction_belongs_to_its_sub_phase() -> None:
    loading = _read(NEW_START[:7])[-1]
    assert loading.fraction == 0.5
    assert advance(loading, NEW_START[7]).fraction is None


def test_fitted_context_length_replaces_the_asked_one() -> None:
    lines = (
        API + "Using max model len 32768",
        ENGINE + "Auto-fit max_model_len: reduced from 32768 to 20480 to fit in available memory",
    )
    assert [each.max_model_len for each in _read(lines)] == [None, 32768, 20480]
    full = ENGINE + "Auto-fit max_model_len: full model context length 40960 fits"
    assert advance(StartProgress(), full).max_model_len == 40960


@pytest.mark.parametrize(
    ("tasks", "can_generate"), [("['generate']", True), ("['embed', 'score']", False)]
)
def test_tasks_tell_whether_a_token_can_come_out(tasks: str, *, can_generate: bool) -> None:
    progress = advance(StartProgress(), API + f"Supported tasks: {tasks}")
    assert progress.can_generate is can_generate
