"""The gateway's own answers, in the error shape of OpenAI's API."""

import json

from aiohttp import web

from cahoots_vllm.core.errors import CahootsError, Kind

# Seconds a client should wait: a person must act, or a queue must move.
_RETRY_AFTER_S = {Kind.WORKER_FAILED: 60, Kind.BUSY: 10, Kind.TIMED_OUT: 10, Kind.UNREACHABLE: 5}


def error_body(message: str, code: str) -> dict[str, object]:
    """Return OpenAI's error object."""
    return {
        "error": {"message": message, "type": "service_unavailable", "param": None, "code": code}
    }


def error_response(error: CahootsError) -> web.Response:
    """Return 503 with the reason, the remedy and when to come again."""
    return web.json_response(
        error_body(str(error), error.kind.value),
        status=503,
        headers={"Retry-After": str(_RETRY_AFTER_S.get(error.kind, 10))},
    )


def error_event(message: str) -> bytes:
    """Return the event that ends a stream which had begun when its worker died.

    The empty lines close an event that was cut in its middle.
    """
    return f"\n\ndata: {json.dumps(error_body(message, 'worker-lost'))}\n\n".encode()
