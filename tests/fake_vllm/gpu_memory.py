"""What a model needs of a GPU, and what a start with given options makes of it.

A model of vLLM's own sums (v1/worker/gpu_worker.py: init_device, determine_available_memory,
compile_or_warm_up_model; v1/core/kv_cache_utils.py), so that a whole search for sizes that fit can
be played: each start says what it lacks in the engine's words and with true figures. The GPUs are
those of tests/fake_nvml.
"""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fake_nvml import pynvml
from fake_vllm import options as command_line
from fake_vllm.gpu_log import GPU_FAILURES, PREFIX
from fake_vllm.options import ServeOptions
from fake_vllm.script import Behaviour, failure

_DEFAULT_SHARE, _DEFAULT_BATCH, _DEFAULT_SEQS = 0.92, 8192, 256
_CONTEXT_GIB = 0.4  # CUDA's own, there before the engine looks
_BLOCK = 16
_MIB_IN_GIB = 1024.0
_BYTES_IN_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a model takes, in GiB; the defaults fit a free GPU of 24 GiB at 0.9."""

    weights: float = 8.0
    activation_per_1k: float = 0.25  # per 1,000 max_num_batched_tokens
    graphs: float = 0.4  # as profiled, so within the share
    kv_per_1k: float = 0.25  # per 1,000 tokens of context
    hidden: float = 0.0  # taken after the KV cache, outside of the share
    per_seq: float = 0.0  # the sampler's, outside of the share as well
    busy: float = 0.0  # more, from the second request on
    unseen: float = 0.0  # what somebody took after the daemon had looked


@dataclass(frozen=True, slots=True)
class _Asked:
    share: float
    length: int
    batch: int
    seqs: int
    kv_gib: float | None


def take_in(behaviour: Behaviour, options: ServeOptions) -> tuple[Behaviour, dict[str, object]]:
    """Return what the start does by the memory there is, with the figures for its log."""
    if behaviour.memory is None:
        return behaviour, _figures(_asked(options, behaviour), Needs(), 23.2, 24.0)
    gpus = _used_gpus(options)
    if not gpus:
        return failure("cuda_driver", memory=behaviour.memory), {}
    needs, asked = Needs(**behaviour.memory), _asked(options, behaviour)
    worst = min(gpus, key=_free_gib)
    total, free = worst["total_mib"] / _MIB_IN_GIB, _free_gib(worst) - needs.unseen
    name = _fate(asked, needs, free, total)
    figures = _figures(asked, needs, free, total)
    if name == "serving":
        dying = dataclasses.replace(behaviour, log=PREFIX + name, exit0_after_requests=2)
        return dying, figures
    log = PREFIX + (name or "startup")
    die_at = GPU_FAILURES[name].die_at if name else behaviour.die_at
    return dataclasses.replace(behaviour, log=log, die_at=die_at), figures


def hold(behaviour: Behaviour, options: ServeOptions, pid: int) -> None:
    """Let the engine's process hold what the engine takes, as NVML shows it."""
    if behaviour.memory is None:
        return
    needs, asked = Needs(**behaviour.memory), _asked(options, behaviour)
    for gpu in _used_gpus(options):
        total = gpu["total_mib"] / _MIB_IN_GIB
        taken = needs.weights + _kv_gib(asked, needs, total) + _later(asked, needs)
        pynvml.hold(gpu["uuid"], pid, round((taken + _CONTEXT_GIB) * _MIB_IN_GIB))


def rest(behaviour: Behaviour, options: ServeOptions, pid: int) -> None:
    """Let the engine's process hold what it does asleep."""
    if behaviour.memory is not None:
        for gpu in _used_gpus(options):
            pynvml.hold(gpu["uuid"], pid, round(behaviour.asleep_gib * _MIB_IN_GIB))


def has_room(behaviour: Behaviour, options: ServeOptions) -> bool:
    """Whether what was given back can be had again."""
    if behaviour.memory is None:
        return True
    needs, asked = Needs(**behaviour.memory), _asked(options, behaviour)
    gpus = _used_gpus(options)
    taken = needs.weights + _later(asked, needs)
    return all(
        taken + _kv_gib(asked, needs, gpu["total_mib"] / _MIB_IN_GIB) - behaviour.asleep_gib
        <= _free_gib(gpu)
        for gpu in gpus
    )


def _fate(asked: _Asked, needs: Needs, free: float, total: float) -> str | None:
    """Return the failure of this start in the order in which the engine meets them, or None."""
    kv = _kv_gib(asked, needs, total)
    taken = needs.weights + kv + needs.graphs + needs.hidden
    met = {
        "free_too_small": free < asked.share * total,
        "loading": needs.weights > free,
        "profiling": needs.weights + _activation(asked, needs) > free,
        "kv_none": kv <= 0,
        "kv_too_small": asked.length / 1000 * needs.kv_per_1k > kv,
        "after_kv": taken > free,
        "sampler": taken + asked.seqs * needs.per_seq > free,
        "serving": taken + asked.seqs * needs.per_seq + needs.busy > free,
    }
    return next((name for name, is_met in met.items() if is_met), None)


def _kv_gib(asked: _Asked, needs: Needs, total: float) -> float:
    if asked.kv_gib is not None:
        return asked.kv_gib
    return asked.share * total - needs.weights - _activation(asked, needs) - needs.graphs


def _activation(asked: _Asked, needs: Needs) -> float:
    return asked.batch / 1000 * needs.activation_per_1k


def _later(asked: _Asked, needs: Needs) -> float:
    return needs.graphs + needs.hidden + asked.seqs * needs.per_seq


def _figures(asked: _Asked, needs: Needs, free: float, total: float) -> dict[str, object]:
    """Return what stands in the templates of logs/gpu."""
    kv = _kv_gib(asked, needs, total)
    tokens = max(0, int(kv / needs.kv_per_1k * 1000)) // _BLOCK * _BLOCK
    step = needs.graphs / total
    return {
        "free": f"{free:.2f}",
        "free_later": f"{free + 2:.2f}",
        "total": f"{total:.2f}",
        "wanted": f"{asked.share * total:.2f}",
        "share": asked.share,
        "share_without_graphs": f"{asked.share - step:.4f}",
        "share_with_graphs": f"{min(1.0, asked.share + step):.4f}",
        "weights": f"{needs.weights:.2f}",
        "graphs": f"{needs.graphs:.2f}",
        "kv_left": f"{kv:.2f}",
        "kv_needed": f"{asked.length / 1000 * needs.kv_per_1k:.2f}",
        "kv_tokens": f"{tokens:,}",
        "estimate": tokens,
        "batch": asked.batch,
        "seqs": asked.seqs,
        "oom": _torch_says(free, total),
    }


def _torch_says(free: float, total: float) -> str:
    """Return torch 2.13's message; only its beginning differs between two allocations."""
    used = free + _CONTEXT_GIB - 0.12
    return (
        f"CUDA out of memory. Tried to allocate 250.00 MiB. GPU 0 has a total capacity of "
        f"{total:.2f} GiB of which 128.44 MiB is free. Including non-PyTorch memory, this process "
        f"has {used:.2f} GiB memory in use. Of the allocated memory {free - 0.5:.2f} GiB is "
        "allocated by PyTorch, and 14.92 MiB is reserved by PyTorch but unallocated. If reserved "
        "but unallocated memory is large try setting "
        "PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation "
        "for Memory Management  (https://docs.pytorch.org/docs/stable/notes/cuda.html"
        "#optimizing-memory-usage-with-pytorch-alloc-conf)"
    )


def _asked(options: ServeOptions, behaviour: Behaviour) -> _Asked:
    given: Mapping[str, Any] = options.non_default
    kv_bytes = given.get("kv_cache_memory_bytes")
    kv_size = command_line.human_readable_int_or_auto(str(kv_bytes or 0))
    return _Asked(
        share=float(given.get("gpu_memory_utilization", _DEFAULT_SHARE)),
        length=command_line.max_model_len(options, behaviour.max_model_len),
        batch=int(given.get("max_num_batched_tokens", _DEFAULT_BATCH)),
        seqs=int(given.get("max_num_seqs", _DEFAULT_SEQS)),
        kv_gib=None if kv_bytes is None else kv_size / _BYTES_IN_GIB,
    )


def _used_gpus(options: ServeOptions) -> list[dict[str, Any]]:
    """Return the GPUs of this start: the visible ones, as many as tensor-parallel-size says."""
    content = pynvml.read_file()
    gpus: list[dict[str, Any]] = content["gpus"] if content.get("driver", True) else []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        gpus = [gpus[int(index)] for index in visible.split(",") if int(index) < len(gpus)]
    return gpus[: int(options.non_default.get("tensor_parallel_size", 1))]


def _free_gib(gpu: dict[str, Any]) -> float:
    return float(gpu["total_mib"] - pynvml.used_mib(gpu)) / _MIB_IN_GIB - _CONTEXT_GIB
