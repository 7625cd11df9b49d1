"""Results beside earlier ones, and beside the guide's table."""

from typing import Any

import pytest

from cahoots_vllm.core.bench.compare import (
    Comparison,
    Figure,
    comparable,
    compare,
    guide_expectations,
)

TARGET = {"model": "org/a", "gpu": "A", "engine_version": "1", "options": "", "revision": ""}
LOAD = {"concurrency": 8}


def result(speed: float, **changes: object) -> dict[str, Any]:
    single = {"tokens_per_s_per_stream": speed, "ttft_ms": {"p50": 1000 / speed, "p99": 0}}
    return {"target": TARGET, "load": LOAD, "gateway": {"single": single}} | changes


def test_words_by_hand() -> None:
    earlier = [result(speed) for speed in (22.0, 23.0, 22.8, 21.0, 24.0)]
    found = {c.figure: c for c in compare(result(22.1), earlier)}
    assert set(found) == {Figure.GENERATION_ONE, Figure.FIRST_TOKEN}
    assert found[Figure.GENERATION_ONE].words == "3 % below the median of 5 earlier runs"
    assert found[Figure.FIRST_TOKEN].words == "3 % above the median of 5 earlier runs"


@pytest.mark.parametrize(
    ("value", "count", "words"),
    [
        (10.02, 1, "as the one earlier run"),
        (11.0, 1, "10 % above the one earlier run"),
        (9.96, 3, "as the median of 3 earlier runs"),
    ],
)
def test_words_of_few_runs_and_small_changes(value: float, count: int, words: str) -> None:
    assert Comparison(Figure.PREFILL, value, 10.0, count).words == words


def test_more_is_better_but_for_times() -> None:
    assert Comparison(Figure.PREFILL, 11.0, 10.0, 1).is_better
    assert not Comparison(Figure.FIRST_TOKEN, 11.0, 10.0, 1).is_better
    assert Comparison(Figure.FIRST_TOKEN, 9.0, 10.0, 1).is_better


def test_only_the_same_target_and_load_compare_and_nothing_shared() -> None:
    same = result(1.0)
    others = [
        result(2.0, target=TARGET | {"engine_version": "2"}),
        result(3.0, load={"concurrency": 1}),
        result(4.0, is_shared=True),
    ]
    assert comparable([same, *others], TARGET, LOAD) == [same]


def test_a_record_without_the_figure_is_passed_over() -> None:
    assert compare(result(1.0), [{"gateway": None}, {"gateway": {"single": None}}]) == []


@pytest.mark.parametrize(
    ("gpu", "model", "options", "speaks"),
    [
        ("NVIDIA GeForce RTX 5090", "Qwen/Qwen3-32B-AWQ", "", True),
        ("NVIDIA GeForce RTX 5090", "/models/my-32b", "quantization=awq", True),
        ("NVIDIA GeForce RTX 5090", "Qwen/Qwen3-32B", "", False),
        ("NVIDIA GeForce RTX 5090", "Qwen/Qwen3-8B-AWQ", "", False),
        ("NVIDIA GeForce RTX 4090", "Qwen/Qwen3-32B-AWQ", "", False),
        ("CPU", "Qwen/Qwen3-32B-AWQ", "", False),
    ],
)
def test_the_guides_table_is_for_its_own_gpu_and_models(
    gpu: str, model: str, options: str, *, speaks: bool
) -> None:
    assert bool(guide_expectations(gpu, model, options)) is speaks


def test_the_guides_figures() -> None:
    rows = {e.figure: e for e in guide_expectations("RTX 5090", "32B-AWQ", "")}
    assert rows[Figure.FIRST_TOKEN].is_met(150)
    assert not rows[Figure.FIRST_TOKEN].is_met(501)
    assert rows[Figure.GENERATION_ONE].is_met(151)
    assert not rows[Figure.GENERATION_ONE].is_met(99)
    assert rows[Figure.PREFILL].is_met(800)
    assert not rows[Figure.PREFILL].is_met(499)
