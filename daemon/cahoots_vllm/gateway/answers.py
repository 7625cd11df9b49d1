"""The gateway's own answers, in the shape of the API that the client speaks."""

import json
from enum import StrEnum

from aiohttp import web

from cahoots_vllm.core.errors import CahootsError, Kind


class Dialect(StrEnum):
    """Whose API a request is made in: the shape of errors."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    OLLAMA = "ollama"


# What is the client's own mistake; everything else is 503: it is worth trying again.
_STATUSES = {
    Kind.BAD_REQUEST: 400,
    Kind.NOT_PERMITTED: 401,
    Kind.NOT_FOUND: 404,
}
# Seconds a client should wait where nothing is known: a person must act, or a queue must move.
_RETRY_AFTER_S = {Kind.WORKER_FAILED: 60, Kind.BUSY: 10, Kind.TIMED_OUT: 10, Kind.WORKER_LOST: 5}
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error"}


def status_of(error: CahootsError) -> int:
    """Return the HTTP status of an error."""
    return _STATUSES.get(error.kind, 503)


def error_body(error: CahootsError, dialect: Dialect = Dialect.OPENAI) -> dict[str, object]:
    """Return the error object of a dialect: the reason, and the remedy."""
    status, message = status_of(error), str(error)
    match dialect:
        case Dialect.OLLAMA:
            return {"error": message}
        case Dialect.ANTHROPIC:
            kind = _TYPES.get(status, "overloaded_error")
            return {"type": "error", "error": {"type": kind, "message": message}}
        case Dialect.OPENAI:
            kind = _TYPES.get(status, "service_unavailable")
            code = error.kind.value
            return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def error_response(error: CahootsError, dialect: Dialect = Dialect.OPENAI) -> web.Response:
    """Return the reason, the remedy and, where it is worth it, when to come again."""
    status = status_of(error)
    headers = {}
    if status == _UNAVAILABLE:
        known = error.more.get("retry_after_s")
        headers["Retry-After"] = known or str(_RETRY_AFTER_S.get(error.kind, 10))
    return web.json_response(error_body(error, dialect), status=status, headers=headers)


_UNAVAILABLE = 503


def error_event(error: CahootsError, dialect: Dialect = Dialect.OPENAI) -> bytes:
    """Return the event that ends a stream of server-sent events that cannot go on.

    The empty lines close an event that was cut in its middle.
    """
    name = b"event: error\n" if dialect is Dialect.ANTHROPIC else b""
    data = json.dumps(error_body(error, dialect)).encode()
    return b"\n\n" + name + b"data: " + data + b"\n\n"
