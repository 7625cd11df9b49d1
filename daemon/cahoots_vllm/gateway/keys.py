"""Who may use the gateway: those with a key, and on this host alone everybody but web pages.

A Unix socket asks for nothing: who may connect is said by its mode and group.
"""

import base64
import binascii
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from aiohttp import web

from cahoots_vllm.core.addresses import host_of, is_loopback_name, is_own_name
from cahoots_vllm.core.api_keys import is_known
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.settings import GatewaySettings
from cahoots_vllm.gateway.answers import Dialect, error_response
from cahoots_vllm.gateway.call import IS_KEYED
from cahoots_vllm.gateway.proxy import RECORD
from cahoots_vllm.gateway.record import End

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# They say that somebody is there, to whoever watches over the host.
_OPEN: Final = frozenset({"/health", "/ready"})
_PREFLIGHT_S: Final = "600"
_ALLOW_ORIGIN: Final = "Access-Control-Allow-Origin"
# For the log, with nothing of the client's.
_PROBLEMS: Final = {401: "without a known key", 403: "from a foreign page or host, see origins"}


class Guard:
    """Refuses requests before anything of them is read, kept or sent on."""

    def __init__(self, settings: GatewaySettings) -> None:
        """`settings` may be replaced at any time."""
        self.settings = settings

    @web.middleware
    async def check(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Answer 401 or 403, or let the request through."""
        refusal = self.refusal(request)
        if refusal is not None:
            record = request[RECORD]
            record.end, record.problem = End.REFUSED, _PROBLEMS.get(refusal.status)
            return refusal
        request[IS_KEYED] = bool(self.settings.api_keys)
        return await handler(request)

    def refusal(self, request: web.Request) -> web.Response | None:
        """Return the answer to a request that is none of the engine's business, else None."""
        if _is_unix(request) or _is_open(request):
            return None
        origin = request.headers.get("Origin", "")
        if origin and not self._is_welcome(origin, request):
            return _refuse_page(request, origin)
        if not self.settings.api_keys:
            return None if self._is_own_host(_host(request)) else _refuse_host(request)
        if origin and _is_preflight(request):  # browsers send no key with it
            return _allow(request, origin)
        return None if is_known(_keys(request), self.settings.api_keys) else _ask_for_key(request)

    def let_read(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let a web page that may ask read the answer, too (CORS, fetch.spec.whatwg.org).

        The engine says so of its own answers; this is for ours, and those of Ollama's API.
        """
        origin = request.headers.get("Origin", "")
        if not origin or _ALLOW_ORIGIN in response.headers:
            return
        if self._is_welcome(origin, request):
            response.headers[_ALLOW_ORIGIN] = origin
            response.headers.add("Vary", "Origin")

    def _is_welcome(self, origin: str, request: web.Request) -> bool:
        """Whether a web page may ask: one of this host, of the gateway itself, or a listed one."""
        known = self.settings.origins
        place = origin.lower().partition("://")[2]
        is_known_one = "*" in known or origin.lower() in known
        return is_known_one or is_loopback_name(host_of(place)) or place == _host(request).lower()

    def _is_own_host(self, host: str) -> bool:
        """Whether no web page's name was bent to our address (DNS rebinding)."""
        name, settings = host_of(host), self.settings
        listed = {host_of(origin.partition("://")[2]) for origin in settings.origins}
        return (
            is_own_name(name) or name == settings.host or name in listed or "*" in settings.origins
        )


def _is_unix(request: web.Request) -> bool:
    connection = request.transport.get_extra_info("socket") if request.transport else None
    return connection is not None and connection.family == socket.AF_UNIX


def _host(request: web.Request) -> str:
    """Return the Host header; aiohttp's `host` may ask the DNS for our own name in its place."""
    return request.headers.get("Host", "")


def _is_open(request: web.Request) -> bool:
    """Whether it is for one of the gateway's own open routes; a path alone may be spelled oddly."""
    resource = request.match_info.route.resource
    return resource is not None and resource.canonical in _OPEN


def _keys(request: web.Request) -> Iterator[bytes]:
    """Return the keys a request offers.

    OpenAI's and Ollama's clients send `Authorization: Bearer`, Anthropic's `x-api-key`; one that
    knows nothing but a URL sends the password in it as `Authorization: Basic` (RFC 7617).
    """
    for text in request.headers.getall("X-Api-Key", ()):
        yield _bytes(text)
    for text in request.headers.getall("Authorization", ()):
        scheme, _, rest = text.partition(" ")
        if scheme.lower() == "bearer":
            yield _bytes(rest.strip())
        elif scheme.lower() == "basic":
            try:
                yield base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                continue


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _is_preflight(request: web.Request) -> bool:
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def _allow(request: web.Request, origin: str) -> web.Response:
    """Answer a browser that asks whether it may ask (CORS, fetch.spec.whatwg.org)."""
    asked = request.headers.get("Access-Control-Request-Headers", "*")
    headers = {
        _ALLOW_ORIGIN: origin,
        "Access-Control-Allow-Methods": request.headers["Access-Control-Request-Method"],
        "Access-Control-Allow-Headers": asked,
        "Access-Control-Max-Age": _PREFLIGHT_S,
        "Vary": "Origin",
    }
    return web.Response(status=204, headers=headers)


def _refuse_page(request: web.Request, origin: str) -> web.Response:
    message = f"cannot serve the web page {origin[:200]!r}: it is not of this host"
    remedy = 'to allow it, add it to gateway.origins in cahoots-vllm.toml, or "*" for all'
    return _refuse(request, message, remedy)


def _refuse_host(request: web.Request) -> web.Response:
    name = host_of(_host(request))[:200]
    message = f"cannot serve requests for the host {name!r}: a web page may have made it up"
    remedy = f'use localhost, or add "http://{name}" to gateway.origins in cahoots-vllm.toml'
    return _refuse(request, message, remedy)


def _refuse(request: web.Request, message: str, remedy: str) -> web.Response:
    error = CahootsError(Kind.NOT_PERMITTED, message, remedy)
    response = error_response(error, _dialect(request.path))
    response.set_status(403)
    return response


def _ask_for_key(request: web.Request) -> web.Response:
    is_given = any(True for _ in _keys(request))
    error = CahootsError(
        Kind.NOT_PERMITTED,
        "the key is not one of this gateway's" if is_given else "this gateway asks for a key",
        "send it as Authorization: Bearer KEY, or x-api-key; cahootsctl config key makes one",
    )
    response = error_response(error, _dialect(request.path))
    problem = ', error="invalid_token"' if is_given else ""
    response.headers["WWW-Authenticate"] = f'Bearer realm="cahoots-vllm"{problem}'
    return response


def _dialect(path: str) -> Dialect:
    """Return the shape of error that the caller of a path, below whatever base, expects."""
    if "/v1/messages" in path:
        return Dialect.ANTHROPIC
    return Dialect.OLLAMA if "/api/" in path else Dialect.OPENAI
