"""Measures an answer as it passes, into its record: when it began, how much, how many tokens."""

import asyncio
import json
from typing import Final

from cahoots_vllm.gateway.record import Gaps, Record, Usage

_USAGE: Final = b'"usage"'
# OpenAI's names, and those of the responses and messages APIs.
_IN: Final = ("prompt_tokens", "input_tokens")
_OUT: Final = ("completion_tokens", "output_tokens")


class Meter:
    """Fed with every part of an answer; cheap, for there are tens of thousands a second."""

    def __init__(self, record: Record) -> None:
        """`record` is filled."""
        self._record = record
        self._time = asyncio.get_running_loop().time
        self._said: bytes = b""

    def passed(self, data: bytes, *, is_stream: bool = False) -> None:
        """Count a part of the answer; of a stream whole events."""
        record, now = self._record, self._time()
        if is_stream:
            events = data.count(b"\n\n")
            if record.last_byte_at is not None and events:
                record.gaps = record.gaps or Gaps()
                record.gaps.count(now - record.last_byte_at, events)
            record.events += events
        if record.first_byte_at is None:
            record.first_byte_at = now
        record.last_byte_at = now
        record.bytes_out += len(data)
        if _USAGE in data:
            self._said = data

    def close(self) -> None:
        """Read what the engine said of tokens, at the answer's end."""
        if self._said:
            self._record.usage = find_usage(self._said)


def find_usage(data: bytes) -> Usage | None:
    """Return the last usage in there: the engine counts on, and says the sum at the end."""
    place = data.rfind(_USAGE)
    while place >= 0:
        begin = data.find(b"{", place)
        if begin >= 0 and data[place + len(_USAGE) : begin].strip() == b":":
            usage = _read(data[begin : begin + 4096].decode(errors="replace"))
            if usage is not None:
                return usage
        place = data.rfind(_USAGE, 0, place)
    return None


def _read(text: str) -> Usage | None:
    try:
        found, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    counts = [next((found[n] for n in names if n in found), 0) for names in (_IN, _OUT)]
    if not all(isinstance(count, int) for count in counts):
        return None
    return Usage(prompt_tokens=counts[0], completion_tokens=counts[1])
