"""Reads a starting worker's log: which sub-phase it is in and how far it has come.

The lines are vLLM's own; they were compared over 0.10 to 0.33. Matched on the message, the
prefix is optional. Phases only move forward, and "ready" is never taken from the log alone.
"""

import re
from dataclasses import dataclass, replace

from cahoots_vllm.core.log_line import parse_line

# The sub-phase of a worker that was asleep: none of a log's.
WAKING = "waking"


@dataclass(frozen=True, slots=True)
class StartProgress:
    """How far a start has come; `fraction` is 0..1 within the sub-phase, None when unknown."""

    sub_phase: str = "importing"
    rank: int = 0
    fraction: float | None = None
    engine_version: str | None = None
    max_model_len: int | None = None
    can_generate: bool | None = None


@dataclass(frozen=True, slots=True)
class _Mark:
    sub_phase: str | None
    pattern: re.Pattern[str]


# (sub-phase entered, wording); a mark without sub-phase only carries a value.
_MARKS = tuple(
    _Mark(name, re.compile(pattern))
    for name, pattern in (
        ("reading arguments", r"vLLM (?:API )?server version (?P<version>[^\s,]+)"),
        (None, r"Using max model len (?P<max_len>\d+)"),
        ("resolving the configuration", r"Resolved architecture: \S+"),
        ("starting the engine", r"Initializing a V1 LLM engine \(v(?P<version>[^)]+)\)"),
        (
            "starting workers",
            r"world_size[= ]\d+.*rank[= ]\d+.*backend=|rank \d+ in world size \d+ is assigned",
        ),
        ("loading weights", r"Starting to load model .+\.\.\."),
        (
            "loading weights",
            r"(?:Loading|Prefetching)\b.*?(?P<percent>\d+)% ?(?:Completed)?.*?\d+/\d+",
        ),
        ("profiling memory", r"Loading weights took [\d.]+ seconds"),
        ("profiling memory", r"Model loading took [\d.]+ GiB"),
        (
            "compiling",
            (
                r"Starting torch\.compile|Using cache directory: .*torch\.compile"
                r"|Warming up model for the compilation"
            ),
        ),
        (
            "allocating the KV cache",
            r"Available KV cache memory: -?[\d.]+ GiB|(?:Auto|Explicitly) set \([\d.]+/",
        ),
        ("allocating the KV cache", r"(?:GPU|CPU|XPU|TPU|HPU)(?: \+ host)? KV cache size: [\d,]+"),
        (
            None,
            (
                r"Auto-fit max_model_len: (?:reduced from \d+ to (?P<max_len>\d+)"
                r"|full model context length (?P<full_len>\d+))"
            ),
        ),
        ("capturing CUDA graphs", r"Capturing CUDA graphs?.*?(?P<percent>\d+)%"),
        ("starting the server", r"init engine \(profile, create kv cache, warmup model\) took"),
        ("starting the server", r"Supported[_ ]tasks: (?P<tasks>\[.*\])"),
        ("starting the server", r"Starting vLLM (?:API )?server(?: \d+)? on \S+"),
        ("answering the first request", r"Application startup complete"),
    )
)
_RANKS = {
    name: rank
    for rank, name in enumerate(dict.fromkeys(m.sub_phase for m in _MARKS if m.sub_phase), start=1)
}


def advance(progress: StartProgress, text: str) -> StartProgress:
    """Return the progress after one more log line; equal to the given one if it says nothing."""
    message = parse_line(text).message
    for mark in _MARKS:
        found = mark.pattern.search(message)
        if found:
            return _apply(progress, mark.sub_phase, found.groupdict())
    return progress


def _apply(
    progress: StartProgress, sub_phase: str | None, values: dict[str, str | None]
) -> StartProgress:
    percent = values.get("percent")
    fraction = int(percent) / 100 if percent else None
    rank = _RANKS[sub_phase] if sub_phase else 0
    if sub_phase and rank > progress.rank:
        progress = replace(progress, sub_phase=sub_phase, rank=rank, fraction=fraction)
    elif sub_phase == progress.sub_phase and fraction is not None:
        progress = replace(progress, fraction=fraction)
    max_len = values.get("max_len") or values.get("full_len")
    tasks = values.get("tasks")
    return replace(
        progress,
        engine_version=values.get("version") or progress.engine_version,
        max_model_len=int(max_len) if max_len else progress.max_model_len,
        can_generate="'generate'" in tasks if tasks else progress.can_generate,
    )
