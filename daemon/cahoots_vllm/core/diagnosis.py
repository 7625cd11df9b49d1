"""Why a worker died or would not start: cause, evidence, remedy, retryable or not.

Reads the log forward and takes the first error of the innermost process: below it stand the
same traceback again, the outer processes' echoes and the shutdown noise.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from cahoots_vllm.core.phases import LogLine, parse_line


class Cause(StrEnum):
    """The closed set of causes."""

    GPU_OOM_STARTUP_FREE = "gpu_oom_startup_free"
    GPU_OOM_STARTUP_ALLOC = "gpu_oom_startup_alloc"
    GPU_OOM_SERVING = "gpu_oom_serving"
    KV_CACHE_NONE = "kv_cache_none"
    KV_CACHE_TOO_SMALL = "kv_cache_too_small"
    HOST_OOM = "host_oom"
    HUB_AUTH = "hub_auth"
    HUB_NOT_FOUND = "hub_not_found"
    HUB_NETWORK = "hub_network"
    DISK_FULL = "disk_full"
    PORT_IN_USE = "port_in_use"
    BAD_ARGUMENTS = "bad_arguments"
    CORRUPT_WEIGHTS = "corrupt_weights"
    CUDA_DRIVER = "cuda_driver"
    ENGINE_DEAD_OTHER = "engine_dead_other"
    MISSING_DEPENDENCY = "missing_dependency"
    NOT_A_FAILURE = "not_a_failure"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Exit:
    """How the worker's main process ended: an exit code, or the signal that killed it."""

    code: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        """Say it as a person would."""
        return f"signal {self.signal}" if self.signal is not None else f"exit status {self.code}"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why; `line` is the evidence's number in the log, counted from 1, None without one."""

    cause: Cause
    evidence: str
    remedy: str
    is_retryable: bool
    line: int | None = None


@dataclass(frozen=True, slots=True)
class _Row:
    cause: Cause
    pattern: re.Pattern[str]
    remedy: str
    is_retryable: bool


def _row(cause: Cause, pattern: str, remedy: str, *, retry: bool = False) -> _Row:
    return _Row(cause, re.compile(pattern), remedy, retry)


# First match wins. The wording's source stands behind each row (vLLM 0.32 unless said).
_ROWS = (
    _row(  # v1/worker/utils.py:766, cpu_worker.py:87
        Cause.GPU_OOM_STARTUP_FREE,
        r"is less than desired (?:GPU|CPU) memory utilization|engine's budget after excluding"
        r"|Error in memory profiling",
        "free the memory, or lower gpu-memory-utilization",
        retry=True,
    ),
    _row(  # v1/core/kv_cache_utils.py:1031, 1027; V0 wording of 0.2 to 0.8
        Cause.KV_CACHE_TOO_SMALL,
        r"To serve at least one request with the model\S+ max seq len"
        r"|larger than the maximum number of tokens that can be stored in KV cache",
        "lower max-model-len to the estimate in the message, or raise the memory for the KV cache",
    ),
    _row(  # v1/core/kv_cache_utils.py:1011, cpu_worker.py:223 (a negative pool)
        Cause.KV_CACHE_NONE,
        r"No available memory for the cache blocks"
        r"|is less than requested memory for kv \(-",
        "raise gpu-memory-utilization, or lower max-num-batched-tokens and max-num-seqs",
    ),
    _row(  # cpu_worker.py:223: here the fraction is ignored
        Cause.GPU_OOM_STARTUP_FREE,
        r"is less than requested memory for kv \(",
        "lower kv-cache-memory-bytes, or free memory",
    ),
    _row(  # torch/cuda, gpu_model_runner.py:5140, 5991
        Cause.GPU_OOM_STARTUP_ALLOC,
        r"CUDA out of memory|CUDA error: out of memory|not enough GPU memory",
        "lower gpu-memory-utilization or max-num-seqs, or use a smaller or quantized model",
        retry=True,
    ),
    _row(  # huggingface_hub/utils/_http.py, transformers/utils/hub.py:611
        Cause.HUB_AUTH,
        r"gated repo|401 Client Error|403 Client Error|Invalid credentials in Authorization",
        "put a token that may read the model into HUGGINGFACE_API_KEY in .env, and accept the "
        "model's licence on its page",
    ),
    _row(  # transformers/utils/hub.py:570, transformers_utils/config.py:849
        Cause.HUB_NOT_FOUND,
        r"is not a valid model identifier|RepositoryNotFoundError|RevisionNotFoundError"
        r"|Invalid repository ID or local directory|Repo id must be in the form"
        r"|Cannot find any model weights",
        "check the model's name in LOCAL_LLM_MODEL and its revision",
    ),
    _row(  # transformers/utils/hub.py:621, 630
        Cause.HUB_NETWORK,
        r"couldn't connect to|LocalEntryNotFoundError|Rate limited\. Waiting|MaxRetryError"
        r"|specific connection error|outgoing traffic has been disabled",
        "check the network and the proxy; a model that is complete on disk needs no hub",
        retry=True,
    ),
    _row(
        Cause.DISK_FULL,
        r"\[Errno 28\]|No space left on device",
        "free space in the folder that the message names",
    ),
    _row(  # config/model.py:2646, 1446; models/registry.py:1206; cli argparse
        Cause.BAD_ARGUMENTS,
        r"User-specified max_model_len|does not match the quantization|validation errors? for"
        r"|are not supported for now|does not recognize this architecture|unrecognized arguments"
        r"|invalid choice|Cannot find the config file for|trust_remote_code=True"
        r"|Total number of attention heads",
        "correct the option or the model in .env or the profile",
    ),
    _row(  # default_loader.py:565; safetensors' errors, camel case before 0.6
        Cause.CORRUPT_WEIGHTS,
        r"deserializing header|incomplete metadata|MetadataIncompleteBuffer|[Hh]eader ?[Tt]oo"
        r"|not initialized from checkpoint|unpack requires a buffer|^(?:\S*\.)?MemoryError\s*$",
        "delete the damaged weight file and fetch it again",
    ),
    _row(  # the loader and torch inductor
        Cause.MISSING_DEPENDENCY,
        r"ModuleNotFoundError|No module named|No working C\+\+ compiler|Failed to find C compiler"
        r"|undefined symbol|cannot open shared object file",
        "install what the message names into the engine's environment",
    ),
    _row(  # config/device.py:56, torch/cuda
        Cause.CUDA_DRIVER,
        r"Failed to infer device type|driver on your system is too old|no kernel image"
        r"|illegal memory access|unspecified launch failure|uncorrectable ECC|NCCL error",
        "check the driver with nvidia-smi",
        retry=True,
    ),
    _row(
        Cause.PORT_IN_USE,
        r"\[Errno 98\]|EADDRINUSE|Address already in use",
        "wait for the other process to end, or end it",
        retry=True,
    ),
    _row(  # v1/executor/multiproc_executor.py:316: only -9 says a kill from outside
        Cause.HOST_OOM,
        r"died unexpectedly \(exit code: -9\)|Insufficient space in /dev/shm",
        "free host memory or use a smaller model; the kernel log tells who was killed",
        retry=True,
    ),
)
_EXCEPTION = re.compile(
    r"^(?:[\w.]+\.)?[A-Z]\w*(?:Error|Exception|Killed)\b|^vllm(?: serve)?: error:"
)
# v1/executor/multiproc_executor.py:316: says it without an exception.
_KILLED = re.compile(r"^Worker proc \S+ died unexpectedly \(exit code: -9\)")
# Wrappers around another process's failure: v1/engine/core.py:1510, v1/engine/utils.py:1432,
# v1/executor/multiproc_executor.py:790, 316.
_ECHO = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|EngineDeadError"
    r"|EngineCore (?:failed to start|encountered)|Failed core proc|RuntimeError: cancelled"
    r"|Worker failed with error|BrokenPipeError|ConnectionResetError"
    r"|died unexpectedly \(exit code: (?:0|1|None)\)"
)
_USAGE_EXIT = 2
_MAX_EVIDENCE = 500


def diagnose(
    exit_: Exit, lines: Sequence[str], *, was_ready: bool, seen: str | None = None
) -> Diagnosis:
    """Return the diagnosis of a worker that ended, or was found dead, without being asked to.

    `lines` is the log of this worker from its start; `seen` is what was noticed from outside, the
    evidence where the log has none. A dead engine exits 0, so the status says
    little. Users write into the log too: a line counts only with an exception's name at its start,
    and once requests are served neither the API server's lines nor bare ones count.
    """
    found = _find_evidence(lines, was_ready=was_ready)
    if found is not None:
        number, text, row = found
        if row is not None:
            cause = row.cause
            if was_ready and cause is Cause.GPU_OOM_STARTUP_ALLOC:
                cause = Cause.GPU_OOM_SERVING
            return Diagnosis(cause, text, row.remedy, row.is_retryable, number)
    evidence = found[1] if found else seen or f"the API server ended: {exit_}"
    line = found[0] if found else None
    if exit_.code == _USAGE_EXIT:
        remedy = "correct the option in .env or the profile"
        return Diagnosis(Cause.BAD_ARGUMENTS, evidence, remedy, is_retryable=False, line=line)
    cause = Cause.ENGINE_DEAD_OTHER if was_ready or seen else Cause.UNKNOWN
    remedy = "it is started again by itself; the worker's last lines: cahootsctl logs"
    return Diagnosis(cause, evidence, remedy, is_retryable=True, line=line)


def _find_evidence(lines: Sequence[str], *, was_ready: bool) -> tuple[int, str, _Row | None] | None:
    """Return (number, text, row) of the first error line with a known cause, else the first."""
    first: tuple[int, str, _Row | None] | None = None
    for number, text in enumerate(lines, start=1):
        parsed = parse_line(text)
        message = parsed.message.strip()
        if not _is_error(parsed, message, was_ready=was_ready):
            continue
        row = next((row for row in _ROWS if row.pattern.search(message)), None)
        if row is not None:
            return number, message[:_MAX_EVIDENCE], row
        first = first or (number, message[:_MAX_EVIDENCE], None)
    return first


def _is_error(line: LogLine, message: str, *, was_ready: bool) -> bool:
    if line.level not in {"ERROR", "CRITICAL", None} or _ECHO.search(message):
        return False
    if was_ready and line.process in {"APIServer", None}:
        return False  # a request's traceback; the engine's death is told by its own processes
    is_killed = line.level is not None and _KILLED.match(message) is not None
    return is_killed or _EXCEPTION.match(message) is not None
