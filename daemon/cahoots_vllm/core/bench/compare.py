"""What a result means: beside this host's earlier ones, and beside the guide's table. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from cahoots_vllm.core.bench.statistics import median


class Figure(StrEnum):
    """The figures that results are compared by."""

    GENERATION_ONE = "generation, 1 stream"
    GENERATION_MANY = "generation, all streams"
    FIRST_TOKEN = "first token, 1 stream"  # noqa: S105 (a token of a model's answer)
    PREFILL = "prefill"

    @property
    def is_time(self) -> bool:
        """Whether less is better: milliseconds, else tokens a second."""
        return self is Figure.FIRST_TOKEN


_PLACES: Final = {
    Figure.GENERATION_ONE: ("single", "tokens_per_s_per_stream"),
    Figure.GENERATION_MANY: ("many", "tokens_per_s"),
    Figure.FIRST_TOKEN: ("single", "ttft_ms", "p50"),
    Figure.PREFILL: ("prefill", "tokens_per_s"),
}


def read_figure(result: Mapping[str, Any], figure: Figure) -> float | None:
    """Return a figure of a result's JSON, as measured through the gateway; None: not measured."""
    value: Any = result.get("gateway")
    for name in _PLACES[figure]:
        value = value.get(name) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A figure beside the median of earlier ones; `change` is a share, 0.03 for 3 % more."""

    figure: Figure
    value: float
    median: float
    count: int

    @property
    def change(self) -> float:
        """How much more than the median it is, as a share of it."""
        return self.value / self.median - 1 if self.median else 0.0

    @property
    def is_better(self) -> bool:
        """Whether the change is one for the better."""
        return (self.change < 0) is self.figure.is_time

    @property
    def words(self) -> str:
        """Say it: "3 % below the median of 5 earlier runs"."""
        runs = f"{self.count} earlier runs" if self.count > 1 else "the one earlier run"
        base = f"the median of {runs}" if self.count > 1 else runs
        percent = round(abs(self.change) * 100)
        if percent == 0:
            return f"as {base}"
        return f"{percent} % {'above' if self.change > 0 else 'below'} {base}"


def comparable(
    records: Sequence[Mapping[str, Any]], target: Mapping[str, Any], load: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    """Return the records of the same target (model, GPU, engine, options) under the same load."""
    same = [record for record in records if record.get("load") == load]
    # What was taken while others' requests ran says little about this one.
    return [r for r in same if r.get("target") == target and not r.get("is_shared")]


def compare(result: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]) -> list[Comparison]:
    """Return a comparison for each figure that was measured now and before."""
    found = []
    for figure in Figure:
        value = read_figure(result, figure)
        before = [v for record in earlier if (v := read_figure(record, figure)) is not None]
        if value is not None and before:
            found.append(Comparison(figure, value, median(before), len(before)))
    return found


@dataclass(frozen=True, slots=True)
class Expectation:
    """A row of the table in Cahoots' guide (docs/LOCAL_INFERENCE.md), for one stream."""

    figure: Figure
    low: float
    high: float
    # "~1000": a rough figure, half of it is still near.
    is_rough: bool = False

    def is_met(self, value: float) -> bool:
        """Whether a value is as good as the guide says, or better."""
        if self.figure.is_time:
            return value <= self.high
        return value >= (self.low / 2 if self.is_rough else self.low)


_GUIDE: Final = (
    Expectation(Figure.FIRST_TOKEN, 200, 500),
    Expectation(Figure.GENERATION_ONE, 100, 150),
    Expectation(Figure.PREFILL, 1000, 1000, is_rough=True),
)


def guide_expectations(gpu: str, model: str, options: str) -> tuple[Expectation, ...]:
    """Return the guide's table where it speaks of this host: an RTX 5090 with a 32B AWQ model.

    `model`: where it is loaded from, `options`: its launch options as one text.
    """
    words = f"{model} {options}".lower()
    is_it = "rtx 5090" in gpu.lower() and "32b" in model.lower() and "awq" in words
    return _GUIDE if is_it else ()
