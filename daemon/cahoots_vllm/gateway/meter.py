"""Measures an answer as it passes, into its record: when it began, how much, how many tokens."""

import asyncio

from cahoots_vllm.gateway.record import Record


class Meter:
    """Fed with every part of an answer; cheap, for there are tens of thousands a second."""

    def __init__(self, record: Record) -> None:
        """`record` is filled."""
        self._record = record
        self._time = asyncio.get_running_loop().time

    def passed(self, data: bytes, *, is_stream: bool = False) -> None:
        """Count a part of the answer; of a stream whole events."""
        record = self._record
        record.last_byte_at = self._time()
        if record.first_byte_at is None:
            record.first_byte_at = record.last_byte_at
        record.bytes_out += len(data)
        if is_stream:
            record.events += data.count(b"\n\n")
