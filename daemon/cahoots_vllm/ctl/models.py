"""The verbs about models on disk: models, pull, rm, prune."""

from collections.abc import Iterator
from datetime import datetime

from cahoots_vllm.core.amounts import size_text
from cahoots_vllm.core.wire import ExitCode, OperationState
from cahoots_vllm.ctl.follow import follow_operation, local_now
from cahoots_vllm.ctl.text import Json, Line, Row, Tone, age, layout, quote, wrap
from cahoots_vllm.ctl.verbs import Context

_HEAD = ["MODEL", "REVISION", "SIZE", "QUANT", "CONTEXT", "USED", ""]
_NOT_WHOLE = "not whole"
_SLOW_S = 90.0  # a disk that is busy; the daemon itself gives up after 60 s


def models(ctx: Context) -> int:
    """Show what is on disk."""
    ctx.console.waiting("looking at the disk")
    document = ctx.client.call("GET", "/v1/models", timeout_s=_SLOW_S)
    rows = document.get("models") or []
    ctx.console.result(document, model_table(rows, local_now(), ctx.console.width))
    return ExitCode.DONE


def pull(ctx: Context) -> int:
    """Download a model; Ctrl-C leaves the download running."""
    model, revision = _split(ctx.args.model)
    body: Json = {"model": model, "revision": revision} if revision else {"model": model}
    operation = ctx.client.call("POST", "/v1/models/pull", body)
    if ctx.args.no_wait:
        ctx.console.result(operation, [Line(str(operation.get("id")))])
        return ExitCode.DONE
    return follow_operation(ctx.client, ctx.console, operation, wanted=OperationState.DONE)


def remove(ctx: Context) -> int:
    """Delete a model from disk."""
    model, revision = _split(ctx.args.model)
    path = f"/v1/models/{quote(model.replace('/', '--'))}"
    path += f"?rev={quote(revision)}" if revision else ""
    ctx.console.waiting(f"deleting {ctx.args.model}")
    document = ctx.client.call("DELETE", path, timeout_s=_SLOW_S)
    freed = size_text(document.get("freed_bytes") or 0)
    ctx.console.result(
        document, [Line(f"{document.get('removed')} removed, {freed} more are free")]
    )
    return ExitCode.DONE


def prune(ctx: Context) -> int:
    """Delete what nothing refers to, or just show it."""
    dry = ctx.args.dry_run
    ctx.console.waiting("looking at the disk")
    path = f"/v1/models/prune?dry_run={int(dry)}"
    document = ctx.client.call("POST", path, {}, timeout_s=_SLOW_S)
    found = document.get("pruned") or []
    rows = (Row(f"{_size(one):>10}", f"{one.get('repo')}: {one.get('what')}") for one in found)
    lines = layout(rows, ctx.console.width)
    total = size_text(sum(int(one.get("size_bytes") or 0) for one in found))
    lines.append(Line(_summary(len(found), total, is_dry=dry), Tone.GOOD))
    ctx.console.result(document, lines)
    return ExitCode.DONE


def model_table(rows: list[Json], now: datetime, width: int) -> list[Line]:
    """List what is on disk: one line each, or two where a line has no room for it."""
    if not rows:
        return [Line("no model is on disk; get one: `cahootsctl pull ORG/NAME`")]
    table = [_HEAD, *(list(_cells(row, now)) for row in rows)]
    widths = [max(len(cells[i]) for cells in table) for i in range(len(_HEAD))]
    lines = []
    if sum(widths) + 2 * len(_HEAD[1:]) <= width:
        lines.append(Line("  ".join(map(str.ljust, _HEAD, widths)).rstrip()))
        for row, cells in zip(rows, table[1:], strict=True):
            lines.append(Line("  ".join(map(str.ljust, cells, widths)).rstrip(), _tone(row)))
            lines += [Line(f"  {text}") for text in _place(row)]
    else:
        for row, cells in zip(rows, table[1:], strict=True):
            lines.append(Line(cells[0], _tone(row)))
            said = wrap(", ".join(_parts(row, cells)), width - 2)
            lines += [Line(f"  {text}") for text in (*said, *_place(row))]
    if any(_state(row) == _NOT_WHOLE and row.get("revision") is None for row in rows):
        hint = "not whole: `cahootsctl pull` goes on with it, `cahootsctl prune` deletes it"
        lines += [Line(""), *(Line(text) for text in wrap(hint, width))]
    return lines


def _cells(row: Json, now: datetime) -> Iterator[str]:
    yield str(row.get("repo"))
    yield str(row.get("revision") or "-")[:8]
    total = row.get("total_bytes")
    done = int(row.get("size_bytes") or 0)
    yield f"{done / total:.0%} of {size_text(total)}" if total else size_text(done)
    yield str(row.get("quantization") or "-")
    length = row.get("context_length")
    yield f"{length:,}" if isinstance(length, int) else "-"
    used = row.get("last_used")
    yield "now" if row.get("is_serving") else f"{age(used, now)} ago" if used else "-"
    yield _state(row)


def _parts(row: Json, cells: list[str]) -> Iterator[str]:
    """Yield what a row's cells say, in words; what they do not say is left out."""
    _, revision, size, quantization, context, used, state = cells
    for text in (state, size, quantization):
        if text not in ("", "-"):
            yield text
    if context != "-":
        yield f"{context} tokens"
    if used not in ("-", "now"):
        yield f"used {used}"
    if row.get("revision"):
        yield f"revision {revision}"


def _state(row: Json) -> str:
    if row.get("is_serving"):
        return "serving"
    if row.get("is_downloading"):
        return "downloading"
    if not row.get("is_whole"):
        return _NOT_WHOLE
    is_of_the_hub = row.get("revision") is not None
    return "an older revision" if is_of_the_hub and not row.get("refs") else ""


def _place(row: Json) -> list[str]:
    """Return where a directory of the user's is."""
    return [f"in {row['path']}"] if row.get("revision") is None and row.get("path") else []


def _tone(row: Json) -> Tone:
    if row.get("is_serving"):
        return Tone.GOOD
    is_fine = row.get("is_whole") or row.get("is_downloading")
    return Tone.PLAIN if is_fine else Tone.WARNING


def _size(one: Json) -> str:
    return size_text(int(one.get("size_bytes") or 0))


def _summary(count: int, total: str, *, is_dry: bool) -> str:
    if not count:
        return "nothing to prune"
    return f"{total} more would be free" if is_dry else f"{total} more are free"


def _split(text: str) -> tuple[str, str | None]:
    model, _, revision = text.partition("@")
    return model, revision or None
