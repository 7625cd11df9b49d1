"""Draws what back_in_seconds.py saw as an SVG: a bar up to the median, a dot for each round."""

import statistics
from collections.abc import Sequence
from html import escape

from bench.seconds_table import SIDES, Seen, of, rows_of

_COLOURS = dict(zip(SIDES, ("#b0b7c3", "#7d8797", "#2f7d5b"), strict=True))
_LEFT, _RIGHT, _WIDTH = 320, 70, 900
_BAR, _GAP, _TOP = 16, 12, 56
_TICKS = 6


def draw(seen: Sequence[Seen]) -> str:
    """Return the picture."""
    rows = rows_of(seen)
    longest = max(one.seconds for one in seen)
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100) if longest / s <= _TICKS)
    scale = (_WIDTH - _LEFT - _RIGHT) / longest
    bars, y = [], float(_TOP)
    for row in rows:
        sides = [side for side in SIDES if of(seen, row, side)]
        middle = y + len(sides) * _BAR / 2 + 4
        bars.append(_text(_LEFT - 8, middle, " ".join(row), anchor="end"))
        for side in sides:
            bars += _bar([one.seconds for one in of(seen, row, side)], side, y, scale)
            y += _BAR
        y += _GAP
    ticks = range(0, int(longest) + 1, step)
    axis = [part for at in ticks for part in _tick(at, _LEFT + at * scale, y)]
    height = y + 28
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" '
        f'width="{_WIDTH}" height="{height:.0f}" font-family="sans-serif" font-size="12">'
    )
    white = '<rect width="100%" height="100%" fill="#ffffff"/>'
    present = [side for side in SIDES if any(one.side == side for one in seen)]
    return "\n".join([head, white, *_legend(present), *axis, *bars, "</svg>", ""])


def _bar(times: Sequence[float], side: str, y: float, scale: float) -> list[str]:
    median = statistics.median(times)
    dots = [
        f'<circle cx="{_LEFT + seconds * scale:.1f}" cy="{y + _BAR / 2 - 1:.1f}" r="2.5" '
        'fill="none" stroke="#202020"/>'
        for seconds in times
    ]
    bar = (
        f'<rect x="{_LEFT}" y="{y:.1f}" width="{median * scale:.1f}" height="{_BAR - 2}" '
        f'fill="{_COLOURS[side]}"/>'
    )
    return [
        bar,
        *(dots if len(times) > 1 else []),
        _text(_LEFT + max(times) * scale + 7, y + 11, f"{median:.1f} s"),
    ]


def _tick(at: int, x: float, bottom: float) -> list[str]:
    line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 6}" y2="{bottom:.1f}" stroke="#e4e4e4"/>'
    return [line, _text(x, bottom + 16, f"{at} s", anchor="middle")]


def _legend(sides: Sequence[str]) -> list[str]:
    parts = [_text(12, 22, "Seconds until the next token: median, and each round")]
    for number, side in enumerate(sides):
        x = _LEFT + 130 * number
        parts.append(f'<rect x="{x}" y="32" width="12" height="12" fill="{_COLOURS[side]}"/>')
        parts.append(_text(x + 18, 42, side))
    return parts


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#202020">{escape(text)}</text>'
    )
