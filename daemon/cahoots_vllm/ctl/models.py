"""The verbs about models on disk: models, pull, rm, prune."""

from collections.abc import Iterator
from datetime import datetime

from cahoots_vllm.core.transfer import size_text
from cahoots_vllm.core.wire import ExitCode, OperationState
from cahoots_vllm.ctl.follow import follow_operation, local_now
from cahoots_vllm.ctl.text import Json, Line, Tone, age, quote
from cahoots_vllm.ctl.verbs import Context

_HEAD = ["MODEL", "REVISION", "SIZE", "QUANT", "CONTEXT", "USED", ""]
_SLOW_S = 90.0  # a disk that is busy; the daemon itself gives up after 60 s


def models(ctx: Context) -> int:
    """Show what is on disk."""
    document = ctx.client.call("GET", "/v1/models", timeout_s=_SLOW_S)
    ctx.console.result(document, model_table(document.get("models") or [], local_now()))
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
    document = ctx.client.call("DELETE", path, timeout_s=_SLOW_S)
    freed = size_text(document.get("freed_bytes") or 0)
    ctx.console.result(document, [Line(f"{document.get('removed')} removed, {freed} are free")])
    return ExitCode.DONE


def prune(ctx: Context) -> int:
    """Delete what nothing refers to, or just show it."""
    dry = ctx.args.dry_run
    path = f"/v1/models/prune?dry_run={int(dry)}"
    document = ctx.client.call("POST", path, {}, timeout_s=_SLOW_S)
    found = document.get("pruned") or []
    lines = [Line(f"{_size(one):>10}  {one.get('repo')}: {one.get('what')}") for one in found]
    total = size_text(sum(int(one.get("size_bytes") or 0) for one in found))
    lines.append(Line(_summary(len(found), total, is_dry=dry), Tone.GOOD))
    ctx.console.result(document, lines)
    return ExitCode.DONE


def model_table(rows: list[Json], now: datetime) -> list[Line]:
    """List what is on disk, one line each."""
    if not rows:
        return [Line("no model is on disk; get one: cahootsctl pull ORG/NAME")]
    table = [_HEAD, *(list(_cells(row, now)) for row in rows)]
    widths = [max(len(cells[i]) for cells in table) for i in range(len(_HEAD))]
    tones = [Tone.PLAIN, *(_tone(row) for row in rows)]
    return [
        Line("  ".join(map(str.ljust, cells, widths)).rstrip(), tone)
        for cells, tone in zip(table, tones, strict=True)
    ]


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
    yield f"{age(used, now)} ago" if used else "-"
    yield _state(row)


def _state(row: Json) -> str:
    if row.get("is_serving"):
        return "serving"
    if row.get("is_downloading"):
        return "downloading"
    if row.get("revision") is None and row.get("path"):
        return f"in {row.get('path')}" if row.get("is_whole") else f"not whole: {row.get('path')}"
    if not row.get("is_whole"):
        return "not whole: cahootsctl pull goes on with it, prune deletes it"
    return "" if row.get("refs") else "an older revision"


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
    return f"{total} would be free" if is_dry else f"{total} are free"


def _split(text: str) -> tuple[str, str | None]:
    model, _, revision = text.partition("@")
    return model, revision or None
