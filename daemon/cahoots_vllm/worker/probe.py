"""Asks a worker over its private socket: is it up, and does a token come out?

`/health` only says whether the API process heard that the engine died (vLLM 0.32,
v1/engine/async_llm.py:1089): ready means that a token came out.
"""

import re

import aiohttp

_HEALTH_TIMEOUT = aiohttp.ClientTimeout(total=5.0)
# The first forward pass may compile kernels.
_TOKEN_TIMEOUT = aiohttp.ClientTimeout(total=300.0)
_METRICS_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
_COUNTS_TIMEOUT = aiohttp.ClientTimeout(total=0.5)
_RUNNING = re.compile(r"^vllm:num_requests_running{[^}]*} (\S+)", re.MULTILINE)
_WAITING = re.compile(r"^vllm:num_requests_waiting{[^}]*} (\S+)", re.MULTILINE)
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)
_BASE = "http://worker"
_OK = 200
_SERVER_ERROR = 500
_UNAVAILABLE = 503


class NoTokenError(Exception):
    """No token came out of a worker; the text says what came instead."""


class Probe:
    """One client session on the worker's socket."""

    def __init__(self, uds: str, model: str, api_key: str | None) -> None:
        """`api_key` is the engine's own (VLLM_API_KEY in `.env`), if it has one."""
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(uds, force_close=True), headers=headers
        )
        self._one_token = {"model": model, "prompt": "1", "max_tokens": 1, "temperature": 0}

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def is_up(self) -> bool:
        """Whether `/health` answers 200; False while nothing listens yet."""
        return await self._health() == _OK

    async def is_engine_dead(self) -> bool:
        """Whether the API process says that its engine died (503). Silence says nothing."""
        return await self._health() == _UNAVAILABLE

    async def _health(self) -> int | None:
        try:
            async with self._session.get(f"{_BASE}/health", timeout=_HEALTH_TIMEOUT) as response:
                return response.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    async def request_counts(self) -> tuple[int, int] | None:
        """Return how many requests run and wait in the engine, from its own metrics."""
        page = await self.metrics(_COUNTS_TIMEOUT)
        if page is None:
            return None
        counts = [sum(map(float, pattern.findall(page))) for pattern in (_RUNNING, _WAITING)]
        return int(counts[0]), int(counts[1])

    async def metrics(self, timeout: aiohttp.ClientTimeout = _METRICS_TIMEOUT) -> str | None:  # noqa: ASYNC109 (the session's own)
        """Return the engine's page of figures, None if it does not come in time."""
        try:
            async with self._session.get(f"{_BASE}/metrics", timeout=timeout) as response:
                return await response.text() if response.status == _OK else None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None

    async def engine_figures(self) -> str | None:
        """Return the engine's own rows of its page, None if it does not come in time.

        Not those of its API server, which counts requests and memory whether the engine moves or
        not.
        """
        page = await self.metrics()
        if page is None:
            return None
        return "\n".join(row for row in page.splitlines() if row.startswith("vllm:"))

    async def answers(self, timeout_s: float) -> bool:
        """Whether a request for one token is answered; a refusal will do (a model that has none).

        Not an answer of 5xx: its API server gives that in a dead engine's place.
        """
        try:
            async with self._session.post(
                f"{_BASE}/v1/completions",
                json=self._one_token,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as response:
                await response.read()
                return response.status < _SERVER_ERROR
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def tell(self, path: str) -> str | None:
        """POST to a route that takes no body; return None on 200, else what came instead.

        Without a deadline of its own.
        """
        try:
            async with self._session.post(f"{_BASE}{path}", timeout=_NO_TIMEOUT) as response:
                await response.read()
                return None if response.status == _OK else f"HTTP {response.status}"
        except (aiohttp.ClientError, OSError) as error:
            return f"{type(error).__name__}: {error}"

    async def first_token(self) -> str:
        """Generate one token and return its text. Raises NoTokenError."""
        try:
            async with self._session.post(
                f"{_BASE}/v1/completions", json=self._one_token, timeout=_TOKEN_TIMEOUT
            ) as response:
                answer = await response.json(content_type=None)
                status = response.status
        except TimeoutError as error:
            what = f"no token within {_TOKEN_TIMEOUT.total:.0f} s"
            raise NoTokenError(what) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise NoTokenError(what) from error
        if status != _OK or not _has_token(answer):
            what = f"HTTP {status}: {str(answer)[:200]}"
            raise NoTokenError(what)
        return _text(answer)


def _has_token(answer: object) -> bool:
    match answer:
        case {"usage": {"completion_tokens": int(count)}}:
            return count > 0
        case _:
            return False


def _text(answer: object) -> str:
    match answer:
        case {"choices": [{"text": str(text)}, *_]}:
            return text
        case _:
            return ""
