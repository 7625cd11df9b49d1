"""Wordings without a log in hand, each with the frames that give it its meaning."""

import pytest

from cahoots_vllm.core.diagnosis import Cause, Diagnosis, Exit, Trait, diagnose

RECORD = "(EngineCore pid=2) ERROR 11-22 22:33:35 [core.py:1510] "
STARTED = (
    "(APIServer pid=1) INFO 11-22 22:33:30 [api_server.py:1] vLLM API server version 0.15.1",
    "(EngineCore pid=2) INFO 11-22 22:33:31 [core.py:93] Initializing a V1 LLM engine (v0.15.1)",
)
READY = "INFO:     Application startup complete."
OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.16 GiB."
WRAPPER = "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above."


def raised(message: str, *frames: str) -> list[str]:
    """Return a traceback as the engine logs it; frames are "file.py:function"."""
    places = [frame.split(":") for frame in frames]
    stack = [f'  File "/opt/venv/x/{file}", line 1, in {name}' for file, name in places]
    said = ["Traceback (most recent call last):", *stack, *message.split("\n")]
    return [RECORD + line for line in (said if frames else message.split("\n"))]


def failed_start(message: str, *frames: str) -> Diagnosis:
    return diagnose(Exit(code=1), [*STARTED, *raised(message, *frames), WRAPPER])


@pytest.mark.parametrize(
    ("message", "cause", "is_retryable"),
    [
        # 0.9 to 0.14, then 0.15 to 0.32
        (
            (
                "ValueError: Free memory on device (3.1/79.2 GiB) on startup is less than desired "
                "GPU memory utilization (0.9, 71.25 GiB)."
            ),
            Cause.GPU_OOM_STARTUP_FREE,
            True,
        ),
        (
            (
                "ValueError: Free memory on device cuda:0 (3.1/79.2 GiB) on startup is less than "
                "desired GPU memory utilization (0.9, 71.25 GiB)."
            ),
            Cause.GPU_OOM_STARTUP_FREE,
            True,
        ),
        (
            "AssertionError: Error in memory profiling. Initial free memory 1 GiB, current free",
            Cause.GPU_OOM_STARTUP_FREE,
            True,
        ),
        (
            (
                "ValueError: No available memory for the cache blocks. Try increasing "
                "`gpu_memory_utilization` when initializing the engine."
            ),
            Cause.KV_CACHE_NONE,
            True,
        ),
        # 0.9 to 0.15 say models's
        (
            (
                "ValueError: To serve at least one request with the models's max seq len (131072), "
                "(16.00 GiB KV cache is needed, which is larger than the available"
            ),
            Cause.KV_CACHE_TOO_SMALL,
            True,
        ),
        ("RuntimeError: CUDA error: out of memory", Cause.GPU_OOM_STARTUP_ALLOC, True),
        (
            (
                "RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy "
                "requests. Please try lowering `max_num_seqs`"
            ),
            Cause.GPU_OOM_STARTUP_ALLOC,
            True,
        ),
        ("huggingface_hub.errors.GatedRepoError: 403 Client Error.", Cause.HUB_AUTH, False),
        (
            "OSError: org/x is not a local folder and is not a valid model identifier listed on",
            Cause.HUB_NOT_FOUND,
            False,
        ),
        ("OSError: We couldn't connect to 'https://hub' to load", Cause.HUB_NETWORK, True),
        ("OSError: [Errno 98] Address already in use", Cause.PORT_IN_USE, True),
        (
            "ValueError: User-specified max_model_len (99999) is greater than the derived",
            Cause.BAD_ARGUMENTS,
            False,
        ),
        (
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
            Cause.BAD_ARGUMENTS,
            False,
        ),
        ("safetensors_rust.SafetensorError: Error: HeaderTooLarge", Cause.CORRUPT_WEIGHTS, False),
        ("MemoryError", Cause.CORRUPT_WEIGHTS, False),
        ("RuntimeError: No working C++ compiler found", Cause.MISSING_DEPENDENCY, False),
        ("RuntimeError: Failed to infer device type, please set", Cause.CUDA_DRIVER, True),
        (
            "torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
            Cause.CUDA_DRIVER,
            True,
        ),
    ],
)
def test_wordings_without_a_log_in_hand(message: str, cause: Cause, *, is_retryable: bool) -> None:
    found = failed_start(message)
    assert (found.cause, found.is_retryable) == (cause, is_retryable)


def test_gpu_too_new_for_its_tools_is_not_tried_again() -> None:
    found = failed_start("PTXASError: ptxas fatal   : Value 'sm_121a' is not defined")
    assert not found.is_retryable


def test_option_check_of_a_serving_engine_is_a_defect_and_no_bad_argument() -> None:
    lines = [*STARTED, READY, *raised("ValueError: strange", "kv_cache_utils.py:x")]
    assert diagnose(Exit(code=1), lines).cause is Cause.ENGINE_DEAD_OTHER


@pytest.mark.parametrize(
    ("loaded", "trait", "remedy"),
    [
        ((), Trait.LOADING, "quantized or smaller model"),
        (("Loading weights took 12.4 seconds",), Trait.PROFILING, "max-num-batched-tokens"),
        (("Available KV cache memory: 50.1 GiB",), Trait.AFTER_KV, "by a small step (0.05)"),
    ],
)
def test_remedy_belongs_to_when_the_allocation_failed(
    loaded: tuple[str, ...], trait: Trait, remedy: str
) -> None:
    said = [f"(EngineCore pid=2) INFO 11-22 22:33:33 [a.py:1] {line}" for line in loaded]
    found = diagnose(Exit(code=1), [*STARTED, *said, *raised(OUT_OF_MEMORY)])
    assert found.trait is trait
    assert remedy in found.remedy


def test_refused_option_that_warns_of_memory_is_no_memory_failure() -> None:
    message = (
        "ValidationError: 1 validation error for ModelConfig\n  Value error, CUDA out of memory"
    )
    assert failed_start(message, "arg_utils.py:create_model_config").cause is Cause.BAD_ARGUMENTS


def test_survivor_of_another_rank_does_not_hide_who_failed() -> None:
    survivor = (
        "DistBackendError: NCCL error in: x, remote process exited or there was a network error"
    )
    lines = [
        *STARTED,
        *raised(survivor, "gpu_worker.py:load_model"),
        RECORD.replace("=2)", "=3)") + OUT_OF_MEMORY,
    ]
    assert diagnose(Exit(code=1), lines).cause is Cause.GPU_OOM_STARTUP_ALLOC
    found = diagnose(Exit(code=1), lines[:-1])
    assert found.cause is Cause.ENGINE_DEAD_OTHER


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (-9, Cause.HOST_OOM),
        (-7, Cause.HOST_OOM),
        (-11, Cause.ENGINE_DEAD_OTHER),
        (1, Cause.UNKNOWN),
    ],
)
def test_silent_engine_is_judged_by_its_exit_status(status: int, cause: Cause) -> None:
    said = f"{WRAPPER} Failed core proc(s): {{'EngineCore': {status}}}"
    assert diagnose(Exit(code=1), [*STARTED, said]).cause is cause


def test_log_with_its_middle_cut_out_names_nothing() -> None:
    said = f"{WRAPPER} Failed core proc(s): {{}}"
    assert diagnose(Exit(code=1), [*STARTED, "...", said]).cause is Cause.UNKNOWN


def test_illegal_instruction_means_the_wrong_build_for_this_cpu() -> None:
    found = diagnose(Exit(code=132), STARTED[:1])
    assert (found.cause, found.is_retryable) == (Cause.BAD_ARGUMENTS, False)


@pytest.mark.parametrize("tool", ["bash: vllm: command not found", "/bin/sh: 1: lscpu: not found"])
def test_missing_command_is_a_missing_part(tool: str) -> None:
    assert diagnose(Exit(code=127), [tool]).cause is Cause.MISSING_DEPENDENCY


def test_uvicorns_own_word_of_a_busy_port() -> None:
    said = "ERROR:    [Errno 98] error while attempting to bind on address ('::', 8000): address"
    assert diagnose(Exit(code=1), [said]).cause is Cause.PORT_IN_USE
