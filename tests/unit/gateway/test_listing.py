"""The engine's list of models with more names in it."""

import json
from collections.abc import Mapping

import pytest

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.gateway.listing import ListReply

NAMES = ("org/a", "org/b")
ENGINES = {"object": "list", "data": [{"id": "org/a", "max_model_len": 2048}]}


class Client:
    """Writes down what is sent to it."""

    def __init__(self) -> None:
        self.is_begun = False
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.body = b""
        self.is_ended = False
        self.error: CahootsError | None = None

    async def keep_alive(self) -> None:
        raise AssertionError

    async def begin(self, status: int, _reason: str | None, headers: Mapping[str, str]) -> None:
        assert not self.is_begun
        self.is_begun, self.status, self.headers = True, status, headers

    async def write(self, data: bytes) -> None:
        assert self.is_begun
        self.body += data

    def write_now(self, _data: bytes) -> bool:
        raise AssertionError

    async def end(self) -> None:
        self.is_ended = True

    async def fail(self, error: CahootsError) -> None:
        self.error = error


async def answered(*parts: bytes, status: int = 200) -> Client:
    client = Client()
    reply = ListReply(client, NAMES)
    await reply.keep_alive()
    await reply.begin(status, "OK", {"content-length": str(sum(map(len, parts))), "Server": "x"})
    for part in parts:
        await reply.write(part)
    await reply.end()
    assert reply.is_begun
    assert client.is_ended
    return client


async def test_names_that_are_missing_are_added() -> None:
    text = json.dumps(ENGINES).encode()
    client = await answered(text[:9], text[9:])
    found = json.loads(client.body)["data"]
    assert [entry["id"] for entry in found] == ["org/a", "org/b"]
    assert found[0] == {"id": "org/a", "max_model_len": 2048}
    assert client.headers == {"Server": "x", "Content-Length": str(len(client.body))}


@pytest.mark.parametrize("text", [b"", b"no JSON", b"[]", b'{"data": [1]}', b'{"data": 1}'])
async def test_what_is_no_list_is_passed_as_it_is(text: bytes) -> None:
    assert (await answered(text)).body == text


async def test_refusal_is_passed_at_once_and_as_it_is() -> None:
    client = await answered(b'{"data": []}', status=401)
    assert (client.status, client.body) == (401, b'{"data": []}')


async def test_endless_answer_is_not_kept() -> None:
    part = b"x" * 700_000
    client = await answered(part, part, part)
    assert len(client.body) == 3 * len(part)


async def test_error_is_passed_on() -> None:
    client = Client()
    await ListReply(client, NAMES).fail(CahootsError(Kind.BUSY, "full", "later"))
    assert client.error is not None
