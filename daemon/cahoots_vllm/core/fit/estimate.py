"""Weights, KV cache and overhead against what the devices have: does it fit, and what would."""

from dataclasses import dataclass
from enum import StrEnum

from cahoots_vllm.core.amounts import GIB
from cahoots_vllm.core.evidence import Device
from cahoots_vllm.core.fit.kv_cache import KvCache, KvOptions, element_bytes, plan_kv_cache
from cahoots_vllm.core.fit.measured import NOTHING_SEEN, Seen
from cahoots_vllm.core.fit.shape import ModelShape, dtype_bytes
from cahoots_vllm.core.fit.weights import Tensor, Weights, weights_from_shape, weights_from_tensors
from cahoots_vllm.core.launch import LaunchSpec, OptionValue
from cahoots_vllm.core.memory import read_sizes
from cahoots_vllm.core.memory.sizes import read_integer

_UNIT = 1000
_LARGE_GPU = 70 * GIB  # vllm/engine/arg_utils.py:2922, _get_default_max_num_batched_tokens
_HUGE_GPU = 160 * GIB
# What was seen beside weights and activations: context and NCCL, CUDA graphs; on the CPU engine
# the imported libraries (0.61 GiB "consumed by non-kv usages" with a 2 MB model).
_CONTEXT_BYTES = GIB // 2
_PEERS_BYTES = GIB // 2
_GRAPHS_BYTES = GIB // 2
_CPU_BYTES = round(0.6 * GIB)
_LOGITS_BYTES = 8  # of 32 bits, and once more as the sampler sorts them


class Verdict(StrEnum):
    """Whether the engine would start with what is asked for."""

    FITS = "fits"
    SHORTER = "shorter"  # with a shorter context
    TOO_LARGE = "too large"  # not even a short one, by the estimate
    IMPOSSIBLE = "impossible"  # the weights are larger than the devices
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Need:
    """What a launch spec needs on each GPU, bytes. `kv` is None where nobody can tell."""

    weights: Weights
    weights_bytes: int
    overhead_bytes: int
    kv: KvCache | None
    tokens: int
    kv_unknown: str = ""
    is_measured: bool = False


@dataclass(frozen=True, slots=True)
class Fit:
    """The answer. `budget_bytes` is what the engine may take of the smallest device."""

    verdict: Verdict
    need: Need
    budget_bytes: int
    kv_room_bytes: int
    longest: int | None
    gpus: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Ask:
    """A model and how it is to be served; `tensors` empty: only the configuration is known."""

    shape: ModelShape
    launch: LaunchSpec
    tensors: tuple[Tensor, ...] = ()
    stored_bytes: int | None = None
    is_cpu: bool = False
    seen: Seen = NOTHING_SEEN


def parallel(launch: LaunchSpec) -> tuple[int, int]:
    """Return the tensor and the pipeline parallel size."""
    tensor = read_integer(launch.option("tensor-parallel-size")) or 1
    pipeline = read_integer(launch.option("pipeline-parallel-size")) or 1
    return max(1, tensor), max(1, pipeline)


def model_dtype_bytes(ask: Ask) -> int:
    """Return the bytes of a number in the model's dtype; with `auto` never more than 16 bits.

    Source: vllm/config/model.py, _resolve_auto_dtype.
    """
    asked = ask.launch.option("dtype")
    if isinstance(asked, str) and asked != "auto":
        return dtype_bytes(asked) or 2
    return min(dtype_bytes(ask.shape.dtype) or 2, 2)


def find_need(ask: Ask, total_bytes: int) -> Need:
    """Return what it needs on a device of this size; measured figures win over estimated ones."""
    launch, size = ask.launch, model_dtype_bytes(ask)
    tensor, pipeline = parallel(launch)
    weights = _weights(ask, size)
    on_each = weights.total_bytes // (tensor * pipeline) + _positions_bytes(ask.shape, size)
    overhead = _overhead(ask, size, total_bytes)
    seen = ask.seen
    if seen.weights_bytes is not None:
        on_each = seen.weights_bytes
    if seen.overhead_bytes is not None:
        overhead = seen.overhead_bytes
    elif seen.used_bytes is not None:
        overhead = max(0, seen.used_bytes - on_each)
    kv, unknown = _kv_cache(ask, size, total_bytes)
    return Need(
        weights=weights,
        weights_bytes=on_each,
        overhead_bytes=overhead,
        kv=kv,
        tokens=_tokens(ask),
        kv_unknown=unknown,
        is_measured=seen != NOTHING_SEEN,
    )


def _positions_bytes(shape: ModelShape, size: int) -> int:
    """Return the tables of sine and cosine for each position, loaded beside the weights.

    Source: vllm/model_executor/layers/rotary_embedding/base.py, cos_sin_cache.
    """
    return shape.ropes * (shape.context or 0) * shape.rotary_dim * size


def _weights(ask: Ask, size: int) -> Weights:
    asked = _text(ask.launch.option("quantization"))
    if ask.tensors:
        return weights_from_tensors(ask.tensors, ask.shape, size, asked)
    found = weights_from_shape(ask.shape, size, asked)
    stored = ask.stored_bytes
    is_plain = ask.shape.quantization is not None or dtype_bytes(ask.shape.dtype) == size
    if stored and is_plain and not (asked and ask.shape.quantization is None):
        return Weights(stored, "the sizes of its files")
    return found


def _text(value: OptionValue | None) -> str | None:
    return value if isinstance(value, str) else None


def _tokens(ask: Ask) -> int:
    own = ask.shape.context
    asked = read_sizes(ask.launch).max_model_len
    if asked is None:
        return own or 0
    # Preflight shortens a default to the model's own length; a longer one asked for is refused.
    return min(asked, own) if own and "max-model-len" in ask.launch.fitted else asked


def _batch(ask: Ask, total_bytes: int) -> tuple[int, int]:
    """Return tokens and requests scheduled at once (arg_utils.py, its defaults for a server)."""
    sizes = read_sizes(ask.launch)
    tokens, requests = (2048, 256) if total_bytes < _LARGE_GPU else (8192, 1024)
    if total_bytes >= _HUGE_GPU:
        tokens = 16384
    if ask.is_cpu:
        world = parallel(ask.launch)
        tokens, requests = 2048 * world[0] * world[1], 128 * world[0] * world[1]
    requests = sizes.max_num_seqs or requests
    tokens = min(tokens, requests * (_tokens(ask) or tokens))
    return sizes.max_num_batched_tokens or tokens, requests


def _kv_cache(ask: Ask, size: int, total_bytes: int) -> tuple[KvCache | None, str]:
    launch = ask.launch
    kind = _text(launch.option("kv-cache-dtype")) or "auto"
    element = element_bytes(kind, size)
    if element is None:
        return None, f"the KV cache's type {kind} is not known here"
    tensor, pipeline = parallel(launch)
    # One batch for each stage of the pipeline, and one more while the next is prepared
    # (vllm/config/vllm.py, max_concurrent_batches).
    # The CPU engine prepares none ahead: its report for a windowed model says so.
    is_ahead = not ask.is_cpu and launch.option("async-scheduling") is not False
    batches = pipeline + 1 if is_ahead else pipeline
    options = KvOptions(
        element_bytes=element,
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        in_flight=batches * _batch(ask, total_bytes)[0],
        block=read_integer(launch.option("block-size")),
        is_cpu=ask.is_cpu,
        is_hybrid_off=launch.option("disable-hybrid-kv-cache-manager") is True,
    )
    return plan_kv_cache(ask.shape, options), ask.shape.unknown


def _overhead(ask: Ask, size: int, total_bytes: int) -> int:
    """Return what was never measured here: a rough sum of activations, context and graphs."""
    if ask.is_cpu:
        return _CPU_BYTES
    shape = ask.shape
    tensor, pipeline = parallel(ask.launch)
    tokens, requests = _batch(ask, total_bytes)
    width = 4 * shape.hidden + 3 * shape.intermediate // tensor
    activations = tokens * width * size + requests * shape.vocab * _LOGITS_BYTES
    peers = _PEERS_BYTES if tensor * pipeline > 1 else 0
    graphs = 0 if ask.launch.option("enforce-eager") is True else _GRAPHS_BYTES
    return activations + _CONTEXT_BYTES + peers + graphs


def judge(ask: Ask, devices: tuple[Device, ...]) -> Fit | None:
    """Return whether it fits the devices that it would use, None where none is known."""
    total = min((device.total_bytes for device in devices), default=0)
    if total <= 0:
        return None
    need = find_need(ask, total)
    sizes = read_sizes(ask.launch)
    budget = total * sizes.share // _UNIT
    room = budget - need.weights_bytes - need.overhead_bytes
    if sizes.kv_bytes is not None:  # the share is not looked at then
        budget = total
        room = min(sizes.kv_bytes, total - need.weights_bytes - need.overhead_bytes)
    longest = None
    if need.kv is not None:
        highest = max(need.tokens, ask.shape.context or need.tokens)
        longest = need.kv.longest(room, highest) if room > 0 else 0
    verdict = _verdict(need, longest, room, total, may_offload=_may_offload(ask.launch))
    return Fit(verdict, need, budget, room, longest, len(devices), total)


def _may_offload(launch: LaunchSpec) -> bool:
    return any(name.startswith(("cpu-offload", "offload")) for name, _ in launch.options)


def _verdict(
    need: Need, longest: int | None, room: int, total: int, *, may_offload: bool
) -> Verdict:
    if may_offload:
        return Verdict.UNKNOWN
    if need.weights_bytes > total:
        return Verdict.IMPOSSIBLE
    if room <= 0 or longest == 0:
        return Verdict.TOO_LARGE
    if longest is None or not need.tokens:
        return Verdict.UNKNOWN
    return Verdict.FITS if longest >= need.tokens else Verdict.SHORTER
