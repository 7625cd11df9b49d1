"""Server-sent events as the engine sends them: cut at their ends, and read where one is no answer.

A dying vLLM ends its streams cleanly, status 200 and `[DONE]` included: with an error event, or
with the finish reason "abort" (VLLM.md, 0 and 3). Neither may pass for an answer.
"""

import json
import re
from enum import Enum, auto
from typing import Final

EVENT_END: Final = b"\n\n"
# An event that has no end within this is passed on as it comes.
_MAX_EVENT_BYTES: Final = 1024 * 1024
# Quotes within a text are escaped in JSON, so these are names and values, never words of an answer.
_MARKS: Final = (b'"error"', b'"abort"', b'"message_delta"')
_ABORTED: Final = re.compile(rb'"finish_reason":\s*"abort"')
# Anthropic's API has no word for it: vLLM leaves the reason out (anthropic/serving.py, 0.33).
_MESSAGE: Final = re.compile(rb'^\{"id":\s*"[^"]*",\s*"type":\s*"message"')
_REASON: Final = b'"stop_reason":'


class EventCutter:
    """Turns what comes from the socket into whole events."""

    def __init__(self) -> None:
        """Nothing has come."""
        self._rest = b""

    def take(self, chunk: bytes) -> bytes:
        """Return the whole events there are by now, back to back; keep what is none yet."""
        if not self._rest and chunk.endswith(EVENT_END):
            return chunk
        data = self._rest + chunk
        end = data.rfind(EVENT_END) + len(EVENT_END)
        if end < len(EVENT_END):
            end = len(data) if len(data) > _MAX_EVENT_BYTES else 0
        self._rest = data[end:]
        return data[:end]

    @property
    def rest(self) -> bytes:
        """What is left at the end of the stream."""
        return self._rest


class Sign(Enum):
    """What an event says of the engine."""

    ABORTED = auto()  # an answer that was given up; it looks finished
    ERROR = auto()  # the engine's own error event, or an end without a reason


def is_suspicious(events: bytes) -> bool:
    """Whether it is worth reading them. For every chunk of every stream, so it is cheap."""
    return _MARKS[0] in events or _MARKS[1] in events or _MARKS[2] in events


def is_comment(events: bytes) -> bool:
    """Whether nothing in there is an event: signs of life of the engine itself."""
    return all(line.startswith(b":") for line in events.split(b"\n") if line)


def find_sign(events: bytes) -> tuple[int, Sign] | None:
    """Return where the first event begins that is no answer, and what it is."""
    begin = 0
    while begin < len(events):
        end = events.find(EVENT_END, begin)
        end = len(events) if end < 0 else end + len(EVENT_END)
        event = events[begin:end]
        if is_suspicious(event) and (sign := _read(event)) is not None:
            return begin, sign
        begin = end
    return None


def _read(event: bytes) -> Sign | None:
    lines = event.split(b"\n")
    data = b"\n".join(line[5:] for line in lines if line.startswith(b"data:"))
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(parsed, dict):
        return None
    if parsed.get("error") or parsed.get("type") == "error":
        return Sign.ERROR
    delta = parsed.get("delta")
    if parsed.get("type") == "message_delta" and isinstance(delta, dict):
        return Sign.ERROR if delta.get("stop_reason") is None else None
    choices = parsed.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("finish_reason") == "abort":
            return Sign.ABORTED
    return None


def is_aborted(body: bytes) -> bool:
    """Whether an answer that is not a stream was given up by the engine."""
    is_reasonless = _MESSAGE.match(body) is not None and _REASON not in body
    return is_reasonless or has_abort(body)


def has_abort(data: bytes) -> bool:
    """Whether a part of such an answer says so."""
    return _ABORTED.search(data) is not None
