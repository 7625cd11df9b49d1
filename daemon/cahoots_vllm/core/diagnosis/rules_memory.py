"""The rows for memory: the GPU's, the KV cache's, the host's. Order matters: first match wins.

The wordings were compared over vLLM 0.2 to 0.33 and torch 2.1 to 2.13; a file behind a row is the
wording's source in 0.32.
"""

from cahoots_vllm.core.diagnosis.causes import Cause, Trait
from cahoots_vllm.core.diagnosis.rule import Rule, rule

# Who of torch, CUDA, its libraries and vLLM itself says "the GPU has no memory left", at the start.
_OUT_OF_MEMORY = (
    r"^(?:torch\.)?(?:cuda\.)?OutOfMemoryError"
    r"|(?:CUDA|HIP|XPU|NPU|HPU|MLU|MUSA) out of memory"
    r"|(?:CUDA|HIP)(?: driver)?(?: runtime)? [Ee]rror: out of memory"
    r"|Triton Error \[(?:CUDA|HIP)\]: out of memory|XlaRuntimeError: RESOURCE_EXHAUSTED"
    r"|cudaErrorMemoryAllocation|hipErrorOutOfMemory|Cuda failure (?:2 )?'out of memory'"
    r"|(?:CUBLAS|CUDNN|HIPBLAS)_STATUS_ALLOC_FAILED|not enough GPU memory"
    r"|UR_RESULT_ERROR_OUT_OF_(?:DEVICE|RESOURCES)"
)
# Where the allocation failed, by the functions on the stack.
_IN_SAMPLER = r":_dummy_(?:sampler|pooler)_run|:_?dummy_pooler"
_IN_PROFILING = (
    r":profile_run|:determine_available_memory|:determine_num_available_blocks"
    r"|:profile_num_available_blocks|:profile_cudagraph_memory|:_run_profile|:run_profile"
)
_IN_KV_OR_GRAPHS = (
    r":capture_model|:_?capture_cudagraphs?|:_capture|:capture_graph|:compile_or_warm_up_model"
    r"|:initialize_kv_caches?\b|:initialize_from_config|:initialize_cache|:_allocate_kv_cache"
    r"|:_init_cache_engine|:init_cache_engine|:_warm_up_model|:warm_up_model|:kernel_warmup"
    r"|cuda_graph|cudagraph"
)
_IN_LOADING = (
    r":load_model|:load_weights|:create_weights|:process_weights_after_loading|:initialize_model"
    r"|:_initialize_model|:_load_weights|:weight_loader|:get_model\b|model_loader|:make_layers"
)
_IN_STEP = (
    r":_process_engine_step|:run_busy_loop|:execute_model|:step_async|:engine_step|:step_with_batch"
    r"|:run_engine_loop|:sample_tokens|:_run_engine|:step\b"
)

_SMALLER = (
    "use a quantized or smaller model, spread it over more GPUs (tensor-parallel-size) or offload "
    "part of it (cpu-offload-gb); gpu-memory-utilization does not bound the weights"
)
_STEP_DOWN = (
    "lower gpu-memory-utilization by a small step (0.05), or lower max-num-seqs, or set "
    "enforce-eager"
)
_FEWER = (
    "lower max-num-batched-tokens and max-num-seqs (or the images per prompt) first; the KV cache "
    "does not exist yet, so a lower gpu-memory-utilization hardly helps"
)
_SHORTEN = (
    "raise gpu-memory-utilization if the GPU has free memory, else lower max-model-len to the "
    "estimate in the message"
)
_RAISE = (
    "raise gpu-memory-utilization, or lower max-num-batched-tokens and max-num-seqs; lowering the "
    "fraction makes it worse"
)
_HOST = (
    "free host memory, use a smaller model or lower cpu-offload-gb and swap-space; the GPU's "
    "settings do not matter here"
)
_SHM = "enlarge /dev/shm (in a container --shm-size or --ipc=host), or remove what was left in it"


_FEWER_SEQS = "lower max-num-seqs first, then gpu-memory-utilization by a small step"
# What to do about a failed allocation, by when it failed.
ALLOCATION_REMEDIES = {
    Trait.LOADING: _SMALLER,
    Trait.PROFILING: _FEWER,
    Trait.SAMPLER: _FEWER_SEQS,
    Trait.AFTER_KV: _STEP_DOWN,
    Trait.SERVING: (
        "lower gpu-memory-utilization by a small step, or lower max-num-seqs and "
        "max-num-batched-tokens"
    ),
}


def _allocation(trait: Trait, within: str | None) -> Rule:
    cause = Cause.GPU_OOM_SERVING if trait is Trait.SERVING else Cause.GPU_OOM_STARTUP_ALLOC
    remedy = ALLOCATION_REMEDIES.get(trait, _STEP_DOWN)
    # An option's refusal may warn of such an end.
    unless = r"validation errors? for"
    return rule(
        cause, _OUT_OF_MEMORY, remedy, trait=trait, within=within, unless=unless, retry=True
    )


MEMORY_RULES: tuple[Rule, ...] = (
    rule(  # ray's memory monitor: host memory, in torch's words
        Cause.HOST_OOM,
        r"^ray\.exceptions\.OutOfMemoryError|killed due to the node running low on memory",
        _HOST,
        trait=Trait.HOST_MEMORY,
        retry=True,
    ),
    rule(  # v1/worker/utils.py:735
        Cause.GPU_OOM_STARTUP_FREE,
        r"exceed the desired GPU memory utilization",
        "raise gpu-memory-utilization: weights held outside of this engine count against it",
        trait=Trait.HELD_OUTSIDE,
        retry=True,
    ),
    rule(  # v1/worker/utils.py:745, 766; cpu_worker.py:87
        Cause.GPU_OOM_STARTUP_FREE,
        r"less than (?:the )?desired (?:\w+ )?memory utilization|engine's budget after excluding",
        "free the memory that others hold, or lower gpu-memory-utilization to just below what is "
        "free",
        trait=Trait.FREE_TOO_SMALL,
        retry=True,
    ),
    rule(  # v1/worker/gpu_worker.py:720: nothing ran out
        Cause.GPU_OOM_STARTUP_FREE,
        r"Error in memory profiling|freed (?:GPU )?memory during profiling",
        "retry unchanged: another process freed memory meanwhile, nothing ran out",
        trait=Trait.PROFILE_DISTURBED,
        retry=True,
    ),
    rule(  # cpu_worker.py:223, 245: a negative pool means that the fraction is too small
        Cause.KV_CACHE_NONE,
        r"less than requested memory for kv \(-",
        "raise gpu-memory-utilization: it leaves nothing for the KV cache (the engine's own advice "
        "to free memory is wrong here)",
        trait=Trait.KV_NONE,
        retry=True,
    ),
    rule(  # cpu_worker.py:223: the fraction is ignored while the option is set
        Cause.GPU_OOM_STARTUP_FREE,
        r"less than requested memory for kv .*kv-cache-memory-bytes",
        "lower kv-cache-memory-bytes; gpu-memory-utilization is ignored while it is set",
        trait=Trait.KV_BYTES_TOO_LARGE,
        retry=True,
    ),
    rule(
        Cause.GPU_OOM_STARTUP_FREE,
        r"less than requested memory for kv \(",
        "free host memory, or lower gpu-memory-utilization",
        trait=Trait.FREE_TOO_SMALL,
        retry=True,
    ),
    rule(  # v1/core/kv_cache_utils.py:1031; V0 wording of 0.2 to 0.8
        Cause.KV_CACHE_TOO_SMALL,
        r"To serve at least one request with|max seq len \(\d+\) is larger than the maximum number"
        r" of tokens|tokens that can be stored in (?:the )?KV cache",
        _SHORTEN,
        trait=Trait.KV_TOO_SMALL,
        retry=True,
    ),
    rule(  # v1/core/kv_cache_utils.py:1011; worker.py of V0
        Cause.KV_CACHE_NONE,
        r"No available memory for (?:the )?(?:KV )?cache|Cannot auto-fit max_model_len",
        _RAISE,
        trait=Trait.KV_NONE,
        retry=True,
    ),
    rule(  # gpu_model_runner.py:5991, 6094; gpu/pool/pooling_runner.py:207
        Cause.GPU_OOM_STARTUP_ALLOC,
        r"when warming up (?:sampler|pooler)",
        _FEWER_SEQS,
        trait=Trait.SAMPLER,
        retry=True,
    ),
    _allocation(Trait.SAMPLER, _IN_SAMPLER),
    _allocation(Trait.PROFILING, _IN_PROFILING),
    _allocation(Trait.AFTER_KV, _IN_KV_OR_GRAPHS),
    _allocation(Trait.LOADING, _IN_LOADING),
    _allocation(Trait.SERVING, _IN_STEP),
    rule(  # gpu_model_runner.py:5140: its advice is wrong, the fraction does not bound weights
        Cause.GPU_OOM_STARTUP_ALLOC,
        r"Failed to load model - not enough GPU memory",
        _SMALLER,
        trait=Trait.LOADING,
        retry=True,
    ),
    _allocation(Trait.NONE, None),
    rule(  # shm_broadcast.py:254; NCCL's own; multiprocessing.shared_memory
        Cause.HOST_OOM,
        r"Insufficient space in /dev/shm|ncclShm|shared memory segment /dev/shm"
        r"|/dev/shm.*(?:No space|Errno 28)|(?:No space|Errno 28).*/dev/shm"
        r"|insufficient shared memory|unable to (?:open|allocate|mmap|resize) shared memory",
        _SHM,
        trait=Trait.SHARED_MEMORY,
        retry=True,
    ),
    rule(
        Cause.HOST_OOM,
        r"No space left on device|\[Errno 28\]",
        _SHM,
        trait=Trait.SHARED_MEMORY,
        within=r"shared_memory\.py:|shm_broadcast\.py:|shm_object_storage",
        retry=True,
    ),
    rule(  # signal 7: a page of /dev/shm, or of a mapped file, could not be had
        Cause.HOST_OOM,
        r"exit code:? -7\b|^Bus error|signal 7\b|SIGBUS|Fatal Python error: Bus error",
        f"{_SHM}; or the disk below a mapped file failed",
        trait=Trait.SHARED_MEMORY,
        retry=True,
    ),
    rule(  # v1/executor/multiproc_executor.py:316; V0's multiproc_worker_utils.py; ray
        Cause.HOST_OOM,
        r"died(?: unexpectedly)?,? ?\(?exit code: -9\b|died with exit code -9\b"
        r"|(?:[Kk]illed by|with|received) signal 9\b"
        r"|exit(?:ed with)? (?:code|status) 137\b|SIGKILL",
        f"{_HOST}; the kernel's log tells who was killed",
        trait=Trait.HOST_MEMORY,
        retry=True,
    ),
    rule(  # the kernel, a shell, systemd, kubelet
        Cause.HOST_OOM,
        r"[Oo]ut of memory: Kill(?:ed)? process|oom-kill:|invoked oom-killer|OOMKilled"
        r"|killed by the OOM killer|oom_reaper|result 'oom-kill'"
        r"|(?m:^)(?:\S+: line \d+: +\d+ )?Killed\b|fatal error: Killed signal",
        _HOST,
        trait=Trait.HOST_MEMORY,
        retry=True,
    ),
    rule(
        Cause.HOST_OOM,
        r"DefaultCPUAllocator|Cannot allocate memory|\[Errno 12\]|std::bad_alloc|ArrayMemoryError"
        r"|CUDA error: .*cudaErrorHostMemory|failed to pin memory",
        _HOST,
        trait=Trait.HOST_MEMORY,
        retry=True,
    ),
)
