"""How many bytes the weights take once the engine has loaded them.

From the safetensors headers where they are there: floats in the model's dtype, quantized numbers
as stored. Else from the configuration alone.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cahoots_vllm.core.fit.shape import ModelShape

# Bits of the numbers in a file (safetensors' README).
_BITS: Mapping[str, int] = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8,
    "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_VOCAB_PADDING = 64  # vllm/model_executor/layers/vocab_parallel_embedding.py
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
# Computed by the engine itself (every load_weights in vllm/model_executor/models).
_SKIPPED = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached")
_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight", "wte.weight", "word_embeddings.weight")
# Kept in 32 bits whatever --dtype says.
_SCALES = ("weight_scale", "weight_scale_inv", "input_scale", "k_scale", "v_scale")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a header; `dtype` is safetensors' name."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many numbers it has."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes in all of one copy, spread over the GPUs; `source` says from what they are known."""

    total_bytes: int
    source: str


# Options that quantize while loading: bytes of a linear weight with its scales
# (vllm/model_executor/layers/quantization/{fp8,bitsandbytes}.py).
_WHILE_LOADING: Mapping[str, float] = {"fp8": 1.0, "bitsandbytes": 0.5 + 4 / 64}


def while_loading(shape: ModelShape, quantization: str | None) -> float | None:
    """Return the bytes of a linear weight that is quantized while it is loaded, None: none is."""
    if quantization is None or shape.quantization is not None:
        return None
    return _WHILE_LOADING.get(quantization)


def weights_from_tensors(
    tensors: Iterable[Tensor], shape: ModelShape, model_bytes: int, quantization: str | None = None
) -> Weights:
    """Return what the tensors take; `model_bytes` is a float's in the model's dtype."""
    linear = while_loading(shape, quantization)
    found = (_loaded_bytes(tensor, shape, model_bytes, linear) for tensor in tensors)
    return Weights(round(sum(found)), "the headers of its files")


def _loaded_bytes(
    tensor: Tensor, shape: ModelShape, model_bytes: int, linear: float | None
) -> float:
    name = tensor.name
    if name.endswith(_SKIPPED) or (shape.is_tied and name.endswith("lm_head.weight")):
        return 0
    layer = _LAYER.search(name)
    if layer and int(layer[1]) >= shape.layers and "vision" not in name and "visual" not in name:
        return 0  # a head for speculation, which is not loaded unasked
    count = tensor.count
    if tensor.dtype not in _FLOATS or name.endswith(_SCALES):
        return count * _BITS.get(tensor.dtype, 16) / 8
    if name.endswith(_EMBEDDINGS):
        return count * model_bytes + _padding(tensor, shape) * model_bytes
    is_linear = len(tensor.shape) > 1 and name.endswith("weight") and "norm" not in name
    return count * (linear if linear is not None and is_linear else model_bytes)


def _padding(tensor: Tensor, shape: ModelShape) -> int:
    if len(tensor.shape) != 2 or tensor.shape[0] != shape.vocab:  # noqa: PLR2004 (a matrix)
        return 0
    return -tensor.shape[0] % _VOCAB_PADDING * tensor.shape[1]


def weights_from_shape(
    shape: ModelShape, model_bytes: int, quantization: str | None = None
) -> Weights:
    """Return what the configuration implies, for gated feed-forward layers; vision is left out."""
    stored = shape.quantization.weight_bytes if shape.quantization else None
    linear = stored or while_loading(shape, quantization) or model_bytes
    per_weight = min(linear, model_bytes)
    vocab = shape.vocab + -shape.vocab % _VOCAB_PADDING
    embeddings = vocab * shape.hidden * (1 if shape.is_tied else 2)
    norms = shape.layers * 2 * shape.hidden + shape.hidden
    if shape.has_norms_of_heads:
        norms += shape.layers * 2 * shape.head_dim
    routers = shape.layers * shape.experts.count * shape.hidden if shape.experts else 0
    weights = shape.layers * _attention(shape) + _feed_forward(shape)
    total = (embeddings + norms + routers) * model_bytes + weights * per_weight
    return Weights(round(total), "its configuration alone")


def _attention(shape: ModelShape) -> int:
    both = 2 * shape.hidden * shape.heads * shape.head_dim
    return both + 2 * shape.hidden * shape.kv_heads * shape.head_dim


def _feed_forward(shape: ModelShape) -> int:
    experts = shape.experts
    dense = 3 * shape.hidden * shape.intermediate
    if experts is None:
        return shape.layers * dense
    sparse = 3 * shape.hidden * (experts.count * experts.width + experts.shared_width)
    count = min(experts.dense_layers, shape.layers)
    return count * dense + (shape.layers - count) * sparse
