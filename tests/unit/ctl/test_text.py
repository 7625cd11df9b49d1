"""Durations, times and aligned rows."""

from datetime import datetime, timedelta, timezone

import pytest

from cahoots_vllm.ctl.text import Line, Row, Tone, age, clock, duration, layout, seconds_between

NOW = datetime(2025, 10, 1, 5, 25, 5, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0.9, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (11520, "3 h 12 min"),
        (86400, "1 d 0 h"),
        (190000, "2 d 4 h"),
    ],
)
def test_duration_in_the_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_times_are_shown_in_local_time_and_as_age() -> None:
    assert clock("2025-10-01T00:13:05.123Z", NOW) == "Oct 01 02:13:05"
    assert age("2025-10-01T00:13:05Z", NOW) == "3 h 12 min"


@pytest.mark.parametrize("nothing", [None, "", "soon", "2025-10-01T00:13:05", 7])
def test_an_unknown_time_is_a_question_mark(nothing: object) -> None:
    assert clock(nothing, NOW) == "?"
    assert age(nothing, NOW) == "?"
    assert seconds_between(nothing, "2025-10-01T00:13:05Z") is None


def test_layout_aligns_wraps_and_keeps_names_whole() -> None:
    name = "gpu-memory-utilization"
    rows = [Row("model", f"lower {name}", Tone.BAD), Row("x", "")]
    assert layout(rows, 36) == [
        Line("model       lower", Tone.BAD),
        Line(f"            {name}", Tone.BAD),
        Line("x           -"),
    ]


def test_layout_cuts_a_novel_short_and_escapes_line_feeds() -> None:
    lines = layout([Row("evidence", "one\ntwo " + "word " * 100)], 40)
    assert len(lines) == 4
    assert lines[0].text.startswith("evidence    one\\ntwo word")
    assert lines[-1].text.endswith(" ...")
