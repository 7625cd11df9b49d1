"""The list of models: with those that a request can get, and without starting one to be listed."""

import json
import time
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Final

from aiohttp import web

from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.gateway.reply import Reply

# An answer above this is no list of models to add to.
_KEPT_BYTES: Final = 1024 * 1024


def model_list(names: Iterable[str]) -> dict[str, object]:
    """Return OpenAI's list of models, as vLLM gives it (vllm/entrypoints/openai/models).

    How much context a model has is known to a running engine only, so it is left out.
    """
    return {"object": "list", "data": [_entry(name) for name in names]}


def _entry(name: str) -> dict[str, object]:
    return {
        "id": name, "object": "model", "created": int(time.time()), "owned_by": "vllm",
        "root": name, "parent": None,
    }  # fmt: skip


def list_response(names: Iterable[str]) -> web.Response:
    """Answer `GET /v1/models`."""
    return web.json_response(model_list(names))


class ListReply:
    """Passes the engine's list on, with more names in it; what is no list as it is."""

    def __init__(self, reply: Reply, names: Iterable[str]) -> None:
        """`names` that are in the list already are not doubled."""
        self.is_begun = False
        self._reply = reply
        self._names = names
        self._head: tuple[int, str | None, Mapping[str, str]] | None = None
        self._body = b""

    async def keep_alive(self) -> None:
        """Say nothing: a list is no stream."""

    async def begin(self, status: int, reason: str | None, headers: Mapping[str, str]) -> None:
        """Keep the head until the list is whole."""
        self._head = status, reason, headers
        if status != HTTPStatus.OK:
            await self._pass()

    async def write(self, data: bytes) -> None:
        """Keep a part of the list."""
        if self.is_begun:
            await self._reply.write(data)
            return
        self._body += data
        if len(self._body) > _KEPT_BYTES:
            await self._pass()

    def write_now(self, _data: bytes) -> bool:
        """Refuse: a list is no stream."""
        return False

    async def end(self) -> None:
        """Send the list."""
        if not self.is_begun and self._head is not None:
            self._body = _with_names(self._body, self._names)
            status, reason, headers = self._head
            headers = {k: v for k, v in headers.items() if k.lower() != "content-length"}
            self._head = status, reason, headers | {"Content-Length": str(len(self._body))}
            await self._pass()
        await self._reply.end()

    async def fail(self, error: CahootsError) -> None:
        """Send an error in place of the list."""
        await self._reply.fail(error)

    async def _pass(self) -> None:
        if self._head is not None:
            self.is_begun = True
            await self._reply.begin(*self._head)
            await self._reply.write(self._body)


def _with_names(body: bytes, names: Iterable[str]) -> bytes:
    try:
        parsed = json.loads(body)
        there = {entry["id"] for entry in parsed["data"]}
    except (ValueError, TypeError, KeyError):
        return body
    parsed["data"] += [_entry(name) for name in names if name not in there]
    return json.dumps(parsed).encode()
