"""From what was seen of requests to figures, by the definitions of vLLM's own bench.

vLLM 0.32, `vllm/benchmarks/serve.py` (`calculate_metrics`) and `lib/endpoint_request_func.py`
(`async_request_openai_completions`): TTFT is from sending to the first event with a choice, ITL
between two such events, latency to the last one, TPOT (latency - TTFT) / (tokens - 1), output
throughput all tokens over the time from the first request to the end of the last answer.
"""

import math
from collections.abc import Sequence

from cahoots_vllm.core.bench.figures import (
    PrefillFigures,
    PrefixFigures,
    RunFigures,
    Sample,
    Spread,
)

_MS = 1000.0


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile, between two values in proportion (numpy's default, "linear").

    Raises ValueError where there are no values.
    """
    if not values:
        message = "no values"
        raise ValueError(message)
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    between = ordered[low] + (ordered[high] - ordered[low]) * (place - low)
    return min(max(between, ordered[low]), ordered[high])


def median(values: Sequence[float]) -> float:
    """Return the middle. Raises ValueError where there are no values."""
    return percentile(values, 50)


def token_time_s(sample: Sample) -> float | None:
    """Return a request's time per output token after the first; None for one token."""
    if sample.output_tokens <= 1:
        return None
    return (sample.latency_s - sample.first_s) / (sample.output_tokens - 1)


def run_figures(samples: Sequence[Sample], concurrency: int, duration_s: float) -> RunFigures:
    """Return the figures of requests that were sent, so many at a time.

    Raises ValueError without samples.
    """
    times = [time for sample in samples if (time := token_time_s(sample)) is not None]
    tokens = sum(sample.output_tokens for sample in samples)
    token_s = median(times) if times else 0.0
    return RunFigures(
        concurrency=concurrency,
        requests=len(samples),
        duration_s=duration_s,
        input_tokens=sum(sample.input_tokens for sample in samples),
        output_tokens=tokens,
        tokens_per_s=tokens / duration_s if duration_s > 0 else 0.0,
        tokens_per_s_per_stream=1 / token_s if token_s > 0 else 0.0,
        ttft_ms=_spread([sample.first_s for sample in samples]),
        tpot_ms=_spread(times),
        itl_ms=_spread([gap for sample in samples for gap in sample.gaps_s]),
    )


def prefill_figures(samples: Sequence[Sample]) -> PrefillFigures:
    """Return the speed at which long prompts are read, each answered by one token.

    The one token is part of the time. Raises ValueError without samples.
    """
    first_s = median([sample.first_s for sample in samples])
    tokens = median([sample.input_tokens for sample in samples])
    return PrefillFigures(
        requests=len(samples),
        prompt_tokens=round(tokens),
        ttft_ms=first_s * _MS,
        tokens_per_s=tokens / first_s if first_s > 0 else 0.0,
    )


def prefix_figures(first: Sequence[Sample], again: Sequence[Sample]) -> PrefixFigures:
    """Return what the prefix cache saves: the same prompts, new and once more."""
    return PrefixFigures(
        requests=len(again),
        prompt_tokens=round(median([sample.input_tokens for sample in again])),
        first_ttft_ms=median([sample.first_s for sample in first]) * _MS,
        again_ttft_ms=median([sample.first_s for sample in again]) * _MS,
    )


def _spread(seconds: Sequence[float]) -> Spread:
    if not seconds:
        return Spread(0.0, 0.0)
    return Spread(percentile(seconds, 50) * _MS, percentile(seconds, 99) * _MS)
