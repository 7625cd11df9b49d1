"""The words of a diagnosis: the closed set of causes, and what a cause alone does not say."""

from dataclasses import dataclass, field
from enum import StrEnum


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
    CACHE_DAMAGED = "cache_damaged"
    CUDA_DRIVER = "cuda_driver"
    ENGINE_DEAD_OTHER = "engine_dead_other"
    MISSING_DEPENDENCY = "missing_dependency"
    NOT_A_FAILURE = "not_a_failure"
    UNKNOWN = "unknown"


class Trait(StrEnum):
    """What decides the answer within a cause: the same cause can want opposite changes."""

    NONE = "none"
    # gpu_oom_startup_free
    FREE_TOO_SMALL = "free_too_small"
    HELD_OUTSIDE = "held_outside"
    KV_BYTES_TOO_LARGE = "kv_bytes_too_large"
    PROFILE_DISTURBED = "profile_disturbed"
    # gpu_oom_startup_alloc, gpu_oom_serving: when the allocation failed
    LOADING = "loading"
    PROFILING = "profiling"
    SAMPLER = "sampler"
    AFTER_KV = "after_kv"
    SERVING = "serving"
    # kv_cache_none, kv_cache_too_small
    KV_NONE = "kv_none"
    KV_OVERRIDE = "kv_override"
    KV_TOO_SMALL = "kv_too_small"
    # host_oom
    HOST_MEMORY = "host_memory"
    SHARED_MEMORY = "shared_memory"
    # cuda_driver: once more, then a person
    TRANSIENT = "transient"
    # The worker's host sets a limit that a restart does not change.
    LIMIT = "limit"


@dataclass(frozen=True, slots=True)
class Figures:
    """The numbers in a log, as vLLM gives them: memory in GiB, lengths in tokens, None if unsaid.

    `free`, `total`, `wanted`: "Free memory on device (free/total) ... (utilization, wanted)".
    `needed`, `available`: the KV cache that a request of `max_model_len` needs, and what there is.
    `estimated_len`: vLLM's own estimate of the longest context that fits.
    """

    free_gib: float | None = None
    total_gib: float | None = None
    wanted_gib: float | None = None
    utilization: float | None = None
    needed_gib: float | None = None
    available_gib: float | None = None
    max_model_len: int | None = None
    estimated_len: int | None = None
    tried_gib: float | None = None


NO_FIGURES = Figures()


@dataclass(frozen=True, slots=True)
class Exit:
    """How the worker's main process ended: an exit code, or the signal that killed it."""

    code: int | None = None
    signal: int | None = None

    @property
    def is_known(self) -> bool:
        """Whether it ended at all."""
        return self.code is not None or self.signal is not None

    def __str__(self) -> str:
        """Say it as a person would."""
        return f"signal {self.signal}" if self.signal is not None else f"exit status {self.code}"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why; `line` is the evidence's number in the log, counted from 1, None without one.

    `is_retryable`: it can get better by itself, or by a change the daemon makes.
    """

    cause: Cause
    evidence: str
    remedy: str
    is_retryable: bool
    line: int | None = None
    trait: Trait = Trait.NONE
    figures: Figures = field(default=NO_FIGURES)
