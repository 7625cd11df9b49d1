"""What the daemon has learned about memory, as text. Pure."""

from collections.abc import Iterator
from datetime import datetime

from cahoots_vllm.ctl.text import Json, Row, Tone, clock

_STEPS = 5


def memory_rows(lessons: list[Json], now: datetime) -> Iterator[Row]:
    """Show each lesson: what it is about, what differs from what was asked for, and why."""
    if not lessons:
        yield Row("memory", "nothing learned yet: each model starts with what is asked for")
        return
    for lesson in reversed(lessons):
        yield from _lesson_rows(lesson, now)


def _lesson_rows(lesson: Json, now: datetime) -> Iterator[Row]:
    on = ", ".join(lesson.get("devices") or ()) or "no GPU"
    yield Row("model", f"{lesson.get('model')} with vLLM {lesson.get('engine')} on {on}")
    adapted = lesson.get("adapted") or []
    said = "; ".join(change_text(change) for change in adapted)
    is_fine = bool(lesson.get("has_worked"))
    state = "worked" if is_fine else "not ready with these yet"
    yield Row("  sizes", f"{said or 'as asked for'} ({state})", Tone.PLAIN if is_fine else Tone.BAD)
    for step in (lesson.get("steps") or [])[-_STEPS:]:
        changes = "; ".join(change_text(change) for change in step.get("changed") or ())
        at, cause = clock(step.get("at"), now), step.get("cause")
        yield Row("  changed", f"{at}, {cause}: {changes}")
        yield Row("", str(step.get("reason")))
    for attempt in (lesson.get("failed") or [])[-_STEPS:]:
        sizes = ", ".join(f"{name} {value}" for name, value in attempt.get("sizes", {}).items())
        yield Row("  fails", f"{sizes}: {attempt.get('problem')}")


def change_text(change: Json) -> str:
    """Say one change: `max-model-len from 32768 to 16384`."""
    before, after = (_said(change.get(key)) for key in ("before", "after"))
    return f"{change.get('option')} from {before} to {after}"


def _said(value: object) -> str:
    return "the default" if value is None else str(value)
