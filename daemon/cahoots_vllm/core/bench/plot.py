"""A column chart for a terminal. Pure; every row is plain text no wider than asked for."""

from collections.abc import Sequence
from typing import Final

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_ASCII: Final = "  ..::##|"  # the same eight steps, coarser
_HEIGHT: Final = 4
_WIDEST_COLUMN: Final = 3


def column_chart(values: Sequence[float], width: int, *, draws_blocks: bool) -> list[str]:
    """Return rows, the highest first; the scale begins at zero and is written at the left.

    The latest values are kept where not all have room. No values: no rows.
    """
    if not values:
        return []
    top = max(values)
    labels = [_number(top), *[""] * (_HEIGHT - 2), "0"]
    margin = max(map(len, labels))
    room = max(width - margin - 2, 1)
    shown = list(values)[-room:]
    column = max(1, min(_WIDEST_COLUMN, room // len(shown)))
    marks, edge = (_BLOCKS, "┤") if draws_blocks else (_ASCII, "|")
    rows = []
    for row in range(_HEIGHT):
        base = (_HEIGHT - 1 - row) * 8
        cells = (marks[_eighths(value, top, base)] for value in shown)
        drawn = "".join(_column(cell, column) for cell in cells)
        rows.append(f"{labels[row]:>{margin}} {edge}{drawn}".rstrip())
    return rows


def _column(cell: str, column: int) -> str:
    """Return a column, with a gap to the next one where it is wide enough."""
    return cell * (column - 1) + " " if column > 1 else cell


def _eighths(value: float, top: float, base: int) -> int:
    """Return how much of a row is filled, 0..8; a value above zero is always seen."""
    if top <= 0:
        return 0
    filled = max(round(max(value, 0.0) / top * _HEIGHT * 8), 1 if value > 0 else 0)
    return min(max(filled - base, 0), 8)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"  # noqa: PLR2004 (three digits)
