"""`GET /v1/events` kept open and read as it comes: waiting for an event adds nothing to it."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .harness import PATIENCE_S, Json, UnixConnection

_SILENCE_S = 0.3


class EventStream:
    """One reader of a daemon's events, from its first one on."""

    def __init__(self, connection: UnixConnection) -> None:
        """Return once the daemon has answered: what happens after that is not missed."""
        self._connection = connection
        connection.request("GET", "/v1/events", headers={"Last-Event-ID": "0"})
        self._response = connection.getresponse()

    def next(self, type_: str) -> Json:
        """Return the data of the next event of this type; others before it are dropped."""
        end = time.monotonic() + PATIENCE_S
        name = ""
        while time.monotonic() < end:
            line = self._response.readline().decode().rstrip("\n")
            if name == f"event: {type_}":
                data: Json = json.loads(line.removeprefix("data: "))
                return data
            name = line
        message = f"no {type_} event within {PATIENCE_S} s"
        raise AssertionError(message)

    def so_far(self) -> str:
        """Return everything up to now as it came, and read no more: the first is always there."""
        raw = self._response.readline()
        assert self._connection.sock is not None
        self._connection.sock.settimeout(_SILENCE_S)
        with suppress(TimeoutError):  # silent: that was all
            while piece := self._response.read1():
                raw += piece
        return raw.decode()


@contextmanager
def event_stream(socket: Path) -> Iterator[EventStream]:
    """Open the events of the daemon behind this control socket."""
    connection = UnixConnection(socket)
    try:
        yield EventStream(connection)
    finally:
        connection.close()


def events_so_far(socket: Path) -> str:
    """Return every event that the daemon keeps, as it is sent."""
    with event_stream(socket) as events:
        return events.so_far()
