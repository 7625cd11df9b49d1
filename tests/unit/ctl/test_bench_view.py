"""What `cahootsctl bench` shows, at 80 columns."""

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from cahoots_vllm.ctl.bench_view import history_lines, plot_lines, result_lines

NOW = datetime(2025, 10, 1, 2, 1, 0, tzinfo=timezone(timedelta(hours=2)))
TARGET = {
    "model": "Qwen/Qwen3-32B-Instruct-AWQ-With-A-Long-Name", "revision": "0123", "gpu":
    "NVIDIA GeForce RTX 5090", "driver": "580", "engine_version": "0.32.0", "options": "",
}  # fmt: skip
LOAD = {
    "concurrency": 8, "requests": 32, "input_tokens": 512, "output_tokens": 128,
    "prefill_tokens": 2048,
}  # fmt: skip


def spread(value: float) -> dict[str, float]:
    return {"p50": value, "p90": value, "p99": value * 9, "mean": value}


def run(streams: int, rate: float) -> dict[str, Any]:
    return {
        "concurrency": streams, "requests": 32, "tokens_per_s": rate * streams,
        "tokens_per_s_per_stream": rate, "ttft_ms": spread(12_345.6), "itl_ms": spread(1234.5),
        "tpot_ms": spread(20.0), "input_tokens": 1, "output_tokens": 1, "seconds": 1.0,
    }  # fmt: skip


def result(rate: float, at: str = "2025-10-01T00:00:00+00:00") -> dict[str, Any]:
    way = {
        "single": run(1, rate), "many": run(8, rate),
        "prefill": {"tokens_per_s": 123_456.7, "ttft_ms": spread(9.0), "input_tokens": 2048},
        "prefix_cache": {"first_ttft_ms": 12_345.0, "again_ttft_ms": 1.0},
    }  # fmt: skip
    return {
        "at": at, "serving": TARGET["model"], "target": TARGET, "load": LOAD, "seed": 2**31,
        "notes": ["others' requests ran meanwhile: the figures are shared, and compare with none"],
        "gateway": way, "direct": way, "is_shared": False, "kept_at": at,
    }  # fmt: skip


def lengths(lines: list[Any]) -> int:
    return max(len(line.text) for line in lines)


@pytest.mark.parametrize("earlier", [[], [result(90.0)], [result(1.0), result(2.0), result(3.0)]])
def test_result_fits_the_screen(earlier: list[dict[str, Any]]) -> None:
    lines = result_lines(result(100.0), earlier, 80)
    assert lengths(lines) <= 80
    texts = [line.text for line in lines]
    (row,) = (text for text in texts if text.startswith("generation, 1 stream "))
    assert row.split("  ")[-1].strip() == "100.0 tokens/s"
    assert texts[-1]
    assert any("earlier run" in text for text in texts)


def test_history_has_heads_above_its_columns() -> None:
    records = [result(100.0), result(110.0, "2025-10-01T00:00:30+00:00")]
    lines = history_lines(records, NOW, 80, draws_blocks=False)
    assert lengths(lines) <= 80
    texts = [line.text for line in lines]
    head = next(number for number, text in enumerate(texts) if "all streams" in text)
    first = texts[head + 1]
    assert first.startswith("Oct 01 02:00:00")
    for name, value in (("1 stream", "100.0 tokens/s"), ("first token", "12.3 s")):
        assert texts[head].index(name) + len(name) == first.index(value) + len(value)


@pytest.mark.parametrize("draws_blocks", [True, False])
def test_plots_fit_the_screen_however_many_there_are(*, draws_blocks: bool) -> None:
    records = [result(float(n)) for n in range(1, 200)]
    assert lengths(plot_lines(records, NOW, 80, draws_blocks=draws_blocks)) <= 80
    plain = plot_lines(records, NOW, 80, draws_blocks=False)
    assert all(line.text.isascii() for line in plain)


def test_nothing_measured_says_how() -> None:
    (line,) = history_lines([], NOW, 80, draws_blocks=True)
    assert line.text == "nothing measured yet: `cahootsctl bench`"
