"""Figures by hand, and what holds for all of them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cahoots_vllm.core.bench.figures import Sample, Spread
from cahoots_vllm.core.bench.statistics import (
    percentile,
    prefill_figures,
    prefix_figures,
    run_figures,
    token_time_s,
)

SECONDS = st.floats(min_value=0, max_value=1e4)


def sample(first_s: float, *gaps_s: float, inputs: int = 10) -> Sample:
    latency = first_s + sum(gaps_s)
    return Sample(first_s, latency, gaps_s, inputs, len(gaps_s) + 1)


def test_percentile_by_hand() -> None:
    # numpy.percentile([1, 2, 3, 4], [0, 50, 75, 99, 100]) = 1, 2.5, 3.25, 3.97, 4
    values = [4.0, 1.0, 3.0, 2.0]
    found = [percentile(values, p) for p in (0, 50, 75, 99, 100)]
    assert found == pytest.approx([1.0, 2.5, 3.25, 3.97, 4.0])
    assert percentile([7.0], 99) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


@given(st.lists(SECONDS, min_size=1), st.floats(min_value=0, max_value=100))
def test_percentile_is_between_the_extremes_and_grows(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert min(values) <= found <= max(values)
    assert percentile(values, 0) == min(values)
    assert percentile(values, 100) == max(values)
    assert found <= percentile(values, min(100.0, percent + 10)) + 1e-9


def test_run_figures_by_hand() -> None:
    samples = [sample(0.1, 0.02, 0.04), sample(0.3, 0.01, 0.01)]
    figures = run_figures(samples, 2, 0.5)
    assert (figures.requests, figures.input_tokens, figures.output_tokens) == (2, 20, 6)
    assert figures.tokens_per_s == pytest.approx(12.0)
    # TPOT: 0.06 / 2 and 0.02 / 2, in the middle 20 ms.
    assert figures.tpot_ms.p50 == pytest.approx(20.0)
    assert figures.tokens_per_s_per_stream == pytest.approx(50.0)
    assert figures.ttft_ms.p50 == pytest.approx(200.0)
    assert figures.ttft_ms.p99 == pytest.approx(298.0)
    # Gaps 10, 10, 20, 40: 15 in the middle, 39.4 at 99 %.
    assert figures.itl_ms.p50 == pytest.approx(15.0)
    assert figures.itl_ms.p99 == pytest.approx(39.4)


def test_several_tokens_in_one_event_count_as_the_engine_counts() -> None:
    # Speculative decoding: one gap of 60 ms, six tokens after the first.
    found = token_time_s(Sample(0.1, 0.16, (0.06,), 10, 7))
    assert found == pytest.approx(0.01)


def test_answers_of_one_token_have_no_time_per_token() -> None:
    figures = run_figures([sample(0.1)], 1, 0.1)
    assert figures.tokens_per_s == pytest.approx(10.0)
    assert (figures.tokens_per_s_per_stream, figures.tpot_ms) == (0.0, Spread(0.0, 0.0))


@given(st.lists(st.tuples(SECONDS, st.lists(SECONDS, max_size=9)), min_size=1), SECONDS)
def test_figures_are_numbers_whatever_was_seen(
    seen: list[tuple[float, list[float]]], duration_s: float
) -> None:
    samples = [sample(first, *gaps) for first, gaps in seen]
    figures = run_figures(samples, 1, duration_s)
    assert figures.output_tokens == sum(len(gaps) + 1 for _, gaps in seen)
    assert figures.ttft_ms.p50 <= figures.ttft_ms.p99 + 1e-6
    assert not math.isnan(figures.tokens_per_s_per_stream)


def test_prefill_and_prefix_by_hand() -> None:
    first = [sample(t, inputs=1000) for t in (0.5, 0.4, 0.9)]
    again = [sample(t, inputs=1000) for t in (0.05, 0.04, 0.06)]
    prefill = prefill_figures(first)
    assert (prefill.prompt_tokens, prefill.ttft_ms, prefill.tokens_per_s) == (1000, 500, 2000)
    cache = prefix_figures(first, again)
    assert (cache.first_ttft_ms, cache.again_ttft_ms) == (500, 50)
