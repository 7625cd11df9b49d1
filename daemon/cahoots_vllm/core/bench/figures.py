"""The values of a bench: the load, what was seen of a request, and the figures made of it.

Field names are those of the JSON in `cahootsctl bench --json`, `/v1/bench` and bench.jsonl: they
are added, never renamed.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent; lengths in tokens. Two results compare only where all of it is the same."""

    concurrency: int
    requests: int
    input_tokens: int
    output_tokens: int
    prefill_tokens: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One answered request: seconds from sending to the first and to the last token's event.

    `gaps_s`: between the events in between. An event may hold several tokens (speculative
    decoding), so `output_tokens` is the engine's own count.
    """

    first_s: float
    latency_s: float
    gaps_s: tuple[float, ...]
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and 99th percentile."""

    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class RunFigures:
    """Requests sent so many at a time; `tokens_per_s` is of all streams together, output only."""

    concurrency: int
    requests: int
    duration_s: float
    input_tokens: int
    output_tokens: int
    tokens_per_s: float
    # While it generates, without the time to the first token: 1 / median TPOT.
    tokens_per_s_per_stream: float
    ttft_ms: Spread
    tpot_ms: Spread
    itl_ms: Spread


@dataclass(frozen=True, slots=True)
class PrefillFigures:
    """Long prompts answered by one token, one at a time; medians."""

    requests: int
    prompt_tokens: int
    ttft_ms: float
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class PrefixFigures:
    """The same long prompts, new and once more; median times to the first token."""

    requests: int
    prompt_tokens: int
    first_ttft_ms: float
    again_ttft_ms: float


@dataclass(frozen=True, slots=True)
class RouteFigures:
    """What was measured one way, through the gateway or directly; None: not measured."""

    single: RunFigures | None = None
    many: RunFigures | None = None
    prefill: PrefillFigures | None = None
    prefix_cache: PrefixFigures | None = None
