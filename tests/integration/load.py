"""A steady load of chats, streamed and not, and what became of each."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from .harness import Daemon, chat_body

_PATH = "/v1/chat/completions"
_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Outcome:
    """One request: what came, and why that is no answer ("" where it is one)."""

    is_stream: bool
    body: bytes
    problem: str = ""

    @property
    def is_broken_off(self) -> bool:
        """Whether a stream had begun, and ends with an error event that says so."""
        events = [part for part in self.body.split(b"\n\n") if b"data: {" in part]
        return self.is_stream and len(events) > 1 and b'"worker-lost"' in events[-1]


@dataclass
class Load:
    """What became of every request so far."""

    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def whole(self) -> list[Outcome]:
        return [one for one in self.outcomes if not one.is_stream]

    @property
    def streams(self) -> list[Outcome]:
        return [one for one in self.outcomes if one.is_stream]

    @property
    def failed(self) -> list[Outcome]:
        return [one for one in self.outcomes if one.problem]


def _ask(daemon: Daemon, *, is_stream: bool, tokens: int) -> Outcome:
    body = chat_body("x", model="", stream=is_stream, max_tokens=tokens, ignore_eos=True)
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
    try:
        connection.request("POST", _PATH, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        got = answer.read()
    except OSError as error:
        return Outcome(is_stream, b"", f"{type(error).__name__}: {error}")
    except http.client.HTTPException as error:
        return Outcome(is_stream, b"", f"{type(error).__name__}: {error}")
    finally:
        connection.close()
    if answer.status != 200:
        return Outcome(is_stream, got, f"status {answer.status}: {got[:300]!r}")
    problem = _stream_problem(got, tokens) if is_stream else _problem(got, tokens)
    return Outcome(is_stream, got, problem)


def _problem(body: bytes, tokens: int) -> str:
    answer = json.loads(body)
    is_whole = answer["usage"]["completion_tokens"] == tokens
    is_whole = is_whole and answer["choices"][0]["finish_reason"] == "length"
    return "" if is_whole else f"no answer: {body[-300:]!r}"


def _stream_problem(body: bytes, tokens: int) -> str:
    events = [part for part in body.split(b"\n\n") if part.startswith(b"data: {")]
    is_whole = body.endswith(_DONE) and b'"finish_reason": "length"' in body
    # The role, the tokens, the reason.
    return "" if is_whole and len(events) == tokens + 2 else f"no answer: {body[-300:]!r}"


@contextmanager
def load(daemon: Daemon, *, clients: int = 4, tokens: int = 10) -> Iterator[Load]:
    """Keep so many clients busy during the block, every other one with streams."""
    result, is_over = Load(), threading.Event()

    def work(number: int) -> None:
        while not is_over.is_set():
            result.outcomes.append(_ask(daemon, is_stream=number % 2 == 1, tokens=tokens))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield result
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
