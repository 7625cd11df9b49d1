"""Asks the hub one question, and tells DNS, proxy, TLS and silence apart."""

import asyncio
import socket
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from cahoots_vllm.core.doctor.hub import HubFacts, Reach, RepoFacts
from cahoots_vllm.core.secret import Secret
from cahoots_vllm.host.blocking import run_blocking

_TIMEOUT_S = 3.0
_OK = 200


class _Resolver(AbstractResolver):
    """Resolves in a thread of its own: aiohttp's would hold up the end of the program."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses. Raises OSError (socket.gaierror)."""
        ask = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        rows = await run_blocking(ask, deadline_s=_TIMEOUT_S)
        return [
            ResolveResult(
                hostname=host, host=str(address[0]), port=port, family=kind, proto=proto, flags=0
            )
            for kind, _, proto, _, address in rows
        ]

    async def close(self) -> None:
        """Nothing is held."""


async def probe_hub(endpoint: str, token: Secret | None) -> HubFacts:
    """Ask who the token belongs to; any answer shows that the hub is reached. Never raises."""
    endpoint = endpoint.rstrip("/")
    try:
        parts = urlsplit(endpoint)
        proxy = _proxy_of(parts)
    except ValueError:  # its words repeat the URL, and that may have a password
        return HubFacts(_shown(endpoint), Reach.BAD_URL, has_token=token is not None)
    facts = partial(
        HubFacts,
        _shown(endpoint),
        proxy=_shown(proxy) if proxy else None,
        has_token=token is not None,
    )
    headers = {"Authorization": f"Bearer {token.reveal()}"} if token is not None else {}
    try:
        async with (
            _session() as session,
            session.get(f"{endpoint}/api/whoami-v2", headers=headers, proxy=proxy) as response,
        ):
            return facts(
                Reach.ANSWERED,
                status=response.status,
                user=await _user(response),
                skew_s=_skew_s(response.headers.get("Date"), datetime.now(UTC)),
            )
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        return facts(*_explain(error))


async def probe_repo(endpoint: str, repo: str, token: Secret | None) -> RepoFacts:
    """Ask for a model's page; status None where the hub is not reached. Never raises."""
    headers = {"Authorization": f"Bearer {token.reveal()}"} if token is not None else {}
    url = f"{endpoint.rstrip('/')}/api/models/{repo}"
    try:
        async with (
            _session() as session,
            session.get(url, headers=headers, proxy=_proxy_of(urlsplit(endpoint))) as response,
        ):
            said = await response.json(content_type=None) if response.status == _OK else None
            is_gated = isinstance(said, dict) and bool(said.get("gated"))
            return RepoFacts(repo, response.status, is_gated)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return RepoFacts(repo)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=_Resolver(), force_close=True),
        timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
    )


def _proxy_of(parts: SplitResult) -> str | None:
    """Return the proxy for a URL, by the environment as huggingface_hub's client reads it."""
    if not parts.hostname:
        message = "it has no host"
        raise ValueError(message)
    found = getproxies()
    proxy = found.get(parts.scheme) or found.get("all")
    return None if proxy is None or proxy_bypass(parts.hostname) else proxy


def _shown(url: str) -> str:
    """Return a URL without user and password."""
    head, _, rest = url.rpartition("@")
    return f"{head.partition('://')[0]}://{rest}" if head else url


async def _user(response: aiohttp.ClientResponse) -> str | None:
    if response.status != _OK:
        return None
    said = await response.json(content_type=None)
    name = said.get("name") if isinstance(said, dict) else None
    return name if isinstance(name, str) else None


def _skew_s(date: str | None, now: datetime) -> float | None:
    """Return the server's clock less ours, by its Date header (RFC 9110, 6.6.1)."""
    if date is None:
        return None
    try:
        return (parsedate_to_datetime(date) - now).total_seconds()
    except (ValueError, TypeError):
        return None


def _explain(error: Exception) -> tuple[Reach, str]:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    found = Reach.BROKEN
    match error:
        case aiohttp.ClientHttpProxyError():
            return Reach.PROXY, f"{error.status} {error.message}"
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return Reach.TLS, _word(cause)
        case TimeoutError() | asyncio.TimeoutError():
            return Reach.TIMEOUT, f"in {_TIMEOUT_S:.0f} s"
        case aiohttp.InvalidURL() | ValueError():
            return Reach.BAD_URL, ""  # its words repeat the URL
        case aiohttp.ClientConnectorDNSError() | socket.gaierror():
            found = Reach.DNS
        case _ if isinstance(cause, ConnectionRefusedError):
            found = Reach.REFUSED
        case aiohttp.ClientConnectorError():
            found = Reach.NO_ROUTE
        case _:
            found = Reach.BROKEN
    return found, _word(cause)


def _word(error: Exception) -> str:
    text = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
    return " ".join(str(text).split())[:200]
