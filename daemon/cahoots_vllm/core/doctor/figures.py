"""Reads from an engine's page of figures and from its log what the doctor wants to know."""

import re
from dataclasses import dataclass
from typing import Final

from cahoots_vllm.core.doctor.speed import KvFacts

_PREEMPTIONS: Final = re.compile(r"^vllm:num_preemptions(?:_total)?{[^}]*} (\S+)", re.MULTILINE)
# vLLM before 0.10 says gpu_cache_usage_perc.
_USAGE: Final = re.compile(r"^vllm:(?:kv|gpu)_cache_usage_perc{[^}]*} (\S+)", re.MULTILINE)
_LOADING: Final = re.compile(r"Loading weights took ([\d.]+) seconds")
_WINDOW_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class KvSample:
    """Counts of one engine at a time (seconds, monotonic)."""

    generation: int
    at: float
    preemptions: float
    usage: float


def read_sample(page: str, generation: int, at: float) -> KvSample | None:
    """Return the sample of a page, None where it has no such figures; data parallel is summed."""
    counts = [float(value) for value in _PREEMPTIONS.findall(page)]
    usage = [float(value) for value in _USAGE.findall(page)]
    if not counts:
        return None
    return KvSample(generation, at, sum(counts), max(usage, default=0.0))


def keep_sample(samples: tuple[KvSample, ...], new: KvSample) -> tuple[KvSample, ...]:
    """Return the samples of the window with the new one; another engine's are dropped."""
    kept = [s for s in samples if s.generation == new.generation and new.at - s.at <= _WINDOW_S]
    return (*kept, new)


def kv_facts(samples: tuple[KvSample, ...]) -> KvFacts | None:
    """Return what happened within the window; None before there are two looks."""
    if len(samples) < 2:  # noqa: PLR2004 (a difference)
        return None
    first, last = samples[0], samples[-1]
    grown = int(last.preemptions - first.preemptions)
    return KvFacts(grown, last.usage, last.at - first.at)


def load_seconds(lines: tuple[str, ...]) -> float | None:
    """Return how long the weights took by the engine's log; of several ranks, the slowest."""
    found = [float(match[1]) for line in lines if (match := _LOADING.search(line))]
    return max(found, default=None)
