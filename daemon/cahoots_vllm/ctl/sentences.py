"""Operations, events and log entries as text. Pure."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from cahoots_vllm.core.wire import OperationState
from cahoots_vllm.ctl.render import details, endpoint, state_text
from cahoots_vllm.ctl.text import (
    Json,
    Line,
    Row,
    Tone,
    age,
    clock,
    duration,
    join,
    layout,
    seconds_between,
)

_TONES: dict[str, Tone] = {
    OperationState.FAILED: Tone.BAD,
    OperationState.ABORTED: Tone.WARNING,
    OperationState.DONE: Tone.GOOD,
}
LEVELS = {"ok": Tone.GOOD, "warn": Tone.WARNING, "fail": Tone.BAD}
_LABELS = {"quantization": "quant"}  # as in `cahootsctl models`; the whole word fills the column
_LOUD_LEVELS = {"WARNING": Tone.WARNING, "ERROR": Tone.BAD, "CRITICAL": Tone.BAD}


def operation_name(operation: Json) -> str:
    """Name what was asked, as on the command line: `swap-model X`."""
    params = operation.get("params") or {}
    what = params.get("model") or ("--reset" if params.get("reset") else "")
    return f"{operation.get('kind')} {what}".rstrip()


def progress_text(operation: Json) -> str:
    """Say what a running operation does at the moment."""
    progress = operation.get("progress") or {}
    return str(progress.get("text") or f"{operation_name(operation)}: {operation.get('state')}")


def took(operation: Json) -> str:
    """Say how long a finished operation took, empty when that is not known."""
    seconds = seconds_between(operation.get("started_at"), operation.get("ended_at"))
    return "" if seconds is None else f"after {duration(seconds)}"


def done_sentence(operation: Json) -> str:
    """Say what a finished operation brought."""
    result = operation.get("result") or {}
    changed = (operation.get("params") or {}).get("changed")
    if operation.get("kind") == "stop":
        said = "stopped"
    elif operation.get("kind") == "pull":
        said = f"{(operation.get('params') or {}).get('model')} is on disk"
    elif changed:
        model = result.get("model")
        is_served = f"serving {model}" if model else "no model is served"
        said = f"settings read again: {changed} changed; {is_served}"
    elif model := result.get("model"):
        at = endpoint(result)
        said = f"serving {model} at {at}" if at else f"serving {model}"
    else:
        said = f"{operation_name(operation)}: done"
    return join(said, took(operation))


def done_lines(operation: Json) -> list[Line]:
    """Say what a finished operation brought, and after a download, what to do with it."""
    lines = [Line(done_sentence(operation), Tone.GOOD)]
    model = str((operation.get("params") or {}).get("model", ""))
    if operation.get("kind") == "pull" and "@" not in model:  # a revision is a profile's matter
        lines.append(Line(f"to serve it: `cahootsctl swap-model {model}`"))
    return lines


def serving_sentence(status: Json, now: datetime) -> str:
    """Say what clients get now."""
    serving = (status.get("model") or {}).get("serving")
    if serving and status.get("state") == "ready":
        return f"serving {serving} at {endpoint(status)}"
    return f"serving nothing, {state_text(status, now)}"


def unfinished_lines(operation: Json, status: Json, now: datetime, width: int) -> list[Line]:
    """Tell why an operation failed or was aborted, what to do, and what is served now."""
    problem = operation.get("problem") or {}
    state = str(operation.get("state"))
    rows = [
        Row(state, join(operation_name(operation), took(operation)), _tone(operation)),
        *_problem_rows(problem),
        Row("now", serving_sentence(status, now)),
    ]
    return layout(rows, width)


def _problem_rows(problem: Json) -> Iterator[Row]:
    if said := problem.get("detail") or problem.get("title"):
        yield Row("  why", str(said))
    if cause := problem.get("cause"):
        yield Row("  cause", str(cause))
    yield from details(problem)


def look_rows(checks: Iterable[Json]) -> Iterator[Row]:
    """Yield a row for each check of a model, its remedy below it."""
    for check in checks:
        level, name = str(check.get("level", "")), str(check.get("name", "?"))
        mark = "" if level == "ok" else f"{level.upper()}: "
        said = mark + str(check.get("sentence", ""))
        yield Row(_LABELS.get(name, name), said, LEVELS.get(level, Tone.PLAIN))
        if remedy := check.get("remedy"):
            yield Row("", f"-> {remedy}")


def detached_lines(operation: Json) -> list[Line]:
    """Tell how to come back to an operation that goes on without us."""
    number = operation.get("id")
    return [
        Line(f"{operation_name(operation)} goes on as operation {number}"),
        Line(f"`cahootsctl operations wait {number}` waits for it"),
        Line(f"`cahootsctl operations abort {number}` ends it"),
    ]


def operation_table(operations: list[Json], now: datetime) -> list[Line]:
    """List operations, newest first, as the daemon does."""
    if not operations:
        return [Line("no operations since the daemon started")]
    return [
        Line(
            f"{operation.get('id', '?'):>4}  {operation.get('state', '?'):<8}"
            f"  {clock(operation.get('started_at'), now)}"
            f"  {join(operation_name(operation), took(operation))}",
            _tone(operation),
        )
        for operation in operations
    ]


def operation_lines(operation: Json, now: datetime, width: int) -> list[Line]:
    """Show one operation in full."""
    return layout(_operation_rows(operation, now), width)


def _operation_rows(operation: Json, now: datetime) -> Iterator[Row]:
    by = operation.get("by") or {}
    started = operation.get("started_at")
    yield Row("operation", f"{operation.get('id')}: {operation_name(operation)}")
    yield Row("state", join(str(operation.get("state")), took(operation)), _tone(operation))
    yield Row("started", f"{clock(started, now)} ({age(started, now)} ago)")
    yield Row("by", f"uid {by.get('uid')}, pid {by.get('pid')}")
    if operation.get("state") == OperationState.RUNNING:
        yield Row("progress", progress_text(operation))
    yield from look_rows(operation.get("looked") or [])
    if operation.get("result"):
        yield Row("result", done_sentence(operation))
    yield from _problem_rows(operation.get("problem") or {})


def _tone(operation: Json) -> Tone:
    return _TONES.get(str(operation.get("state")), Tone.PLAIN)


def event_line(event: str, data: Json, now: datetime) -> Line:
    """Render one event, with the time it arrived."""
    return Line(f"{now:%b %d %H:%M:%S}  {event:<10}{_event_text(event, data)}")


def _event_text(event: str, data: Json) -> str:
    match event:
        case "operation":
            is_pull = data.get("kind") == "pull" and data.get("state") == OperationState.RUNNING
            what = progress_text(data) if is_pull else operation_name(data)
            return f"{data.get('id')} {data.get('state')}: {what}"
        case "diagnosis":
            said = join(str(data.get("cause")), str(data.get("action") or ""))
            return f"{data.get('model')}: {said}: {data.get('evidence')} ({data.get('remedy')})"
        case _ if data.get("text"):
            return str(data["text"])
        case _:  # a newer daemon's
            return join(*(f"{key} {value}" for key, value in data.items() if value is not None))


def log_line(entry: Json, now: datetime) -> Line:
    """Render one log entry as the journal would."""
    generation = entry.get("generation")
    source = entry.get("source")
    who = f"{source}[{generation}]" if generation is not None else source
    tone = _LOUD_LEVELS.get(str(entry.get("level")), Tone.PLAIN)
    return Line(f"{clock(entry.get('at'), now)} {who}: {entry.get('text')}", tone)
