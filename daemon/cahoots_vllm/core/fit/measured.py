"""What an engine says of its memory while it starts: the figures that an estimate is corrected by.

Wordings of vLLM 0.10 to 0.33: gpu_model_runner.py ("Model loading took"), gpu_worker.py
("Available KV cache memory"), cpu_worker.py ("Auto set", "Explicitly set"), kv_cache_utils.py
("KV cache size").
"""

import re
from dataclasses import dataclass, replace

from cahoots_vllm.core.log_line import parse_line

_GIB = 1 << 30
_WEIGHTS = re.compile(r"Model loading took (?P<gib>[\d.]+) (?:GiB|GB)")
_FREE = re.compile(r"Available KV cache memory: (?P<gib>[\d.]+) GiB")
_CPU = re.compile(
    r"(?:Auto|Explicitly) set \((?P<gib>[\d.]+)/[\d.]+\) GiB for KV cache"
    r"(?:.*?(?P<used>[\d.]+) GiB memory was consumed)?"
)
_TOKENS = re.compile(r"KV cache size: (?P<tokens>[\d,]+) tokens")
_LENGTH = re.compile(r"Maximum concurrency for (?P<length>[\d,]+) tokens per request")


@dataclass(frozen=True, slots=True)
class Report:
    """What one start has said, bytes on one GPU; None: not said (yet).

    `used_bytes` is a CPU engine's: the weights and all else but the KV cache.
    """

    weights_bytes: int | None = None
    kv_bytes: int | None = None
    used_bytes: int | None = None
    kv_tokens: int | None = None
    max_model_len: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it says enough to be kept."""
        return self.kv_tokens is not None and self.kv_bytes is not None

    def overhead_bytes(self, budget_bytes: int) -> int | None:
        """Return what neither weights nor KV cache took of the engine's share of the memory."""
        if self.weights_bytes is None or self.kv_bytes is None:
            return None
        return max(0, budget_bytes - self.weights_bytes - self.kv_bytes)


def read_report(report: Report, text: str) -> Report:
    """Return the report after one more line of the log; of several GPUs the fullest counts."""
    message = parse_line(text).message
    if found := _WEIGHTS.search(message):
        size = _bytes(found["gib"])
        report = replace(report, weights_bytes=max(size, report.weights_bytes or 0))
    elif found := _FREE.search(message):
        size = _bytes(found["gib"])
        least = size if report.kv_bytes is None else min(size, report.kv_bytes)
        report = replace(report, kv_bytes=least)
    elif found := _CPU.search(message):
        used = _bytes(found["used"]) if found["used"] else None
        report = replace(report, kv_bytes=_bytes(found["gib"]), used_bytes=used)
    else:
        report = _sizes(report, message)
    return report


def _sizes(report: Report, message: str) -> Report:
    """Read tokens and length: one line since 0.30, two before."""
    if found := _TOKENS.search(message):
        report = replace(report, kv_tokens=_integer(found["tokens"]))
    if found := _LENGTH.search(message):
        report = replace(report, max_model_len=_integer(found["length"]))
    return report


def _bytes(gib: str) -> int:
    try:
        return round(float(gib) * _GIB)
    except ValueError:
        return 0  # "1.2.3"


def _integer(text: str) -> int:
    digits = text.replace(",", "")
    return int(digits) if digits and len(digits) < 16 else 0  # noqa: PLR2004 (no figure is longer)


@dataclass(frozen=True, slots=True)
class Seen:
    """What earlier starts of the same model, engine and GPUs have taken, for the next estimate.

    Bytes on one GPU; None: not known. `overhead_bytes` is all but weights and KV cache;
    `used_bytes` is weights and overhead together, where the engine tells only that.
    """

    weights_bytes: int | None = None
    overhead_bytes: int | None = None
    used_bytes: int | None = None


NOTHING_SEEN = Seen()


def seen_in(report: Report, budget_bytes: int) -> Seen:
    """Return what to keep of a start's report."""
    overhead = report.overhead_bytes(budget_bytes)
    return Seen(report.weights_bytes, overhead, report.used_bytes)
