"""The same words mean different things: what is read from a message and its frames together."""

import pytest

from cahoots_vllm.core.diagnosis import Cause
from unit.core.test_diagnosis_wordings import failed_start


@pytest.mark.parametrize(
    ("cause", "message", "frames"),
    [
        # names written small, in a traceback
        (
            Cause.CORRUPT_WEIGHTS,
            "struct.error: unpack requires 8 bytes",
            "utils.py:get_safetensors",
        ),
        (Cause.CORRUPT_WEIGHTS, "zlib.error: Error -3", "default_loader.py:load_weights"),
        (Cause.BAD_ARGUMENTS, "socket.gaierror: [Errno -2] x", "launcher.py:create_server_socket"),
        (Cause.BAD_ARGUMENTS, "OverflowError: bind(): port must be", "launcher.py:setup_server"),
        (Cause.BAD_ARGUMENTS, "ssl.SSLError: [X509] bad", "config.py:create_ssl_context"),
        (Cause.BAD_ARGUMENTS, "FileNotFoundError: [Errno 2] No", "config.py:create_ssl_context"),
        # what belongs to a model, and is damaged or absent
        (
            Cause.CORRUPT_WEIGHTS,
            (
                "pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig\n"
                "  Value error, Unterminated string starting at: line 1 column 11 (char 10) [t]"
            ),
            "arg_utils.py:create_engine_config",
        ),
        (
            Cause.CORRUPT_WEIGHTS,
            "json.decoder.JSONDecodeError: Expecting value: line 1 column 2 (char 1)",
            "tokenization_auto.py:get_tokenizer_config",
        ),
        (
            Cause.CORRUPT_WEIGHTS,
            (
                "ValueError: Couldn't instantiate the backend tokenizer from one of:\n(1) a file\n"
                "You need to have sentencepiece or tiktoken installed to convert a slow tokenizer"
            ),
            "tokenization_utils_tokenizers.py:__init__",
        ),
        (
            Cause.CORRUPT_WEIGHTS,
            (
                "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
                "  Value error, Unrecognized model in /m. Should have a `model_type` key in"
            ),
            "arg_utils.py:create_model_config",
        ),
        (Cause.CORRUPT_WEIGHTS, "ValueError: GGUF magic invalid", "gguf_reader.py:__init__"),
        (
            Cause.CORRUPT_WEIGHTS,
            'FileNotFoundError: No such file or directory: "/m/model-00003-of-9.safetensors"',
            "weight_utils.py:safetensors_weights_iterator",
        ),
        # the same words of a hub and of a peer
        (
            Cause.HUB_NETWORK,
            "ConnectionResetError: [Errno 104] Connection reset by peer",
            "_exceptions.py:map_exceptions",
        ),
        (Cause.HUB_NETWORK, "RuntimeError: Data processing error: CAS service error", ""),
        (
            Cause.DISK_FULL,
            "RuntimeError: Data processing error: Writer Error: No space left (os error 28)",
            "",
        ),
        (Cause.HUB_AUTH, "botocore.exceptions.NoCredentialsError: Unable to locate", ""),
        (
            Cause.DISK_FULL,
            "FileNotFoundError: [Errno 2] No usable temporary directory found in ['/tmp']",
            "tempfile.py:_get_default_tempdir",
        ),
        # a compiler's own words stand below its command
        (
            Cause.DISK_FULL,
            (
                "InductorError: CppCompileError: C++ compile error\n\nCommand:\n"
                f"g++ {'-Dx ' * 3000}\n\nOutput:\nfatal error: when writing output: No space "
                "left on device"
            ),
            "cpp_builder.py:build",
        ),
        (
            Cause.HOST_OOM,
            "RuntimeError: Ninja build failed. Ninja output:\n[1/40] nvcc -O3\nKilled\nninja: x",
            "cpp_ext.py:run_ninja",
        ),
        (
            Cause.MISSING_DEPENDENCY,
            (
                "CppCompileError: C++ compile error\nOutput:\nfatal error: Python.h: No "
                "such file or directory"
            ),
            "cpp_builder.py:build",
        ),
        (Cause.MISSING_DEPENDENCY, "RuntimeError: NVCC compilation failed", "deep_gemm.py:x"),
        (
            Cause.MISSING_DEPENDENCY,
            "subprocess.CalledProcessError: Command 'lscpu' returned non-zero exit status 127.",
            "subprocess.py:run",
        ),
        # imports come before the options that need them
        (Cause.MISSING_DEPENDENCY, "ImportError: triton_kernels must be installed for mxfp4", ""),
        (Cause.CUDA_DRIVER, "ImportError: libcuda.so.1: cannot open shared object file", ""),
        # who is too old
        (Cause.CUDA_DRIVER, "PTXASError: ptxas fatal   : Value 'sm_121a' is not defined", ""),
        (Cause.BAD_ARGUMENTS, "ValueError: type fp8e4nv not supported in this architecture", ""),
        (Cause.BAD_ARGUMENTS, "RuntimeError: vLLM CPU backend requires AVX512, AVX2", ""),
        (Cause.BAD_ARGUMENTS, "ValueError: invalid literal for int() with base 10: 'MIG-1f'", ""),
        # options that do not fit the model
        (Cause.BAD_ARGUMENTS, "ValueError: LoRA rank 64 is greater than max_lora_rank 16.", ""),
        (Cause.BAD_ARGUMENTS, "ValueError: size = 1368 is not divisible by min_thread_k", ""),
        (Cause.BAD_ARGUMENTS, "ValueError: The input size is not aligned with the weight", ""),
        # the last row: whatever else an option's check refuses
        (Cause.BAD_ARGUMENTS, "ValueError: strange", "envs.py:get_vllm_port"),
        (Cause.BAD_ARGUMENTS, "NotImplementedError: strange", "kv_cache_utils.py:unify_specs"),
        (Cause.BAD_ARGUMENTS, "jinja2.exceptions.TemplateSyntaxError: unexpected '}'", "hf.py:x"),
        (Cause.UNKNOWN, "ValueError: strange", "gpu_model_runner.py:load_model"),
        # the GPU's memory in the words of others
        (Cause.GPU_OOM_STARTUP_ALLOC, "RuntimeError: Triton Error [CUDA]: out of memory", ""),
        (Cause.GPU_OOM_STARTUP_ALLOC, "RuntimeError: NPU out of memory. Tried to allocate", ""),
        (Cause.GPU_OOM_STARTUP_ALLOC, "XlaRuntimeError: RESOURCE_EXHAUSTED: Error loading", ""),
        (Cause.GPU_OOM_STARTUP_ALLOC, "RuntimeError: CUDA Error: out of memory at /cumem.cpp", ""),
    ],
)
def test_reason_is_read_from_words_and_frames(cause: Cause, message: str, frames: str) -> None:
    found = failed_start(message, *frames.split())
    assert found.cause is cause, found.evidence
    assert not (found.is_retryable and cause in {Cause.BAD_ARGUMENTS, Cause.CORRUPT_WEIGHTS})
