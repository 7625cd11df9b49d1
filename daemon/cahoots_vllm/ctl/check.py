"""`cahootsctl check MODEL`: whether it could be served, check by check."""

from collections.abc import Iterator
from typing import Final

from cahoots_vllm.core.wire import ExitCode
from cahoots_vllm.ctl.text import Json, Row, Tone, layout
from cahoots_vllm.ctl.verbs import Context

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
_TONES = {"ok": Tone.GOOD, "warn": Tone.WARNING, "fail": Tone.BAD}
_OUTCOMES = {
    "ok": "can be served",
    "warn": "may be served: see what is marked",
    "fail": "cannot be served like this",
}


_LABELS = {"quantization": "quant"}  # as in `cahootsctl models`; the whole word fills the column


def model_check(ctx: Context) -> int:
    """Ask for the checks and show them; failed where one of them says that it cannot be served."""
    body: Json = {"model": ctx.args.model}
    for name in CHECK_OPTIONS:
        value = getattr(ctx.args, name.replace("-", "_"))
        if value is not None:
            body[name] = value
    report = ctx.client.call("POST", "/v1/check", body)
    ctx.console.result(report, layout(check_rows(report), ctx.console.width))
    return ExitCode.FAILED if report.get("level") == "fail" else ExitCode.DONE


def check_rows(report: Json) -> Iterator[Row]:
    """Yield a row for each check, its remedy below it, and the outcome."""
    model, source = str(report.get("model", "?")), str(report.get("source", ""))
    yield Row("model", model if source in ("", model) else f"{model}, from {source}")
    for check in report.get("checks") or []:
        level = str(check.get("level", ""))
        name = str(check.get("name", "?"))
        name = _LABELS.get(name, name)
        sentence = str(check.get("sentence", ""))
        mark = "" if level == "ok" else f"{level.upper()}: "
        yield Row(name, mark + sentence, _TONES.get(level, Tone.PLAIN))
        if remedy := check.get("remedy"):
            yield Row("", f"-> {remedy}")
    level = str(report.get("level", ""))
    yield Row("outcome", _OUTCOMES.get(level, level), _TONES.get(level, Tone.PLAIN))
