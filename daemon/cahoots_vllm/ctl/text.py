"""Plain text for people: escaping, durations, times, aligned rows. Pure.

Rows and lines carry raw text; `Console` escapes every line on its way out, so nothing the
daemon says can steer a terminal.
"""

import textwrap
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

Json = dict[str, Any]

_LABEL_WIDTH = 12
_MAX_LINES = 4
_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 86400


class Tone(StrEnum):
    """What a line means; the value is its SGR colour code (ECMA-48)."""

    PLAIN = ""
    GOOD = "32"
    WARNING = "33"
    BAD = "31"


class Line(NamedTuple):
    """One line of output."""

    text: str
    tone: Tone = Tone.PLAIN


class Row(NamedTuple):
    """A labelled text, wrapped by `layout`; an empty label continues the row above."""

    label: str
    text: str
    tone: Tone = Tone.PLAIN


def escape(text: str) -> str:
    r"""Show what a terminal would obey or hide as an escape: ESC as \x1b, a line feed as \n."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def layout(rows: Iterable[Row], width: int) -> list[Line]:
    """Align the rows' texts in one column and wrap them; a very long text is cut short."""
    lines = []
    for row in rows:
        wrapped = textwrap.wrap(
            escape(row.text),
            max(width - _LABEL_WIDTH, _LABEL_WIDTH),
            break_on_hyphens=False,  # a model name or an option stays in one piece
            break_long_words=False,
            max_lines=_MAX_LINES,
            placeholder=" ...",
        )
        for number, text in enumerate(wrapped or ["-"]):
            label = row.label if number == 0 else ""
            lines.append(Line(f"{label:<{_LABEL_WIDTH}}{text}", row.tone))
    return lines


def wrap(text: str, width: int, indent: int = 0) -> list[str]:
    """Break a text between words; a path or a name stays in one piece. Escaped already."""
    return textwrap.wrap(
        escape(text),
        max(width, _LABEL_WIDTH),
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def quote(text: str) -> str:
    """Return text as it may stand in a URL's query (RFC 3986); urllib.parse costs 10 ms."""
    plain = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
    return "".join(chr(b) if b in plain else f"%{b:02X}" for b in text.encode())


def duration(seconds: float) -> str:
    """Say how long in the two largest units."""
    whole = max(int(seconds), 0)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S} s"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S} min"
    return f"{whole // _DAY_S} d {whole % _DAY_S // _HOUR_S} h"


def instant(iso: object) -> datetime | None:
    """Parse a time of the API; None when there is none or it has no time zone."""
    try:
        at = datetime.fromisoformat(str(iso))
    except ValueError:
        return None
    return at if at.tzinfo else None


def clock(iso: object, now: datetime) -> str:
    """Say when, in the time zone of `now`, as the journal does: `Oct 01 02:13:05`."""
    at = instant(iso)
    return f"{at.astimezone(now.tzinfo):%b %d %H:%M:%S}" if at else "?"


def seconds_between(start: object, end: object) -> float | None:
    """Return the seconds from one time of the API to another; None when either is unknown."""
    first, last = instant(start), instant(end)
    return (last - first).total_seconds() if first and last else None


def age(iso: object, now: datetime) -> str:
    """Say how long ago."""
    at = instant(iso)
    return duration((now - at).total_seconds()) if at else "?"


def percent(fraction: object) -> str:
    """Say a fraction 0..1 as ` 50 %`, with its leading space; empty when unknown."""
    return f" {round(fraction * 100)} %" if isinstance(fraction, int | float) else ""


def join(*parts: str) -> str:
    """Join the parts that say something with commas."""
    return ", ".join(part for part in parts if part)
