"""One line for each request that clients made, with its id: what became of it."""

import asyncio
import logging
from collections.abc import Iterator

from cahoots_vllm.gateway.record import End, Record

_LOG = logging.getLogger("cahoots_vllm")
# Who asks whether it is alive does so for ever.
_QUIET = ("/health", "/ready", "/metrics")
_LONG_S = 1.0


def log_request(record: Record) -> None:
    """Write the line; a request that may be what kills the engine is a warning."""
    took_s = asyncio.get_running_loop().time() - record.begun_at
    fields = {"CAHOOTS_REQUEST": record.id, "CAHOOTS_ROUTE": record.route}
    if record.model:
        fields["CAHOOTS_MODEL"] = record.model
    said = ", ".join(_parts(record))
    _LOG.log(
        _level(record), "request %s: %s %s %s after %.2f s%s", record.id, record.method,
        record.route, _outcome(record), took_s, f" ({said})" if said else "",
        extra={"fields": fields},
    )  # fmt: skip


def _level(record: Record) -> int:
    if record.is_suspect:
        return logging.WARNING
    return logging.DEBUG if record.route in _QUIET else logging.INFO


def _outcome(record: Record) -> str:
    match record.end:
        case End.ANSWERED | End.REFUSED:
            return str(record.status)
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
        yield record.problem
