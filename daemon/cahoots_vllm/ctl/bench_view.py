"""What `cahootsctl bench` shows: figures side by side and beside earlier ones, a plot. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from cahoots_vllm.core.bench.compare import (
    Comparison,
    Expectation,
    Figure,
    compare,
    guide_expectations,
    read_figure,
)
from cahoots_vllm.core.bench.plot import column_chart
from cahoots_vllm.ctl.text import Json, Line, Row, Tone, clock, layout, wrap

_LABEL: Final = 26
_COLUMN: Final = 24
_HISTORY_HEAD: Final = f"{'':<16}{'1 stream':>16}{'all streams':>18}{'first token':>12}"
_NOTICED: Final = 0.05  # a smaller change is no news
_FEWEST_PLOTTED: Final = 2
_ROUTES: Final = ("gateway", "direct")


def result_lines(result: Json, earlier: Sequence[Mapping[str, Any]], width: int) -> list[Line]:
    """Return what was measured, and how it compares."""
    lines = [*layout(_head(result), width), Line(""), *_table(result)]
    target = result["target"]
    beside = [_comparison_line(c) for c in compare(result, earlier)]
    if not beside and read_figure(result, Figure.GENERATION_ONE) is not None:
        beside = [Line("no earlier run of this model, GPU, engine, options and load")]
    expected = guide_expectations(target["gpu"], target["model"], target["options"])
    rows = ((e, read_figure(result, e.figure)) for e in expected)
    beside += [_guide_line(e, value) for e, value in rows if value is not None]
    wrapped = (Line(text, line.tone) for line in beside for text in wrap(line.text, width, 2))
    return [*lines, Line(""), *wrapped]


def _head(result: Json) -> list[Row]:
    target, load = result["target"], result["load"]
    shape = (
        f"{load['requests']} requests, {load['concurrency']} at a time: "
        f"{load['input_tokens']} tokens in, {load['output_tokens']} out; "
        f"long prompts of {load['prefill_tokens']}; seed {result['seed']}"
    )
    rows = [
        Row("model", f"{result['serving']} on {target['gpu']}, vLLM {target['engine_version']}"),
        Row("load", shape),
    ]
    rows += [Row("note", note, Tone.WARNING) for note in result["notes"]]
    return rows


def _table(result: Json) -> list[Line]:
    ways = [name for name in _ROUTES if result.get(name)]
    heads = {"gateway": "through the gateway", "direct": "directly"}
    lines = [Line(f"{'':<{_LABEL}}" + "".join(f"{heads[w]:<{_COLUMN}}" for w in ways).rstrip())]
    columns = [dict(_cells(result[way])) for way in ways]
    for label in dict.fromkeys(label for column in columns for label in column):
        cells = "".join(f"{column.get(label, '-'):<{_COLUMN}}" for column in columns)
        lines.append(Line(f"{label:<{_LABEL}}{cells}".rstrip()))
    return lines


def _cells(way: Json) -> list[tuple[str, str]]:
    single, many, cells = way.get("single"), way.get("many"), list[tuple[str, str]]()
    if single:
        cells.append(("generation, 1 stream", rate(single["tokens_per_s_per_stream"])))
    if many:
        count = many["concurrency"]
        cells.append((f"generation, {count} streams", rate(many["tokens_per_s"])))
        cells.append(("  each of them", rate(many["tokens_per_s_per_stream"])))
    for run in (single, many):
        if run:
            streams = _streams(run["concurrency"])
            cells.append((f"first token, {streams}", _spread(run["ttft_ms"])))
            cells.append((f"between tokens, {streams}", _spread(run["itl_ms"])))
    if prefill := way.get("prefill"):
        cells.append(("prefill", rate(prefill["tokens_per_s"])))
    if cache := way.get("prefix_cache"):
        cells.append(("long prompt, first token", milliseconds(cache["first_ttft_ms"])))
        cells.append(("  once more (cached)", milliseconds(cache["again_ttft_ms"])))
    return cells


def _streams(count: int) -> str:
    return f"{count} stream{'s' if count > 1 else ''}"


def rate(value: float) -> str:
    """Say tokens a second."""
    return f"{value:,.0f} tokens/s" if value >= 1000 else f"{value:.1f} tokens/s"  # noqa: PLR2004 (four digits)


def milliseconds(value: float) -> str:
    """Say milliseconds, in seconds where there are many."""
    if value >= 10_000:  # noqa: PLR2004 (ten seconds)
        return f"{value / 1000:.1f} s"
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms"  # noqa: PLR2004 (three digits)


def _spread(spread: Json) -> str:
    return f"{milliseconds(spread['p50'])}, p99 {milliseconds(spread['p99'])}"


def _value(figure: Figure, value: float) -> str:
    return milliseconds(value) if figure.is_time else rate(value)


def _comparison_line(comparison: Comparison) -> Line:
    figure = comparison.figure
    tone = Tone.PLAIN
    if abs(comparison.change) >= _NOTICED:
        tone = Tone.GOOD if comparison.is_better else Tone.WARNING
    return Line(f"{figure}: {_value(figure, comparison.value)}, {comparison.words}", tone)


def _guide_line(expected: Expectation, value: float) -> Line:
    is_met = expected.is_met(value)
    said = (
        f"{expected.low:g} to {expected.high:g}" if expected.low < expected.high else "about 1000"
    )
    unit = "ms" if expected.figure.is_time else "tokens/s"
    judged = "as the guide expects" if is_met else "worse than the guide expects"
    text = f"{expected.figure}: {_value(expected.figure, value)}, {judged} of an RTX 5090"
    return Line(f"{text} ({said} {unit})", Tone.PLAIN if is_met else Tone.WARNING)


def plot_lines(
    records: Sequence[Mapping[str, Any]], now: datetime, width: int, *, draws_blocks: bool
) -> list[Line]:
    """Return charts of comparable results, the oldest first; none where there is only one."""
    lines = list[Line]()
    for figure, unit in (
        (Figure.GENERATION_ONE, "tokens/s"),
        (Figure.GENERATION_MANY, "tokens/s"),
        (Figure.FIRST_TOKEN, "ms"),
    ):
        values = [v for record in records if (v := read_figure(record, figure)) is not None]
        if len(values) >= _FEWEST_PLOTTED:
            chart = column_chart(values, width, draws_blocks=draws_blocks)
            lines += [Line(""), Line(f"{figure}, {unit}, {len(values)} runs"), *map(Line, chart)]
    if lines:
        span = f"{clock(records[0].get('at'), now)} to {clock(records[-1].get('at'), now)}"
        lines.append(Line(span))
    return lines


def history_lines(
    records: Sequence[Mapping[str, Any]], now: datetime, width: int, *, draws_blocks: bool
) -> list[Line]:
    """Return all results, grouped by what can be compared, the latest group last."""
    if not records:
        return [Line("nothing measured yet: `cahootsctl bench`")]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        key = repr((record.get("target"), record.get("load")))
        groups[key] = [*groups.pop(key, []), record]
    lines = list[Line]()
    for group in groups.values():
        lines += [*_group_head(group[-1], width), Line(_HISTORY_HEAD)]
        lines += [_history_line(record, now) for record in group]
        lines += [*plot_lines(group, now, width, draws_blocks=draws_blocks), Line("")]
    return lines[:-1]


def _group_head(record: Mapping[str, Any], width: int) -> list[Line]:
    target, load = record["target"], record["load"]
    model = target["model"].rpartition("/")[2] if target["model"][:1] == "/" else target["model"]
    what = f"{model} on {target['gpu']}, vLLM {target['engine_version']}"
    shape = (
        f"{load['requests']} requests, {load['concurrency']} at a time, "
        f"{load['input_tokens']} in, {load['output_tokens']} out"
    )
    return layout([Row("model", what), Row("load", shape)], width)


def _history_line(record: Mapping[str, Any], now: datetime) -> Line:
    one, many, first = (
        read_figure(record, f)
        for f in (Figure.GENERATION_ONE, Figure.GENERATION_MANY, Figure.FIRST_TOKEN)
    )
    cells = (
        f"{_or_dash(one, rate):>16}{_or_dash(many, rate):>18}{_or_dash(first, milliseconds):>12}"
    )
    shared = "  shared" if record.get("is_shared") else ""
    return Line(f"{clock(record.get('at'), now)} {cells}{shared}")


def _or_dash(value: float | None, say: Any) -> str:  # noqa: ANN401 (one of the two above)
    return "-" if value is None else str(say(value))
