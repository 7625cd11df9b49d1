"""Server-sent events out of bytes that were cut anywhere (WHATWG HTML, 9.2.6)."""

from collections.abc import Iterator


class EventReader:
    """Takes what comes from the engine, gives the data of the events that are whole."""

    def __init__(self) -> None:
        """Nothing has come."""
        self._rest = b""
        self._data: list[bytes] = []

    def take(self, part: bytes) -> Iterator[bytes]:
        """Return the data of each event that ends in this part; comments have none."""
        *lines, self._rest = (self._rest + part).split(b"\n")
        for line in lines:
            bare = line.removesuffix(b"\r")
            if bare.startswith(b"data:"):
                self._data.append(bare[5:].removeprefix(b" "))
            elif not bare and self._data:
                data, self._data = b"\n".join(self._data), []
                yield data
