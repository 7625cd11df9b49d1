"""`cahootsctl check MODEL`: whether it could be served, check by check."""

from collections.abc import Iterator
from typing import Final

from cahoots_vllm.core.wire import ExitCode
from cahoots_vllm.ctl.sentences import LEVELS, look_rows
from cahoots_vllm.ctl.text import Json, Row, Tone, layout
from cahoots_vllm.ctl.verbs import Context

PATIENCE_S: Final = 120.0  # the disk has 30 s, a silent hub 45 s, and there may be others
CHECK_OPTIONS: Final[dict[str, type]] = {
    "max-model-len": int,
    "max-num-seqs": int,
    "max-num-batched-tokens": int,
    "tensor-parallel-size": int,
    "pipeline-parallel-size": int,
    "gpu-memory-utilization": float,
    "kv-cache-dtype": str,
    "quantization": str,
    "dtype": str,
}
_OUTCOMES = {
    "ok": "can be served",
    "warn": "may be served: see what is marked",
    "fail": "cannot be served like this",
}


def model_check(ctx: Context) -> int:
    """Ask for the checks and show them; failed where one of them says that it cannot be served."""
    body: Json = {"model": ctx.args.model}
    for name in CHECK_OPTIONS:
        value = getattr(ctx.args, name.replace("-", "_"))
        if value is not None:
            body[name] = value
    ctx.console.waiting(f"looking at {ctx.args.model}: files, hub, memory")
    report = ctx.client.call("POST", "/v1/check", body, timeout_s=PATIENCE_S)
    ctx.console.result(report, layout(check_rows(report), ctx.console.width))
    return ExitCode.FAILED if report.get("level") == "fail" else ExitCode.DONE


def check_rows(report: Json) -> Iterator[Row]:
    """Yield a row for each check, its remedy below it, and the outcome."""
    model, source = str(report.get("model", "?")), str(report.get("source", ""))
    yield Row("model", model if source in ("", model) else f"{model}, from {source}")
    yield from look_rows(report.get("checks") or [])
    level = str(report.get("level", ""))
    yield Row("outcome", _OUTCOMES.get(level, level), LEVELS.get(level, Tone.PLAIN))
