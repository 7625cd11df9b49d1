"""What an engine compiled before, and cannot read: the stack tells it from weights and packages."""

import pytest

from cahoots_vllm.core.diagnosis import Cause, Exit, diagnose
from unit.core.test_diagnosis_wordings import READY, STARTED, failed_start, raised

KERNEL = "/cache/vllm/0.33.0/torch_compile_cache/0a/inductor_cache/hf/chf.main.so"
LOADING = "codecache.py:_load_library_inner"


@pytest.mark.parametrize(
    ("message", "frame"),
    [
        # torch/_inductor: a library, then Python text that a power cut left short
        (f"ImportError: {KERNEL}: file too short", LOADING),
        (f"ImportError: {KERNEL}: invalid ELF header", LOADING),
        (
            (
                "torch._dynamo.exc.BackendCompilerFailed: backend='inductor' raised:\n"
                f"ImportError: {KERNEL}: invalid ELF header"
            ),
            LOADING,
        ),
        (
            (
                "torch._dynamo.exc.BackendCompilerFailed: backend='inductor' raised:\n"
                "RuntimeError: Failed to import /cache/ie/cie.py\n"
                "SyntaxError: unterminated triple-quoted string literal (detected at line 78)"
            ),
            "compile_tasks.py:_reload_python_module",
        ),
        # vllm/compilation, with VLLM_FORCE_AOT_LOAD and before there was a second try
        ("_pickle.UnpicklingError: pickle data was truncated", "caching.py:deserialize"),
        ("EOFError: Ran out of input", "decorators.py:_try_load_aot_compiled_fn"),
        # triton: a kernel, and what is known of it
        (
            "RuntimeError: Triton Error [CUDA]: device kernel image is invalid",
            "compiler.py:_init_handles",
        ),
        ("json.decoder.JSONDecodeError: Expecting value: line 1 column 1", "compiler.py:compile"),
    ],
)
def test_start_that_dies_reading_a_cache_is_tried_without_it(message: str, frame: str) -> None:
    found = failed_start(message, "gpu_model_runner.py:profile_run", frame)
    assert found.cause is Cause.CACHE_DAMAGED
    assert found.is_retryable
    assert found.evidence in message


@pytest.mark.parametrize(
    ("message", "frame", "cause"),
    [
        # the same words of what no cache is
        (f"ImportError: {KERNEL}: invalid ELF header", "_ops.py:load", Cause.MISSING_DEPENDENCY),
        (
            "_pickle.UnpicklingError: invalid load key, '<'.",
            "weight_utils.py:pt_weights_iterator",
            Cause.CORRUPT_WEIGHTS,
        ),
        # the same places with another reason: compiled again it fails again
        ("OSError: [Errno 28] No space left on device", "codecache.py:write", Cause.DISK_FULL),
        (
            "torch._inductor.exc.InductorError: InvalidCxxCompiler: No working C++ compiler found",
            "codecache.py:load_async",
            Cause.MISSING_DEPENDENCY,
        ),
    ],
)
def test_other_reasons_keep_the_caches(message: str, frame: str, cause: Cause) -> None:
    assert failed_start(message, "gpu_model_runner.py:profile_run", frame).cause is cause


def test_damage_that_is_met_while_serving_moves_nothing() -> None:
    said = raised(f"ImportError: {KERNEL}: invalid ELF header", LOADING)
    dead = (
        "(APIServer pid=1) ERROR 11-22 22:33:36 [core_client.py:1] EngineCore encountered an issue"
    )
    found = diagnose(Exit(code=0), [*STARTED, READY, *said, dead], is_unasked=True)
    assert found.cause is not Cause.CACHE_DAMAGED
