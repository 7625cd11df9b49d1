"""The options that decide how much memory a start takes, as exact numbers.

The share (`gpu-memory-utilization`) is kept in thousandths: equal means equal, and a bracket ends.
"""

import math
import re
from dataclasses import dataclass
from typing import Final

from cahoots_vllm.core.launch import LaunchSpec, OptionValue

SHARE: Final = "gpu-memory-utilization"
CONTEXT: Final = "max-model-len"
BATCH: Final = "max-num-batched-tokens"
SEQS: Final = "max-num-seqs"
KV_BYTES: Final = "kv-cache-memory-bytes"
SIZE_OPTIONS = frozenset({SHARE, CONTEXT, BATCH, SEQS, KV_BYTES})

# vLLM's own default where nothing is set (vllm/config/cache.py:102; 0.9 up to 0.15).
_DEFAULT_SHARE = 920
_UNIT = 1000
_AUTO = -1  # --max-model-len auto: the engine fits it itself
# vllm/utils/argparse_utils.py:29, human_readable_int: "k" is 1000, "K" is 1024.
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)([kKmMgGtT])\s*")
_FACTORS = {
    "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
    "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sizes:
    """`share` in thousandths, lengths in tokens; None: not set, so vLLM's own default.

    With `kv_bytes` the engine sizes the KV cache by it and ignores the share.
    """

    share: int
    max_model_len: int | None = None
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    kv_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One option, what it was and what it becomes; None: not set."""

    option: str
    before: OptionValue | None
    after: OptionValue | None

    def __str__(self) -> str:
        """Say it as a person would."""
        before = "the default" if self.before is None else self.before
        after = "the default" if self.after is None else self.after
        return f"{self.option} from {before} to {after}"


def read_sizes(spec: LaunchSpec) -> Sizes:
    """Return the sizes a launch spec asks for; what vLLM will refuse counts as not set."""
    share = _number(spec.option(SHARE))
    length = read_integer(spec.option(CONTEXT))
    return Sizes(
        share=round(share * _UNIT) if share is not None and 0 < share <= 1 else _DEFAULT_SHARE,
        max_model_len=None if length is None or length <= _AUTO else length,
        max_num_batched_tokens=read_integer(spec.option(BATCH)),
        max_num_seqs=read_integer(spec.option(SEQS)),
        kv_bytes=read_integer(spec.option(KV_BYTES)),
    )


def read_integer(value: OptionValue | None) -> int | None:
    """Return an option's whole number, None where it is not set or is none ("auto")."""
    number = _number(value)
    return None if number is None else int(number)


def _number(value: OptionValue | None) -> float | None:
    if isinstance(value, str):
        value = _parsed(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    # A comparison, since math.isfinite refuses whole numbers beyond a float.
    return value if -math.inf < value < math.inf else None


def _parsed(text: str) -> float | None:
    match = _NUMBER.fullmatch(text)
    try:
        return float(match[1]) * _FACTORS[match[2]] if match else float(text)
    except ValueError:
        return None


def apply_sizes(spec: LaunchSpec, sizes: Sizes) -> LaunchSpec:
    """Return the spec with these sizes; what it had already is left as it was written."""
    for change in changes_between(read_sizes(spec), sizes):
        if change.after is None:
            spec = spec.without_option(change.option)
        else:
            spec = spec.with_option(change.option, change.after)
    return spec


def changes_between(before: Sizes, after: Sizes) -> tuple[Change, ...]:
    """Return what differs, as options."""
    pairs = (
        Change(SHARE, before.share / _UNIT, after.share / _UNIT),
        Change(CONTEXT, before.max_model_len, after.max_model_len),
        Change(BATCH, before.max_num_batched_tokens, after.max_num_batched_tokens),
        Change(SEQS, before.max_num_seqs, after.max_num_seqs),
        Change(KV_BYTES, before.kv_bytes, after.kv_bytes),
    )
    return tuple(pair for pair in pairs if pair.before != pair.after)
