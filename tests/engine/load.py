"""A steady load from the real `openai` client, its retries off, and what became of each request."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import openai
from openai import OpenAI
from openai.types.chat import ChatCompletionUserMessageParam

from engine.harness import Daemon

_QUESTION: list[ChatCompletionUserMessageParam] = [
    {"role": "user", "content": "What is the capital of France? Answer in one sentence."}
]
_TOKENS = 12
# vLLM takes it for the model it serves, whichever that is.
_ANY = ""


@dataclass(frozen=True)
class Outcome:
    """One request; times are of the monotonic clock. `pieces`: events of a stream that came."""

    is_stream: bool
    begun: float
    ended: float
    pieces: int = 0
    problem: str = ""

    @property
    def is_broken_off(self) -> bool:
        """Whether a stream that had begun ended with the gateway's error event."""
        return self.is_stream and self.pieces > 0 and "lost in the middle" in self.problem


@dataclass
class Load:
    """What became of every request so far."""

    outcomes: list[Outcome] = field(default_factory=list)

    def count(self, *, is_stream: bool) -> int:
        return sum(one.is_stream is is_stream for one in self.outcomes)

    @property
    def failed(self) -> list[Outcome]:
        """Those that got no answer, the streams that a death broke off left out."""
        return [one for one in self.outcomes if one.problem and not one.is_broken_off]

    @property
    def broken_off(self) -> list[Outcome]:
        return [one for one in self.outcomes if one.is_broken_off]

    @property
    def longest_s(self) -> float:
        return max((one.ended - one.begun for one in self.outcomes), default=0.0)


def _whole(client: OpenAI) -> Outcome:
    begun = time.monotonic()
    try:
        answer = client.chat.completions.create(
            model=_ANY, messages=_QUESTION, temperature=0, max_tokens=_TOKENS
        )
    except openai.OpenAIError as error:
        return Outcome(
            is_stream=False,
            begun=begun,
            ended=time.monotonic(),
            problem=f"{type(error).__name__}: {error}",
        )
    reason = answer.choices[0].finish_reason
    problem = "" if reason in ("stop", "length") else f"finish reason {reason}"
    return Outcome(is_stream=False, begun=begun, ended=time.monotonic(), problem=problem)


def _stream(client: OpenAI) -> Outcome:
    begun, pieces, reason = time.monotonic(), 0, None
    try:
        for chunk in client.chat.completions.create(
            model=_ANY, messages=_QUESTION, temperature=0, max_tokens=_TOKENS, stream=True
        ):
            pieces += 1
            reason = chunk.choices[0].finish_reason if chunk.choices else reason
    except openai.OpenAIError as error:
        problem = f"{type(error).__name__}: {error}"
        return Outcome(
            is_stream=True, begun=begun, ended=time.monotonic(), pieces=pieces, problem=problem
        )
    problem = "" if reason in ("stop", "length") else f"finish reason {reason}"
    return Outcome(
        is_stream=True, begun=begun, ended=time.monotonic(), pieces=pieces, problem=problem
    )


@contextmanager
def load(daemon: Daemon, *, clients: int = 4) -> Iterator[Load]:
    """Keep so many clients busy during the block, every other one with streams."""
    result, is_over = Load(), threading.Event()

    def work(number: int) -> None:
        client, ask = daemon.client(), _stream if number % 2 else _whole
        while not is_over.is_set():
            result.outcomes.append(ask(client))
        client.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield result
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
