"""What the daemon does about a diagnosis, in words; core.memory and core.failing do it."""

from cahoots_vllm.core.diagnosis.causes import Cause, Diagnosis, Trait

_WAITS = "starts again after a growing wait; gives up after 5 failures in 10 minutes"
_BY_TRAIT = {
    Trait.FREE_TOO_SMALL: (
        "lowers gpu-memory-utilization to what is free if that is not below the floor, else waits "
        "for who holds the memory"
    ),
    Trait.HELD_OUTSIDE: "raises gpu-memory-utilization by a step",
    Trait.KV_BYTES_TOO_LARGE: "lowers kv-cache-memory-bytes",
    Trait.PROFILE_DISTURBED: "starts again unchanged, once memory is still",
    Trait.LOADING: (
        "starts once more at a lower gpu-memory-utilization if somebody else holds memory, then "
        "gives up"
    ),
    Trait.PROFILING: (
        "lowers max-num-batched-tokens and max-num-seqs, then gpu-memory-utilization by a step"
    ),
    Trait.SAMPLER: "lowers max-num-seqs, then gpu-memory-utilization by a step",
    Trait.AFTER_KV: "lowers gpu-memory-utilization by a step",
    Trait.SERVING: "starts again with gpu-memory-utilization lowered by a step",
    Trait.KV_NONE: (
        "raises gpu-memory-utilization as far as memory is free, then lowers "
        "max-num-batched-tokens and max-num-seqs"
    ),
    Trait.KV_OVERRIDE: "gives up until num-gpu-blocks-override is dropped",
    Trait.KV_TOO_SMALL: (
        "raises gpu-memory-utilization as far as memory is free, else lowers max-model-len to the "
        "engine's estimate"
    ),
    Trait.HOST_MEMORY: f"{_WAITS}; leaves the GPU's settings alone",
    Trait.SHARED_MEMORY: _WAITS,
    Trait.TRANSIENT: "starts once more, then gives up",
    Trait.LIMIT: _WAITS,
}
_BY_CAUSE = {
    Cause.HUB_AUTH: "gives up until the token or the model is changed",
    Cause.HUB_NOT_FOUND: "gives up until the name, or what is on disk, is changed",
    Cause.HUB_NETWORK: "starts from disk if the model is complete there, else tries until the hub "
    "answers",
    Cause.DISK_FULL: "gives up until there is space",
    Cause.PORT_IN_USE: _WAITS,
    Cause.BAD_ARGUMENTS: "gives up until the settings, the model or the engine are changed",
    Cause.CORRUPT_WEIGHTS: "deletes the damaged file and fetches it once more, then gives up",
    Cause.CACHE_DAMAGED: "moves the engine's caches aside and starts once without them; then, as "
    f"after any failure, {_WAITS}",
    Cause.CUDA_DRIVER: f"{_WAITS}, until a GPU appears",
    Cause.MISSING_DEPENDENCY: "gives up until the engine's environment is changed",
    Cause.NOT_A_FAILURE: "nothing",
}


def answer_to(diagnosis: Diagnosis) -> str:
    """Return what the daemon would do, as the end of a sentence that begins with its name."""
    by_cause = _BY_CAUSE.get(diagnosis.cause, _WAITS)
    if diagnosis.cause is Cause.CUDA_DRIVER and not diagnosis.is_retryable:
        by_cause = "gives up until the engine, its CUDA tools or the settings are changed"
    return _BY_TRAIT.get(diagnosis.trait, by_cause)
