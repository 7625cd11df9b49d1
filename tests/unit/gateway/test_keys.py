"""Who may ask: with a key, or from this host and no web page. Nothing else reaches the engine."""

import asyncio
import base64
import json
from dataclasses import replace

import pytest

from cahoots_vllm.core.api_keys import digest_of
from cahoots_vllm.core.settings import GatewaySettings

from .front import OK, Front, running

KEY = "cv-" + "aClientsOwnKey" * 2
OTHER = "cv-" + "anotherKey" * 3
KEYED = GatewaySettings(api_keys=(digest_of(OTHER.encode()), digest_of(KEY.encode())))
BASIC = base64.b64encode(f"cahoots:{KEY}".encode()).decode()
EVIL = "http://evil.example"


def ask(*headers: str, path: str = "/v1/models", host: str = "localhost:8001") -> bytes:
    lines = (f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers)
    return "\r\n".join((*lines, "", "")).encode()


def status(answer: bytes) -> int:
    return int(answer.split()[1])


def body(answer: bytes) -> dict[str, object]:
    found: dict[str, object] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return found


@pytest.mark.parametrize(
    "header",
    [f"Authorization: Bearer {KEY}", f"authorization: bearer  {KEY}", f"x-api-key: {KEY}",
     f"Authorization: Basic {BASIC}", f"Authorization: Bearer wrong\r\nX-Api-Key: {KEY}"],
)  # fmt: skip
async def test_request_with_a_key_is_served_and_the_engine_does_not_get_it(header: str) -> None:
    async with running(KEYED) as front:
        assert (await front.send(ask(header, "X-Other: kept"))).endswith(b"ok")
        head = front.upstream.heads[0]
    assert KEY.encode() not in head
    assert b"authorization" not in head.lower()
    assert b"X-Other: kept" in head


@pytest.mark.parametrize(
    "header",
    ["X-Nothing: x", f"Authorization: Bearer {KEY}x", f"Authorization: {KEY}", "Authorization: ",
     f"Authorization: Bearer sha256:{digest_of(KEY.encode())}", "Authorization: Basic !!",
     f"Authorization: Bearer {digest_of(KEY.encode())}", "x-api-key: k\xe9y"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/nowhere", "/v1/api/chat"])
async def test_request_without_a_key_is_refused_before_the_engine(path: str, header: str) -> None:
    async with running(KEYED) as front:
        answer = await front.send(ask(header, path=path))
        assert status(answer) == 401
        assert b"WWW-Authenticate: Bearer realm=" in answer
        assert front.upstream.heads == []
        assert [record.end for record in front.records] == ["refused"]


@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_health_asks_for_no_key(path: str) -> None:
    async with running(KEYED) as front:
        assert status(await front.send(ask(path=path, host="lb.example"))) == 200


@pytest.mark.parametrize("path", ["//health", "/health/", "/v1/../health", "/health?/v1/models",
                                  "/%2e/health", "/health/../v1/models", "/v1/health"])  # fmt: skip
async def test_no_spelling_of_an_open_route_leads_past_the_key(path: str) -> None:
    async with running(KEYED) as front:
        await front.send(ask(path=path))
        assert front.upstream.heads == []


async def test_refusal_is_in_the_callers_own_language() -> None:
    async with running(KEYED) as front:
        openai = body(await front.send(ask()))["error"]
        anthropic = body(await front.send(ask(path="/v1/messages")))
        ollama = body(await front.send(ask(path="/v1/api/chat")))
    assert isinstance(openai, dict)
    assert openai["type"] == "authentication_error"
    assert "cahootsctl config key" in openai["message"]
    assert (anthropic["type"], list(ollama)) == ("error", ["error"])


async def first_status(front: Front, request: bytes) -> int:
    """Send a request and return the status of what comes first; its body is never sent."""
    reader, writer = await front.connect()
    writer.write(request)
    async with asyncio.timeout(5):
        line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return status(line)


async def test_body_of_a_refused_request_is_neither_asked_nor_waited_for() -> None:
    async with running(KEYED) as front:
        request = ask("Content-Length: 99999999").replace(b"GET", b"POST")
        assert await first_status(front, request) == 401
        request = request.replace(b"Content", b"Expect: 100-continue\r\nContent")
        assert await first_status(front, request) == 401
        request = request.replace(b"Expect", f"X-Api-Key: {KEY}\r\nExpect".encode())
        assert await first_status(front, request) == 100
        assert front.upstream.heads == []


async def test_another_key_counts_at_once() -> None:
    async with running(KEYED) as front:
        only_other = replace(KEYED, api_keys=(digest_of(OTHER.encode()),))
        await front.gateway.apply(only_other)
        assert status(await front.send(ask(f"X-Api-Key: {KEY}"))) == 401
        assert status(await front.send(ask(f"X-Api-Key: {OTHER}"))) == 200


async def test_without_keys_the_header_is_the_engines() -> None:
    async with running() as front:
        assert status(await front.send(ask("Authorization: Bearer engines"))) == 200
        assert b"Authorization: Bearer engines" in front.upstream.heads[0]


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:5173",
               "https://ai.example.org", "http://localhost:8001"],
)  # fmt: skip
async def test_web_page_of_this_host_or_a_listed_one_is_served(origin: str) -> None:
    settings = GatewaySettings(origins=("https://ai.example.org",))
    async with running(settings) as front:
        assert status(await front.send(ask(f"Origin: {origin}"))) == 200


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/nowhere", "/api/version"])
async def test_web_page_that_may_ask_may_read_the_answer(path: str) -> None:
    async with running(GatewaySettings(origins=("https://ai.example.org",))) as front:
        answer = await front.send(ask("Origin: https://ai.example.org", path=path))
        assert answer.count(b"Access-Control-Allow-Origin: https://ai.example.org\r\n") == 1
        assert b"Vary: Origin" in answer
        assert b"Access-Control" not in await front.send(ask(path=path))
        assert b"Access-Control" not in await front.send(ask(f"Origin: {EVIL}", path=path))


async def test_what_the_engine_says_of_its_answers_to_web_pages_stands() -> None:
    async with running(GatewaySettings()) as front:
        front.upstream.answer = (
            b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 2\r\n\r\nok"
        )
        answer = await front.send(ask("Origin: http://localhost:3000"))
    assert answer.count(b"Access-Control-Allow-Origin") == 1
    assert b"Access-Control-Allow-Origin: *" in answer


@pytest.mark.parametrize(
    "origin", [EVIL, "null", "https://localhost.evil.example", "http://10.0.0.9", "file://"]
)
@pytest.mark.parametrize("settings", [KEYED, GatewaySettings()])
async def test_foreign_web_page_is_refused(settings: GatewaySettings, origin: str) -> None:
    async with running(settings) as front:
        answer = await front.send(ask(f"Origin: {origin}", f"X-Api-Key: {KEY}"))
        assert (status(answer), front.upstream.heads) == (403, [])
        assert b"gateway.origins" in answer


async def test_page_that_bends_its_own_name_to_us_is_refused() -> None:
    """DNS rebinding: to the browser it is the page's own host, so it sends no Origin, or this."""
    async with running() as front:
        for headers in ((), (f"Origin: {EVIL}:8001",)):
            answer = await front.send(ask(*headers, host="evil.example:8001"))
            assert (status(answer), front.upstream.heads) == (403, [])
            assert b'http://evil.example\\" to gateway.origins' in answer


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8001", "[::1]:8001", "host.docker.internal:8001", "box.example:8001",
             "10.0.0.9", "ai.example.org"],
)  # fmt: skip
async def test_own_names_are_served(host: str) -> None:
    settings = GatewaySettings(host="box.example", origins=("https://ai.example.org",))
    async with running(settings) as front:
        assert status(await front.send(ask(host=host))) == 200


async def test_client_that_names_no_host_is_served() -> None:
    async with running() as front:
        assert status(await front.send(b"GET /v1/models HTTP/1.0\r\n\r\n")) == 200


async def test_with_a_key_every_host_is_served() -> None:
    async with running(KEYED) as front:
        assert status(await front.send(ask(f"X-Api-Key: {KEY}", host="box.lan"))) == 200


async def test_all_pages_may_be_allowed() -> None:
    async with running(GatewaySettings(origins=("*",))) as front:
        assert status(await front.send(ask(f"Origin: {EVIL}", host="evil.example"))) == 200


async def test_browser_may_ask_whether_it_may_send_a_key() -> None:
    async with running(KEYED) as front:
        question = ask(
            "Origin: http://localhost:3000", "Access-Control-Request-Method: POST",
            "Access-Control-Request-Headers: authorization, content-type",
        ).replace(b"GET", b"OPTIONS")  # fmt: skip
        answer = await front.send(question)
        assert status(answer) == 204
        assert b"Access-Control-Allow-Origin: http://localhost:3000" in answer
        assert b"Access-Control-Allow-Headers: authorization, content-type" in answer
        assert front.upstream.heads == []


async def test_unix_socket_asks_for_nothing_and_the_engine_gets_no_key() -> None:
    async with running(KEYED, is_unix=True) as front:
        answer = await front.send(ask(f"Origin: {EVIL}", "Authorization: Bearer x", host="a.b"))
        assert answer.endswith(OK[-2:])
        assert b"Bearer" not in front.upstream.heads[0]


async def test_header_that_is_no_text_does_no_harm() -> None:
    async with running(KEYED) as front:
        request = ask(f"X-Api-Key: {KEY}", "X-Title: @").replace(b"@", b"Caf\xe9")
        assert status(await front.send(request)) == 200


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (ask(), "without a known key"),
        (ask(f"x-api-key: {KEY}", path="/sleep"), "no route for clients"),
        (ask(f"x-api-key: {KEY}", path=f"/api/{KEY}"), "no route for clients"),
        (ask(f"Origin: {EVIL}"), "from a foreign page or host, see origins"),
    ],
)
async def test_log_can_say_why_a_request_was_refused(request_: bytes, expected: str) -> None:
    async with running(KEYED) as front:
        await front.send(request_)
        assert [record.problem for record in front.records] == [expected]
