"""How much the KV cache takes, block by block, as the engine counts it.

Sources (vLLM 0.32): vllm/v1/kv_cache_interface.py (AttentionSpec.page_size_bytes,
FullAttentionSpec and SlidingWindowSpec.max_memory_usage_bytes), vllm/v1/core/kv_cache_utils.py
(_get_kv_cache_groups_uniform_page_size, _max_memory_usage_bytes_from_groups,
get_max_concurrency_for_kv_cache_config), vllm/config/model.py (get_num_kv_heads).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from cahoots_vllm.core.fit.shape import ModelShape

_GPU_BLOCK = 16  # vllm/config/cache.py
_CPU_BLOCK = 128  # vllm/platforms/cpu.py:293; 16 for MLA (:280)
_SLACK = 1.5  # kv_cache_utils.py: up to here the larger kind of layers is the group's size
_KV_BYTES: Mapping[str, float] = {
    "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "fp8_inc": 1, "bfloat16": 2, "float16": 2,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Group:
    """Layers that share a block table; `window` in tokens, None: all of them are kept."""

    window: int | None


@dataclass(frozen=True, slots=True)
class KvCache:
    """The cache of one GPU: blocks of `block` tokens, `block_bytes` over a group's layers.

    `in_flight` tokens may be scheduled at once beyond a window (max_in_flight_tokens).
    """

    groups: tuple[Group, ...]
    block: int
    block_bytes: int
    in_flight: int

    def blocks(self, tokens: int) -> int:
        """Return the blocks that one request of this length needs."""
        return sum(self._blocks(group, tokens) for group in self.groups)

    def _blocks(self, group: Group, tokens: int) -> int:
        if group.window is None:
            return -(-tokens // self.block)
        held = min(group.window - 1 + self.in_flight, tokens)
        return -(-held // self.block) + 1  # the window may begin within a block

    def needed(self, tokens: int) -> int:
        """Return the bytes for one request, with the block that the pool holds back."""
        return (self.blocks(tokens) + 1) * self.block_bytes

    def per_token(self, tokens: int) -> float:
        """Return the bytes a token of a request of this length takes."""
        return self.blocks(tokens) * self.block_bytes / tokens

    def capacity(self, available: int, tokens: int) -> int:
        """Return the "KV cache size" in tokens that the engine reports at this max-model-len."""
        return int(available // self.block_bytes / self.blocks(tokens) * tokens)

    def longest(self, available: int, highest: int) -> int:
        """Return the longest request that fits, at most `highest`; 0: none does."""
        low, high = 0, highest
        while low < high:
            middle = (low + high + 1) // 2
            if self.needed(middle) <= available:
                low = middle
            else:
                high = middle - 1
        return low


@dataclass(frozen=True, slots=True)
class KvOptions:
    """What the options say; `element_bytes` is one number's, as kv-cache-dtype has it."""

    element_bytes: float
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    in_flight: int = 2048
    block: int | None = None
    is_cpu: bool = False
    is_hybrid_off: bool = False


def element_bytes(kv_cache_dtype: str, model_bytes: int) -> float | None:
    """Return the bytes of one number of the cache, None for a kind that is not known here."""
    return model_bytes if kv_cache_dtype == "auto" else _KV_BYTES.get(kv_cache_dtype)


def plan_kv_cache(shape: ModelShape, options: KvOptions) -> KvCache | None:
    """Return the cache of the fullest GPU, None where the config does not tell it."""
    if shape.unknown:
        return None
    block = options.block or _default_block(shape, options)
    layers = -(-shape.layers // options.pipeline_parallel)
    page = block * _layer_bytes(shape, options)
    windows = shape.windows
    if options.is_hybrid_off and None in windows:
        windows = (None,) * shape.layers
    kinds = Counter(windows[:layers])
    if len(kinds) == 1:
        return KvCache((Group(windows[0]),), block, layers * page, options.in_flight)
    size = _group_size(tuple(kinds.values()))
    groups = [Group(window) for window, count in kinds.items() for _ in range(-(-count // size))]
    return KvCache(tuple(groups), block, size * page, options.in_flight)


def _default_block(shape: ModelShape, options: KvOptions) -> int:
    if options.is_cpu:
        return _GPU_BLOCK if shape.latent_width else _CPU_BLOCK
    # MLA's kernels for NVIDIA take 64 (vllm/v1/attention/backends/mla).
    return 64 if shape.latent_width else _GPU_BLOCK


def _layer_bytes(shape: ModelShape, options: KvOptions) -> int:
    """Return a layer's bytes for one token on one GPU."""
    if shape.latent_width is not None:  # one vector, held by every rank
        return round(shape.latent_width * options.element_bytes)
    heads = max(1, shape.kv_heads // options.tensor_parallel)
    return round(heads * 2 * shape.head_dim * options.element_bytes)


def _group_size(counts: tuple[int, ...]) -> int:
    fewest, most = min(counts), max(counts)
    return most if most < fewest * _SLACK else fewest
