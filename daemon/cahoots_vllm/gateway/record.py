"""What became of one request: for metrics and the log."""

from dataclasses import dataclass
from enum import StrEnum


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
    usage: Usage | None = None
    # In flight in two deaths of the engine.
    is_suspect: bool = False
