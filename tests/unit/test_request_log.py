"""The line for each request: what became of it, and nothing of the client's but its id."""

import asyncio
import logging

import pytest

from cahoots_vllm.gateway.record import End, Record, Usage
from cahoots_vllm.request_log import RequestLog


def record(**changes: object) -> Record:
    one = Record("id-1", "POST", "/v1/chat/completions", asyncio.get_running_loop().time())
    one.status, one.model, one.deliveries = 200, "org/a", 1
    for name, value in changes.items():
        setattr(one, name, value)
    return one


@pytest.mark.parametrize(
    ("changes", "level", "expected"),
    [
        ({}, "INFO", "200 after 0.00 s"),
        ({"held_s": 3.21}, "INFO", "200 after 0.00 s (held 3.2 s)"),
        ({"deliveries": 2, "usage": Usage(7, 40)}, "INFO",
         "200 after 0.00 s (sent 2 times, 7 tokens in, 40 out)"),
        ({"end": End.BROKEN, "problem": "the worker was lost"}, "INFO",
         "200, broken off after 0.00 s (the worker was lost)"),
        ({"end": End.REFUSED, "status": 404, "problem": "no 'a\n17:00:00 ready\x1b[2J'"}, "INFO",
         "404 after 0.00 s (no 'a?17:00:00 ready?[2J')"),
        ({"end": End.LEFT}, "INFO", "the client hung up after 0.00 s"),
        ({"end": End.REFUSED, "status": 503, "is_suspect": True}, "WARNING", "503 after 0.00 s"),
        ({"route": "/health"}, "DEBUG", "200 after 0.00 s"),
    ],
)  # fmt: skip
async def test_line_of_a_request(
    caplog: pytest.LogCaptureFixture, changes: dict[str, object], level: str, expected: str
) -> None:
    caplog.set_level(logging.DEBUG)
    RequestLog().tell(record(**changes))
    (entry,) = [each for each in caplog.records if each.name == "cahoots_vllm"]
    assert entry.levelname == level
    said = entry.getMessage()
    assert said.startswith("request id-1: POST /")
    assert said.endswith(expected)
    assert vars(entry)["fields"]["CAHOOTS_REQUEST"] == "id-1"


async def test_flood_of_requests_is_bounded_and_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    now = 1000.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    log = RequestLog()
    for _ in range(2000):
        log.tell(record())
    assert len(caplog.records) == 500
    log.tell(record(is_suspect=True, end=End.REFUSED, status=503))
    assert caplog.records[-1].levelname == "WARNING"
    assert caplog.records[-1].getMessage().endswith("(1500 requests before it are not shown)")
    now += 1
    for _ in range(100):
        log.tell(record())
    assert len(caplog.records) == 500 + 1 + 50
