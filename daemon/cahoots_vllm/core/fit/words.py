"""The verdict in sentences: what is needed, of what, and what to do where it does not fit."""

from cahoots_vllm.core.amounts import size_text
from cahoots_vllm.core.fit.estimate import Fit, Verdict


def sentence(fit: Fit) -> str:
    """Say it as "19.3 GiB weights + 8.0 GiB KV for 32,768 tokens of 28.8 GiB: fits"."""
    need = fit.need
    parts = [f"{size_text(need.weights_bytes)} weights"]
    if need.kv is not None and need.tokens:
        parts.append(f"{size_text(need.kv.needed(need.tokens))} KV for {need.tokens:,} tokens")
    parts.append(f"{size_text(need.overhead_bytes)} overhead")
    on_each = " on each GPU" if fit.gpus > 1 else ""
    return (
        f"{' + '.join(parts)} of {size_text(fit.budget_bytes)}{on_each}: {_outcome(fit)}{_how(fit)}"
    )


def _outcome(fit: Fit) -> str:
    match fit.verdict:
        case Verdict.FITS:
            return f"fits; {fit.longest or 0:,} tokens at most"
        case Verdict.SHORTER:
            return f"does not fit; {fit.longest or 0:,} tokens at most would"
        case Verdict.TOO_LARGE:
            return "does not fit, not even with a short context"
        case Verdict.IMPOSSIBLE:
            return "cannot fit: the weights alone are larger than the memory there is"
        case Verdict.UNKNOWN:
            why = fit.need.kv_unknown or "part of it is kept elsewhere, or its context is not said"
            return f"whether it fits cannot be told: {why}"


def _how(fit: Fit) -> str:
    if fit.need.is_measured:
        return " (measured at an earlier start)"
    return f" (estimated from {fit.need.weights.source})"


def remedy(fit: Fit, *, is_cpu: bool) -> str:
    """Return what to change, "" where nothing has to be."""
    larger = "a host with more memory" if is_cpu else "more GPUs (tensor-parallel-size)"
    match fit.verdict:
        case Verdict.SHORTER:
            lower = max(1, (fit.longest or 0) // 1024 * 1024 or (fit.longest or 1))
            return f"set max-model-len to {lower}, or kv-cache-dtype to fp8"
        case Verdict.TOO_LARGE if fit.need.weights_bytes + fit.need.overhead_bytes < _whole(fit):
            return (
                f"raise gpu-memory-utilization, or take a quantized or smaller model, or {larger}"
            )
        case Verdict.TOO_LARGE | Verdict.IMPOSSIBLE:
            return f"take a quantized or smaller model, or {larger}"
        case Verdict.FITS | Verdict.UNKNOWN:
            return ""


def _whole(fit: Fit) -> int:
    """Return the memory at the highest share that is of use."""
    return round(max(fit.budget_bytes, fit.total_bytes * 0.95))
