"""What became of one request: for metrics and the log."""

from bisect import bisect_left
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

# vllm/v1/metrics/loggers.py: the engine's own for the time between two tokens.
GAP_BOUNDS_S: Final = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
)  # fmt: skip


class End(StrEnum):
    """How a request ended."""

    ANSWERED = "answered"  # by the engine, whatever its status
    REFUSED = "refused"  # by the gateway, before an answer began
    BROKEN = "broken"  # its worker was lost in the middle of the answer
    LEFT = "left"  # the client hung up


@dataclass(slots=True)
class Usage:
    """Tokens, as the engine counted them."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(slots=True)
class Gaps:
    """Times between two events of streams, counted by GAP_BOUNDS_S and beyond them."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(GAP_BOUNDS_S) + 1))
    sum_s: float = 0.0

    def count(self, seconds: float, times: int) -> None:
        """Count so many gaps that took so long together."""
        self.counts[bisect_left(GAP_BOUNDS_S, seconds / times)] += times
        self.sum_s += seconds

    def add(self, other: "Gaps") -> None:
        """Add those of another."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum_s += other.sum_s


@dataclass(slots=True)
class Record:
    """Filled while the request goes its way; times are the loop's seconds."""

    id: str
    method: str
    route: str
    begun_at: float
    model: str | None = None
    status: int = 0
    end: End = End.ANSWERED
    problem: str | None = None
    held_s: float = 0.0
    # 1: not replayed. 0: it never reached a worker.
    deliveries: int = 0
    first_byte_at: float | None = None
    last_byte_at: float | None = None
    bytes_out: int = 0
    # Server-sent events of the answer, 0 where it is none of those.
    events: int = 0
    gaps: Gaps | None = None
    usage: Usage | None = None
    # In flight in two deaths of the engine.
    is_suspect: bool = False
