"""The numbers in a memory message."""

import re

from cahoots_vllm.core.diagnosis.causes import Figures

_FREE = re.compile(r"\((-?[\d.]+)/([\d.]+) GiB\).*?utilization \(([\d.]+), ([\d.]+) GiB\)")
_POOL = re.compile(r"\((-?[\d.]+)/([\d.]+) GiB\) on kv cache .*?kv \((-?[\d.]+)")
_NEEDED = re.compile(r"([\d.]+) GiB (?:of )?KV cache (?:memory )?is needed")
_AVAILABLE = re.compile(r"available KV cache memory \(([\d.]+) GiB\)")
_LENGTH = re.compile(r"max seq len \((\d+)\)")
_ESTIMATE = re.compile(r"estimated maximum model length is (\d+)|stored in KV cache \((\d+)\)")
_TRIED = re.compile(r"Tried to allocate ([\d.]+) (MiB|GiB)")
_OF_WHICH = re.compile(r"total capacity of ([\d.]+) GiB of which ([\d.]+) (MiB|GiB) is free")
_MIB_IN_GIB = 1024.0


def read_figures(text: str, kv_left_gib: float | None) -> Figures:
    """Return the numbers in a message; `kv_left_gib` is what the log said before it."""
    free = total = utilization = wanted = needed = available = tried = None
    if match := _FREE.search(text):
        free, total, utilization, wanted = (float(part) for part in match.groups())
    elif match := _POOL.search(text):
        free, total, available = (float(part) for part in match.groups())
    elif match := _OF_WHICH.search(text):
        total, free = float(match[1]), _gib(match[2], match[3])
    if match := _NEEDED.search(text):
        needed = float(match[1])
    if match := _AVAILABLE.search(text):
        available = float(match[1])
    if match := _TRIED.search(text):
        tried = _gib(match[1], match[2])
    length, estimate = _LENGTH.search(text), _ESTIMATE.search(text)
    return Figures(
        free_gib=free,
        total_gib=total,
        wanted_gib=wanted,
        utilization=utilization,
        needed_gib=needed,
        available_gib=available if available is not None else kv_left_gib,
        max_model_len=int(length[1]) if length else None,
        estimated_len=int(estimate[1] or estimate[2]) if estimate else None,
        tried_gib=tried,
    )


def _gib(number: str, unit: str) -> float:
    return float(number) / (_MIB_IN_GIB if unit == "MiB" else 1.0)
