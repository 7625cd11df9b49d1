"""Errors become HTTP here and nowhere else (RFC 9457)."""

import json
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from cahoots_vllm.core.errors import CahootsError, Kind, problem_view

_LOG = logging.getLogger(__name__)
_STATUS = {
    Kind.BAD_REQUEST: 400,
    Kind.NOT_PERMITTED: 403,
    Kind.NOT_FOUND: 404,
    Kind.BUSY: 409,
    Kind.CONFLICT: 409,
    Kind.BAD_SETTINGS: 422,
    Kind.ENGINE_UNUSABLE: 422,
    Kind.MODEL_UNUSABLE: 422,
    Kind.WORKER_FAILED: 503,
    Kind.WORKER_LOST: 502,
    Kind.ABORTED: 409,
    Kind.TIMED_OUT: 504,
    Kind.UNREACHABLE: 502,
    Kind.INTERNAL: 500,
}
_CLIENT_GONE = 499  # nginx's number for it
_BY_HTTP = {
    400: (Kind.BAD_REQUEST, "see /v1/openapi.json"),
    404: (Kind.NOT_FOUND, "see /v1/openapi.json for what there is"),
    405: (Kind.BAD_REQUEST, "see /v1/openapi.json for the method"),
    413: (Kind.BAD_REQUEST, "send a smaller body"),
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def problem_response(error: CahootsError) -> web.Response:
    """Return the response for an error."""
    status = _STATUS[error.kind]
    return _respond(status, error)


def _respond(status: int, error: CahootsError) -> web.Response:
    body = problem_view(error.kind, error.message, error.remedy, **error.more)
    return web.Response(
        status=status,
        text=json.dumps({**body, "status": status}),
        content_type="application/problem+json",
    )


@web.middleware
async def problem_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error as a problem; one nobody expected is logged and ends this request only."""
    try:
        return await handler(request)
    except CahootsError as error:
        return problem_response(error)
    except web.HTTPException as error:
        kind, remedy = _BY_HTTP.get(error.status, (Kind.BAD_REQUEST, "see /v1/openapi.json"))
        response = _respond(error.status, CahootsError(kind, error.reason.lower(), remedy))
        if isinstance(error, web.HTTPMethodNotAllowed):
            response.headers["Allow"] = error.headers["Allow"]  # RFC 9110, 15.5.6
        return response
    except ConnectionResetError:
        # The client hung up in the middle of a stream: no bug, and nobody reads an answer.
        return web.Response(status=_CLIENT_GONE)
    except Exception:  # noqa: BLE001 (a bug in one handler must not end the daemon and its worker)
        _LOG.exception("%s %s failed", request.method, request.path)
        return problem_response(
            CahootsError(Kind.INTERNAL, "something unexpected happened", "see the journal")
        )
