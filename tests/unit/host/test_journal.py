"""The journal's native protocol, against a real datagram socket in journald's place."""

import array
import fcntl
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cahoots_vllm.host.journal import Journal, is_journal_stream


class Journald:
    """Receives entries and takes them apart by the protocol."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(5)

    def datagram(self) -> tuple[bytes, list[int]]:
        data, ancillary, _, _ = self.socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        files = array.array("i")
        for _, _, rights in ancillary:
            files.frombytes(rights)
        return data, list(files)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def journald() -> Iterator[Journald]:
    with tempfile.TemporaryDirectory(prefix="cahoots-") as directory:
        served = Journald(Path(directory) / "socket")
        with served.socket:
            yield served


@pytest.fixture
def journal(journald: Journald) -> Iterator[Journal]:
    sender = Journal(journald.path)
    yield sender
    sender.close()


def test_entry_is_one_datagram_of_fields(journald: Journald, journal: Journal) -> None:
    assert journal.send("hello = you", 6, {"CAHOOTS_MODEL": "org/m", "X_1": "\u00e9"})
    expected = b"MESSAGE=hello = you\nPRIORITY=6\nCAHOOTS_MODEL=org/m\nX_1=\xc3\xa9\n"
    assert journald.datagram() == (expected, [])


def test_value_of_several_lines_says_its_length(journald: Journald, journal: Journal) -> None:
    assert journal.send("a\nPRIORITY=0", 3, {})
    length = (12).to_bytes(8, "little")
    assert journald.datagram()[0] == b"MESSAGE\n" + length + b"a\nPRIORITY=0\nPRIORITY=3\n"


def test_text_that_is_no_utf8_is_escaped(journald: Journald, journal: Journal) -> None:
    assert journal.send("a\udcff", 3, {})
    assert journald.datagram()[0].startswith(b"MESSAGE=a\\udcff\n")


@pytest.mark.parametrize(
    "name", ["", "_PID", "cause", "A=B", "A\nB", "1A", "A" * 65, "\u00c9", "A\n"]
)
def test_field_name_that_journald_drops_is_refused(journal: Journal, name: str) -> None:
    with pytest.raises(ValueError, match="cannot send the journal field"):
        journal.send("m", 3, {name: "x"})


def test_large_entry_goes_as_a_sealed_file(journald: Journald, journal: Journal) -> None:
    text = "x" * (9 * 1024 * 1024)
    before = open_files()
    assert journal.send(text, 4, {"A" * 64: "1"})
    assert open_files() == before
    data, (file,) = journald.datagram()
    assert data == b""
    seals = fcntl.fcntl(file, fcntl.F_GET_SEALS)
    wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    assert seals & wanted == wanted
    with os.fdopen(file, "rb") as entry:
        entry.seek(0)
        assert entry.read() == b"MESSAGE=%s\nPRIORITY=4\n%s=1\n" % (text.encode(), b"A" * 64)


def test_large_entry_without_memfd_is_not_sent(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.memfd_create")
    assert journal.send("x" * (9 * 1024 * 1024), 4, {}) is False


def test_full_journal_does_not_hold_us(journald: Journald, journal: Journal) -> None:
    sent, started = 0, time.monotonic()
    while journal.send("m", 6, {}) and sent < 100_000:
        sent += 1
    assert 0 < sent < 100_000
    assert time.monotonic() - started < 1
    journald.datagram()
    assert journal.send("again", 6, {})


def test_journal_that_others_fill_is_waited_for(journald: Journald, journal: Journal) -> None:
    while journal.send("of others", 6, {}):
        pass
    own = Journal(journald.path, wait_s=5)
    reader = threading.Timer(0.2, journald.datagram)
    reader.start()
    assert own.send("own", 3, {})
    reader.join()
    own.close()


def test_journal_that_hangs_is_waited_for_once(journald: Journald) -> None:
    own = Journal(journald.path, wait_s=0.2)
    while own.send("m", 6, {}):
        pass
    started = time.monotonic()
    assert not any(own.send("m", 6, {}) for _ in range(100))
    assert time.monotonic() - started < 0.2
    # Once it goes on, it is waited for again.
    journald.datagram()
    assert own.send("m", 6, {})
    started = time.monotonic()
    assert not own.send("m", 6, {})
    assert time.monotonic() - started > 0.15
    own.close()


def test_missing_and_restarted_journal(journald: Journald, journal: Journal) -> None:
    journald.socket.close()
    assert journal.send("m", 6, {}) is False  # nobody listens
    journald.path.unlink()
    assert journal.send("m", 6, {}) is False  # no socket
    again = Journald(journald.path)
    with again.socket:
        assert journal.send("m", 6, {}) is True
        assert again.datagram()[0].startswith(b"MESSAGE=m\n")


def test_stream_is_the_journals_if_device_and_inode_are_its() -> None:
    read_end, write_end = os.pipe()
    stream = os.fstat(write_end)
    other = os.fstat(0)
    env = {"JOURNAL_STREAM": f"{stream.st_dev}:{stream.st_ino}"}
    assert is_journal_stream(env, write_end)
    assert not is_journal_stream({"JOURNAL_STREAM": f"{other.st_dev}:{other.st_ino}"}, write_end)
    assert not is_journal_stream({"JOURNAL_STREAM": f"{stream.st_dev}"}, write_end)
    wrong_device = f"{stream.st_dev + 1}:{stream.st_ino}"
    assert not is_journal_stream({"JOURNAL_STREAM": wrong_device}, write_end)
    assert not is_journal_stream({}, write_end)
    os.close(write_end)
    assert not is_journal_stream(env, write_end)
    os.close(read_end)
