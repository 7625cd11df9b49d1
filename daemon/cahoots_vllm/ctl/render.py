"""The status object as text: what a tired administrator needs at night, in about ten lines. Pure.

Fields may be missing: an older daemon has fewer of them.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime

from cahoots_vllm.core.wire import Phase
from cahoots_vllm.ctl.text import (
    Json,
    Line,
    Row,
    Tone,
    age,
    clock,
    duration,
    instant,
    join,
    layout,
    percent,
)

_GIB = 1 << 30
_TONES: dict[str, Tone] = {Phase.READY: Tone.GOOD, Phase.FAILED: Tone.BAD, Phase.BACKOFF: Tone.BAD}


def status_lines(status: Json, now: datetime, width: int) -> list[Line]:
    """Render the whole status; times are shown in the time zone of `now`."""
    return layout(_rows(status, now), width)


def _rows(status: Json, now: datetime) -> Iterator[Row]:
    state = str(status.get("state"))
    yield Row("state", state_text(status, now), _TONES.get(state, Tone.WARNING))
    yield from _model_rows(status, now)
    yield from _worker_rows(status, now)
    yield from _sleeper_rows(status.get("asleep") or (), now)
    if beside := status.get("beside"):
        yield _beside_row(beside, now)
    yield Row("endpoint", endpoint(status))
    yield Row("requests", _requests(status.get("requests") or {}))
    if waiting := status.get("waiting_for"):
        yield from _waiting_rows(waiting)
    wanted, failure = status.get("wanted"), status.get("last_failure")
    is_told = bool(wanted and failure and wanted.get("at") == failure.get("at"))
    if failure and not is_told:
        yield from _failure_rows(failure, now, _model(status))
    if error := (status.get("config") or {}).get("error"):
        yield Row("config", f"not applied, the last good settings stay: {error}", Tone.BAD)
    for gpu in status.get("gpus") or ():
        yield Row(f"gpu {gpu.get('index')}", _gpu(gpu))
    for finding in status.get("findings") or ():
        yield Row("slow", str(finding.get("sentence")), Tone.WARNING)
        if remedy := finding.get("remedy"):
            yield Row("  remedy", str(remedy))
    for warning in status.get("warnings") or ():
        yield Row("warning", str(warning), Tone.WARNING)


def state_text(status: Json, now: datetime) -> str:
    """Say the phase and what it waits for: `starting: loading weights 50 %`."""
    state = str(status.get("state"))
    worker = status.get("worker") or {}
    match state:
        case Phase.OFF:
            return f"off: {_why_off(status)}"
        case Phase.BACKOFF:
            at = instant(status.get("retry_at"))
            wait = f" in {duration((at - now).total_seconds())}" if at else ""
            if status.get("waiting_for"):
                return "backoff: waits for memory, looks again every few seconds"
            return f"backoff: tries again{wait}"
        case Phase.FAILED:
            return "failed: waits for a change; `cahootsctl start` tries at once"
        case _:
            return f"{state}{_progress(worker)}"


def _progress(worker: Json) -> str:
    sub_phase = worker.get("sub_phase")
    return f": {sub_phase}{percent(worker.get('progress'))}" if sub_phase else ""


def _why_off(status: Json) -> str:
    if idle := status.get("idle"):
        seconds = duration(float(idle.get("after_s", 0)))
        return f"unloaded after {seconds} without requests; the next request brings it back"
    provider = status.get("provider")
    if provider not in {None, "local"}:
        return f"LLM_PROVIDER is {provider}, so no worker is wanted"
    return "stopped by hand, `cahootsctl start` starts it"


def _model_rows(status: Json, now: datetime) -> Iterator[Row]:
    model = status.get("model") or {}
    configured, override, demanded = (
        model.get(key) for key in ("configured", "override", "demanded")
    )
    profile = f"profile {model['profile']}" if model.get("profile") else ""
    home = override or configured
    wanted = demanded or home
    shown = _model(status) or wanted
    other = f"configured as {wanted}" if wanted == configured else f"{wanted} is wanted"
    yield Row(
        "model",
        join(str(shown or "none configured"), profile, other if shown != wanted else ""),
    )
    if demanded:
        yield Row("on demand", f"asked for by requests, instead of {home}; they can have it back")
    if override:
        instead = f"set by swap-model, instead of {configured}"
        yield Row("override", f"{instead}; `cahootsctl swap-model --reset` ends it", Tone.WARNING)
    if wanted := status.get("wanted"):
        when = clock(wanted.get("at"), now)
        text = f"{wanted.get('model')} did not start at {when}: {wanted.get('cause')}"
        yield Row("wanted", text, Tone.BAD)
        yield from details(wanted)


def _model(status: Json) -> str | None:
    """Return the worker's own model, or the one that is to be started; None: not known."""
    model, worker = status.get("model") or {}, status.get("worker") or {}
    found = worker.get("model") or model.get("serving") or model.get("goal")
    return str(found) if found else None


def _worker_rows(status: Json, now: datetime) -> Iterator[Row]:
    engine = status.get("engine") or {}
    worker = status.get("worker")
    if not worker:
        yield Row("worker", "none")
        yield from _adapted_rows(status.get("adapted") or (), now)
        return
    since = worker.get("since")
    yield Row(
        "worker",
        join(
            f"pid {worker['pid']}" if worker.get("pid") is not None else "",
            f"generation {worker.get('generation')}",
            f"{worker.get('phase')} since {clock(since, now)} ({age(since, now)})",
            f"restarts {worker.get('restarts', 0)}",
        ),
    )
    context = worker.get("max_model_len")
    utilization = worker.get("gpu_memory_utilization")
    version = worker.get("engine_version") or engine.get("version") or "of unknown version"
    yield Row(
        "engine",
        join(
            f"vLLM {version}{' on CPU' if engine.get('cpu') else ''}",
            f"context {context} tokens" if context else "",
            # On CPU it is a share of the host's, told below where it was changed.
            f"GPU memory {utilization}" if utilization and not engine.get("cpu") else "",
        ),
    )
    yield from _adapted_rows(worker.get("adapted") or (), now)
    yield from _standby_rows(status.get("standby") or {})


def _sleeper_rows(sleepers: Iterable[Json], now: datetime) -> Iterator[Row]:
    for sleeper in sleepers:
        since, held = sleeper.get("since"), int(sleeper.get("host_memory") or 0) / _GIB
        said = f"{sleeper.get('model')}, since {clock(since, now)} ({age(since, now)})"
        yield Row("asleep", join(said, f"{held:.1f} GiB of host memory"))


def _beside_row(beside: Json, now: datetime) -> Row:
    """Say what becomes of the second worker of an overlap, the newcomer or the old one."""
    pid = beside.get("pid")
    return Row(
        "beside",
        join(
            f"{beside.get('model')} is {beside.get('phase')}{_progress(beside)}",
            f"pid {pid}" if pid is not None else "",
            f"generation {beside.get('generation')}",
            f"for {age(beside.get('since'), now)}",
        ),
    )


def _standby_rows(standby: Json) -> Iterator[Row]:
    """Say what the next start can count on; nothing where none is asked for."""
    match standby.get("state"):
        case "warm":
            memory = int(standby.get("private_memory") or 0)
            how = "" if standby.get("forks") else f"starts slower: {standby.get('why_not_fork')}"
            held = f"{memory / (1 << 20):.0f} MiB" if memory else ""
            yield Row(
                "standby", join(f"warm for the next start, pid {standby.get('pid')}", held, how)
            )
        case "warming":
            yield Row("standby", "warming up for the next start")
        case "none" if standby.get("why"):
            yield Row("standby", f"none: {standby.get('why')}")
        case _:
            return


def _adapted_rows(adaptations: Iterable[Json], now: datetime) -> Iterator[Row]:
    for adapted in adaptations:
        asked, used = adapted.get("asked"), adapted.get("used")
        why = f"since {clock(adapted.get('at'), now)}, {adapted.get('cause')}"
        yield Row("  adapted", f"{adapted.get('option')} is {used}, asked for was {asked}; {why}")


def _waiting_rows(waiting: Json) -> Iterator[Row]:
    free, wanted = (waiting.get(key, 0) / _GIB for key in ("memory_free", "memory_wanted"))
    text = f"for {wanted:.1f} GiB on {waiting.get('device')}, where {free:.1f} GiB are free"
    yield Row("waits", text, Tone.WARNING)
    for holder in waiting.get("holders") or ():
        used = holder.get("memory_used")
        size = f", {used >> 20} MiB" if isinstance(used, int) else ""
        said = f"{holder.get('command')} (pid {holder.get('pid')}, user {holder.get('user')}{size})"
        yield Row("  held by", said)


def endpoint(document: Json) -> str:
    """Return the URL clients use, of a status or of an operation's result."""
    urls = document.get("endpoint") or []
    return ", ".join(map(str, urls)) if isinstance(urls, list) else str(urls)


def _requests(requests: Json) -> str:
    return join(*(f"{requests.get(key, 0)} {key}" for key in ("running", "waiting", "held")))


def _failure_rows(failure: Json, now: datetime, shown: str | None) -> Iterator[Row]:
    """Say what failed last; with its model, where that is not the one that is shown above."""
    at, model = failure.get("at"), failure.get("model")
    whose = f"{model}: " if model and model != shown else ""
    text = f"{whose}{failure.get('cause')} at {clock(at, now)} ({age(at, now)} ago)"
    action = failure.get("action")
    said = f"{text}, then: {action}" if action else text
    if failure.get("is_over"):
        yield Row("failure", f"{said}; it is over")
        yield Row("  evidence", str(failure.get("evidence")))
        return
    yield Row("failure", said, Tone.WARNING)
    yield from details(failure)


def details(diagnosis: Json) -> Iterator[Row]:
    """Give a diagnosis' evidence and remedy, where it has them."""
    for label in ("evidence", "remedy"):
        if text := diagnosis.get(label):
            yield Row(f"  {label}", str(text))


def _gpu(gpu: Json) -> str:
    used, total = (
        f"{gpu[key] / _GIB:.1f}" if gpu.get(key) is not None else "?"
        for key in ("memory_used", "memory_total")
    )
    busy, celsius = gpu.get("utilization"), gpu.get("temperature")
    return join(
        str(gpu.get("name")),
        f"{used} of {total} GiB used",
        f"{busy} % busy" if busy is not None else "",
        f"{celsius} °C" if celsius is not None else "",
    )
