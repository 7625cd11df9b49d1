"""A client that asks for one token every 100 ms, and what it saw while something changed.

One request at a time: the next is sent at the next tenth of a second after the last one's end.
It names no model, so the one that is served answers, and says its name.
"""

import http.client
import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

ASK_EVERY_S = 0.1
_GIVE_UP_S = 300.0
# Longer than any start seen: the daemon lets a request wait for the next worker.
_REQUEST_S = 180.0
# The engine answers in less; where there is none, the request may wait for long.
_LAST_S = 5.0
_BODY = json.dumps({"prompt": "Hello", "max_tokens": 1})


@dataclass(frozen=True, slots=True)
class Ask:
    """One request and its end, times of the monotonic clock; `model` is None without a token."""

    sent: float
    ended: float
    model: str | None


@dataclass(frozen=True, slots=True)
class Outage:
    """What the client saw of a change.

    `seconds`: from the change to the next token. `downtime_s`: from the last token before it to the
    next, None where there was none before. `failed`: requests in between that got no token.
    """

    seconds: float
    downtime_s: float | None
    failed: int


def find_outage(asks: Sequence[Ask], since: float, model: str | None = None) -> Outage | None:
    """Return what the change at `since` did, None while no token of `model` (any) came after it."""
    after = [ask for ask in asks if ask.ended > since]
    wanted = [ask for ask in after if ask.model is not None and model in (None, ask.model)]
    if not wanted:
        return None
    first = wanted[0].ended
    # A swap's old model may go on answering for a while: nobody is without answers until it ends.
    last = max(
        (ask.ended for ask in asks if ask.model is not None and ask.ended < first), default=0
    )
    failed = sum(ask.model is None and ask.ended < first for ask in after)
    return Outage(first - since, first - last if last else None, failed)


class Asker:
    """Asks in a thread of its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._asks: list[Ask] = []
        self._is_over = threading.Event()
        self._between = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Ask no more; a request that is still waiting is left to itself."""
        self._is_over.set()
        self._thread.join(_LAST_S)

    @contextmanager
    def no_request(self) -> Iterator[None]:
        """Ask nothing meanwhile: a change made here meets no request under way."""
        with self._between:
            yield

    def wait(self, since: float, model: str | None = None) -> Outage:
        """Return what the change at `since` did, once a token (of `model`) came out."""
        end = time.monotonic() + _GIVE_UP_S
        while (found := find_outage(tuple(self._asks), since, model)) is None:
            if time.monotonic() > end:
                sys.exit(f"nothing answered in {_GIVE_UP_S:.0f} s")
            time.sleep(0.01)
        return found

    def _run(self) -> None:
        while not self._is_over.is_set():
            with self._between:
                sent = time.monotonic()
                model = self._ask()
                self._asks.append(Ask(sent, time.monotonic(), model))
            passed = time.monotonic() - sent
            self._is_over.wait(ASK_EVERY_S - passed % ASK_EVERY_S)

    def _ask(self) -> str | None:
        """Return the name of the model that a token came from."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_REQUEST_S)
        try:
            connection.request(
                "POST", "/v1/completions", _BODY, {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            said = answer.read()
            return str(json.loads(said)["model"]) if answer.status == 200 else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


@contextmanager
def asking(port: int) -> Iterator[Asker]:
    """Ask at a port all the while."""
    one = Asker(port)
    one.start()
    try:
        yield one
    finally:
        one.end()
