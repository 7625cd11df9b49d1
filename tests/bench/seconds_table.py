"""What back_in_seconds.py saw: kept as a file of JSON lines, shown as Markdown tables."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

_DEATH = "SIGKILL of "
ANY_DEATH = "SIGKILL of any of them"
SIDES = ("shell-loop", "systemd", "daemon")


@dataclass(frozen=True)
class Seen:
    """One change on one side. `phases`: seconds since the change; see asker.Outage for the rest."""

    model: str
    what: str
    side: str
    number: int
    seconds: float
    downtime_s: float | None = None
    failed: int = 0
    phases: dict[str, float] = field(default_factory=dict)


def keep(path: Path, one: Seen) -> None:
    """Add it to the file."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(one)) + "\n")


def read(paths: Iterable[Path]) -> list[Seen]:
    """Return what the files hold."""
    return [Seen(**json.loads(line)) for path in paths for line in path.read_text().splitlines()]


def rows_of(seen: Sequence[Seen]) -> list[tuple[str, str]]:
    """Return model and change of each row; a row for all deaths where there are several."""
    rows: list[tuple[str, str]] = []
    for model in dict.fromkeys(one.model for one in seen):
        changes = list(dict.fromkeys(one.what for one in seen if one.model == model))
        if sum(what.startswith(_DEATH) for what in changes) > 1:
            changes.append(ANY_DEATH)
        rows += [(model, what) for what in sorted(changes, key=_order)]
    return rows


def _order(what: str) -> tuple[bool, str]:
    """Starts first, deaths one after the other, swaps last."""
    return not what.startswith("start"), what


def of(seen: Sequence[Seen], row: tuple[str, str], side: str) -> list[Seen]:
    """Return those of one row and one side."""
    model, what = row
    mine = [one for one in seen if one.model == model and one.side == side]
    if what == ANY_DEATH:
        return [one for one in mine if one.what.startswith(_DEATH)]
    return [one for one in mine if one.what == what]


def ratios(seen: Sequence[Seen], row: tuple[str, str], other: str) -> list[float]:
    """Return how many times the daemon was faster, round by round."""
    ours = {(one.what, one.number): one.seconds for one in of(seen, row, "daemon")}
    pairs = [(one.seconds, ours.get((one.what, one.number))) for one in of(seen, row, other)]
    return [theirs / mine for theirs, mine in pairs if mine is not None]


def tables(seen: Sequence[Seen]) -> str:
    """Return all tables."""
    return "\n".join([_seconds(seen), _downtime(seen), *_phases(seen)])


def _seconds(seen: Sequence[Seen]) -> str:
    heads = ["model", "what", *SIDES, *(f"times faster than {side}" for side in SIDES[:2])]
    lines = [heads, ["---"] * len(heads)]
    for row in rows_of(seen):
        times = [[one.seconds for one in of(seen, row, side)] for side in SIDES]
        factors = [ratios(seen, row, side) for side in SIDES[:2]]
        lines.append([*row, *map(_spread, times), *map(_times, factors)])
    return _markdown(lines)


def _downtime(seen: Sequence[Seen]) -> str:
    heads = ["without an answer", "", *SIDES]
    lines = [heads, ["---"] * len(heads)]
    for row in rows_of(seen):
        cells = [_seen_by_client(of(seen, row, side)) for side in SIDES]
        if any(cells):
            lines.append([*row, *cells])
    return _markdown(lines)


def _seen_by_client(seen: Sequence[Seen]) -> str:
    gaps = [one.downtime_s for one in seen if one.downtime_s is not None]
    if not gaps:
        return ""
    failed = statistics.median(one.failed for one in seen if one.downtime_s is not None)
    return f"{_spread(gaps)}, {failed:.0f} failed"


def _phases(seen: Sequence[Seen]) -> list[str]:
    """Return a table for each side: what had happened after how many seconds, medians."""
    found = []
    for side in SIDES:
        kinds = [row for row in rows_of(seen) if row[1] != ANY_DEATH]
        rows = [row for row in kinds if any(one.phases for one in of(seen, row, side))]
        if rows:
            found.append(_phase_table(seen, side, rows))
    return found


def _phase_table(seen: Sequence[Seen], side: str, rows: Sequence[tuple[str, str]]) -> str:
    heads = [f"{side}, seconds until", *(" ".join(row) for row in rows)]
    lines = [heads, ["---"] * len(heads)]
    at: dict[str, dict[tuple[str, str], list[float]]] = {}
    for row in rows:
        for one in of(seen, row, side):
            for phase, seconds in one.phases.items():
                at.setdefault(phase, {}).setdefault(row, []).append(seconds)
    for phase, by_row in sorted(at.items(), key=lambda item: _soonest(item[1])):
        cells = [f"{statistics.median(by_row[row]):.2f}" if row in by_row else "" for row in rows]
        lines.append([phase, *cells])
    last = [statistics.median(one.seconds for one in of(seen, row, side)) for row in rows]
    lines.append(["a token at the client", *(f"{seconds:.2f}" for seconds in last)])
    return _markdown(lines)


def _soonest(by_row: dict[tuple[str, str], list[float]]) -> float:
    return min(map(statistics.median, by_row.values()))


def _spread(times: Sequence[float]) -> str:
    if not times:
        return ""
    text = f"{statistics.median(times):.2f} s"
    return text if len(times) == 1 else f"{text} ({min(times):.2f} to {max(times):.2f})"


def _times(factors: Sequence[float]) -> str:
    if not factors:
        return ""
    text = f"{statistics.median(factors):.1f}"
    return text if len(factors) == 1 else f"{text} ({min(factors):.1f} to {max(factors):.1f})"


def _markdown(lines: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
