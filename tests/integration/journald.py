"""What journald does for a service: takes entries off a socket, with what the protocol allows."""

import array
import os
import socket
import threading
import time
from pathlib import Path

_MAX_BYTES = 1 << 20
_LIBRARY = str(Path(__file__).parents[1] / "fake_journal")


class Journald:
    """Listens at `address` from now on. The real one is tests/system's."""

    def __init__(self, address: Path) -> None:
        self.address = address
        # A busy one: its queue is full most of the time (10 datagrams, net.unix.max_dgram_qlen).
        self.seconds_an_entry = 0.0
        self._raw: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(address))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def environment(self, log: Path, python_path: str) -> dict[str, str]:
        """Return what makes a process whose standard error is `log` one of this journal's."""
        log.touch()
        stream = log.stat()
        return {
            "JOURNAL_STREAM": f"{stream.st_dev}:{stream.st_ino}",
            "FAKE_JOURNALD": str(self.address),
            "PYTHONPATH": f"{_LIBRARY}:{python_path}",
        }

    def entries(self, **fields: str) -> list[dict[str, str]]:
        """Return the entries with these fields, in the order they came."""
        found = [_parse(raw) for raw in tuple(self._raw)]
        return [entry for entry in found if fields.items() <= entry.items()]

    def _read(self) -> None:
        size = array.array("i").itemsize
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(_MAX_BYTES, socket.CMSG_SPACE(size))
            except OSError:
                return  # closed
            for _, _, rights in ancillary:
                (descriptor,) = array.array("i", rights)
                with os.fdopen(descriptor, "rb") as file:
                    file.seek(0)
                    data = file.read()
            if data:
                self._raw.append(data)
            time.sleep(self.seconds_an_entry)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


def _parse(raw: bytes) -> dict[str, str]:
    entry: dict[str, str] = {}
    while raw:
        line, _, raw = raw.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(raw[:8], "little")
            value, raw = raw[8 : 8 + length], raw[8 + length + 1 :]
        entry[name.decode()] = value.decode()
    return entry
