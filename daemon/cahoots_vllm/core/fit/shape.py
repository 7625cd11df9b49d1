"""What a model's config.json says of its size: layers, heads, windows, experts, quantization.

Names are transformers' own; what they mean to the engine was read in vllm/config/model.py and
vllm/transformers_utils/model_arch_config_convertor.py (0.32).
"""

from collections.abc import Mapping
from dataclasses import dataclass

Config = Mapping[str, object]

_BYTES = {
    "float64": 8, "float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2,
    "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1,
}  # fmt: skip
# Layers that keep a state of fixed size instead of keys and values: their pages are padded to the
# attention's (vllm/platforms/interface.py, _align_hybrid_block_size), which no config tells.
_STATEFUL = frozenset({"linear_attention", "mamba", "mamba2", "conv", "recurrent", "hybrid"})
_STATEFUL_KEYS = (
    "ssm_cfg",
    "mamba_d_state",
    "ssm_state_size",
    "state_size",
    "hybrid_override_pattern",
)
_TIED_BY_DEFAULT = ("gemma", "gpt2", "bloom", "cohere", "opt", "falcon")
_MOST_LAYERS = 10_000  # a hostile file makes no endless tuple
_MOST_BITS = 16
_WINDOWED = "sliding_attention"
_FULL = "full_attention"


@dataclass(frozen=True, slots=True)
class Quantization:
    """How the weights are stored: `bits` of each linear weight, one scale for `group` of them."""

    method: str
    bits: int
    group: int = 128
    has_zeros: bool = False

    @property
    def weight_bytes(self) -> float:
        """The bytes of one linear weight with its part of a 16-bit scale and of a zero point."""
        bits = float(self.bits)
        if self.group > 0:
            bits += (16 + (self.bits if self.has_zeros else 0)) / self.group
        return bits / 8


@dataclass(frozen=True, slots=True)
class Experts:
    """The mixture of experts: `width` is one expert's; `dense_layers` have none."""

    count: int
    width: int
    shared_width: int = 0
    dense_layers: int = 0


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The numbers that decide about memory; lengths in tokens.

    `windows` has a layer's sliding window, None where it attends to all. `latent_width` is MLA's
    compressed width of key and value together, None for plain attention. `rotary_dim` is the width
    of each of `ropes` tables of positions. `unknown` says why the KV cache cannot be told, "" where
    it can.
    """

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    is_tied: bool
    dtype: str
    context: int | None
    windows: tuple[int | None, ...]
    latent_width: int | None = None
    experts: Experts | None = None
    quantization: Quantization | None = None
    has_vision: bool = False
    has_norms_of_heads: bool = False
    rotary_dim: int = 0
    ropes: int = 1
    is_stretched: bool = False
    kind: str = ""  # transformers' model_type
    unknown: str = ""


def dtype_bytes(name: str) -> int | None:
    """Return the bytes of one number of a type as config.json and options write it."""
    return _BYTES.get(name.removeprefix("torch."))


def read_shape(config: Config) -> ModelShape | None:
    """Return the shape, None where the numbers are missing; a `text_config` is what counts."""
    inner = config.get("text_config") or config.get("llm_config")
    text: Config = {**config, **inner} if isinstance(inner, dict) else config
    layers, hidden = (
        _count(text, "num_hidden_layers", "n_layer"),
        _count(text, "hidden_size", "n_embd"),
    )
    heads = _count(text, "num_attention_heads", "n_head")
    if not (layers and hidden and heads) or layers > _MOST_LAYERS:
        return None
    latent = _count(text, "kv_lora_rank")
    return ModelShape(
        architecture=_architecture(config),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=_kv_heads(text, heads),
        head_dim=_count(text, "head_dim") or hidden // heads,
        intermediate=_count(text, "intermediate_size", "n_inner") or 4 * hidden,
        vocab=_count(text, "vocab_size") or 0,
        is_tied=_is_tied(config, text),
        dtype=_dtype(text, config),
        context=_count(text, "max_position_embeddings", "n_positions"),
        windows=_windows(text, layers),
        latent_width=latent + (_count(text, "qk_rope_head_dim") or 0) if latent else None,
        experts=_experts(text, hidden),
        quantization=read_quantization(config) or read_quantization(text),
        has_vision="vision_config" in config,
        rotary_dim=_rotary_dim(text, hidden // heads),
        ropes=2 if _has_local_rope(text) else 1,
        has_norms_of_heads=_kind(text).startswith(("qwen3", "gemma3")),
        is_stretched=_is_stretched(text),
        unknown=_unknown(text),
        kind=_kind(config) or _kind(text),
    )


def _rotary_dim(text: Config, width: int) -> int:
    """Return the width that is rotated (vllm/model_executor/layers/rotary_embedding)."""
    if rotated := _count(text, "qk_rope_head_dim"):
        return rotated
    ropes = text.get("rope_parameters")
    share = text.get("partial_rotary_factor")
    if share is None and isinstance(ropes, dict):
        share = ropes.get("partial_rotary_factor")
    width = _count(text, "head_dim") or width
    return int(width * share) if isinstance(share, float) and 0 < share < 1 else width


def _has_local_rope(text: Config) -> bool:
    """Whether layers with a window have a table of their own (Gemma 3)."""
    ropes = text.get("rope_parameters")
    return "rope_local_base_freq" in text or (isinstance(ropes, dict) and _WINDOWED in ropes)


def _kv_heads(text: Config, heads: int) -> int:
    if text.get("multi_query") is True:
        return 1
    return _count(text, "num_key_value_heads", "num_kv_heads", "multi_query_group_num") or heads


def _count(text: Config, *names: str) -> int | None:
    for name in names:
        value = text.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40:
            return value
    return None


def _architecture(config: Config) -> str:
    found = config.get("architectures")
    first = found[0] if isinstance(found, list) and found else None
    return first if isinstance(first, str) else ""


def _is_tied(config: Config, text: Config) -> bool:
    """Whether input and output embedding are one; some kinds leave their default out."""
    said = text.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    return said if isinstance(said, bool) else _kind(text).startswith(_TIED_BY_DEFAULT)


def _kind(text: Config) -> str:
    kind = text.get("model_type")
    return kind if isinstance(kind, str) else ""


def _dtype(*parts: Config) -> str:
    for part in parts:
        for name in ("dtype", "torch_dtype"):
            value = part.get(name)
            if isinstance(value, str) and value.removeprefix("torch.") in _BYTES:
                return value.removeprefix("torch.")
    return "float32"  # as transformers takes it


def _windows(text: Config, layers: int) -> tuple[int | None, ...]:
    """Return each layer's window, as the models of vllm/model_executor/models pass it on."""
    window = _count(text, "sliding_window")
    if window is None or text.get("use_sliding_window") is False:
        return (None,) * layers
    types = text.get("layer_types")
    if isinstance(types, list) and len(types) == layers:
        return tuple(window if kind == _WINDOWED else None for kind in types)
    pattern = _count(text, "sliding_window_pattern", "_sliding_window_pattern")
    if pattern is not None:  # each pattern-th layer attends to all (transformers, Gemma 3)
        return tuple(window if (n + 1) % pattern else None for n in range(layers))
    if _kind(text) in ("gemma2", "gpt_oss"):  # every other layer, the first windowed
        return tuple(None if n % 2 else window for n in range(layers))
    return (window,) * layers


def _is_stretched(text: Config) -> bool:
    """Whether RoPE scaling lets the engine accept more than max_position_embeddings."""
    scaling = text.get("rope_scaling") or text.get("rope_parameters")
    return isinstance(scaling, dict) and "factor" in scaling


def _experts(text: Config, hidden: int) -> Experts | None:
    count = _count(
        text, "num_local_experts", "num_experts", "n_routed_experts", "num_routed_experts"
    )
    if count is None:
        return None
    dense = _count(text, "intermediate_size") or 4 * hidden
    width = _count(text, "moe_intermediate_size") or dense
    shared = _count(text, "shared_expert_intermediate_size")
    shared = shared or width * (_count(text, "n_shared_experts") or 0)
    return Experts(count, width, shared, _count(text, "first_k_dense_replace") or 0)


def read_quantization(config: Config) -> Quantization | None:
    """Return what `quantization_config` says (vllm/model_executor/layers/quantization)."""
    found = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(found, dict):
        return None
    method = found.get("quant_method")
    name = method if isinstance(method, str) else str(found.get("quant_algo") or "unknown")
    group = found.get("group_size", found.get("q_group_size"))
    size = group if isinstance(group, int) and 0 < group <= 1 << 20 else 0
    return Quantization(
        name.lower(), _bits(name.lower(), found), size, found.get("zero_point") is True
    )


def _bits(name: str, found: Config) -> int:
    for key in ("bits", "w_bit"):
        value = found.get(key)
        if isinstance(value, int) and 0 < value <= _MOST_BITS:
            return value
    if "fp8" in name or found.get("load_in_8bit") is True:
        return 8
    if name in ("mxfp4", "bitsandbytes", "nvfp4", "fp4"):
        return 4
    return 8 if name == "compressed-tensors" else 16


def _unknown(text: Config) -> str:
    types = text.get("layer_types")
    kinds = {str(kind) for kind in types} if isinstance(types, list) else set()
    if kinds & _STATEFUL or any(key in text for key in _STATEFUL_KEYS):
        return (
            "it has layers with a state (Mamba, linear attention): only the engine knows its size"
        )
    if other := kinds - {_FULL, _WINDOWED}:
        return f"its layers of the kind {min(other)} are not known here"
    if "layers_block_type" in text or "block_configs" in text:
        return "its layers are of different kinds"
    if "global_head_dim" in text or "num_global_key_value_heads" in text:
        return "its layers have heads of different sizes"
    return ""
