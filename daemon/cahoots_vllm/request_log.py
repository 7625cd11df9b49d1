"""One line for each request that clients made, with its id: what became of it."""

import asyncio
import logging
from collections.abc import Iterator

from cahoots_vllm.gateway.record import End, Record

_LOG = logging.getLogger("cahoots_vllm")
# Who asks whether it is alive does so for ever.
_QUIET = ("/health", "/ready", "/metrics")
_LONG_S = 1.0
_OK = 200
# journald lets 10,000 lines in 30 s through from a service, and this is one part of it.
_LINES_A_SECOND = 50
_BURST = 500


class RequestLog:
    """Writes a line for each request, within bounds: the journal would drop our other lines, too.

    Those left out are counted in the next line.
    """

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self._room = float(_BURST)
        self._at = 0.0
        self._left_out = 0

    def tell(self, record: Record) -> None:
        """Write the line; a request that may be what kills the engine is a warning."""
        now = asyncio.get_running_loop().time()
        level = _level(record)
        self._room = min(_BURST, self._room + (now - self._at) * _LINES_A_SECOND)
        self._at = now
        if level == logging.INFO:
            if self._room < 1:
                self._left_out += 1
                return
            self._room -= 1
        self._write(level, record, now - record.begun_at)

    def _write(self, level: int, record: Record, took_s: float) -> None:
        fields = {"CAHOOTS_REQUEST": record.id, "CAHOOTS_ROUTE": record.route}
        if record.model:
            fields["CAHOOTS_MODEL"] = record.model
        parts = list(_parts(record))
        if self._left_out:
            parts.append(f"{self._left_out} requests before it are not shown")
            self._left_out = 0
        _LOG.log(
            level, "request %s: %s %s %s after %.2f s%s", record.id, record.method,
            record.route, _outcome(record), took_s, f" ({', '.join(parts)})" if parts else "",
            extra={"fields": fields},
        )  # fmt: skip


def _level(record: Record) -> int:
    if record.is_suspect:
        return logging.WARNING
    return logging.DEBUG if record.route in _QUIET else logging.INFO


def _outcome(record: Record) -> str:
    match record.end:
        case End.ANSWERED:
            return str(record.status)
        case End.REFUSED:
            # A stream that had got a sign of life has its refusal as an event.
            return f"{record.status}, refused" if record.status == _OK else str(record.status)
        case End.BROKEN:
            return f"{record.status}, broken off"
        case End.LEFT:
            return "the client hung up"


def _parts(record: Record) -> Iterator[str]:
    if record.held_s >= _LONG_S:
        yield f"held {record.held_s:.1f} s"
    if record.deliveries > 1:
        yield f"sent {record.deliveries} times"
    if record.usage is not None:
        yield f"{record.usage.prompt_tokens} tokens in, {record.usage.completion_tokens} out"
    if record.problem is not None:
        # It may quote the client: neither a line of its own nor a terminal's controls.
        yield "".join(c if c.isprintable() else "?" for c in record.problem)
