"""The daemon's own log: native entries under systemd, plain lines elsewhere."""

import io
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from cahoots_vllm import log
from cahoots_vllm.control.log_buffer import LogBuffer
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.host.journal import Journal

ERROR = CahootsError(Kind.BAD_SETTINGS, "line 3 is wrong", "mend it")


@pytest.fixture
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test change the process's logging and its hook for what nobody handled."""
    for logger in (logging.getLogger(), logging.getLogger("cahoots_vllm")):
        monkeypatch.setattr(logger, "handlers", list(logger.handlers))
        monkeypatch.setattr(logger, "level", logger.level)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)


@pytest.fixture
def under_systemd(
    monkeypatch: pytest.MonkeyPatch, _restored: None
) -> Iterator[Callable[[Path], None]]:
    """Return what sets up the log as under systemd, with journald's socket at a path."""
    with ExitStack() as opened:

        def make(path: Path, wait_s: float) -> Journal:
            journal = Journal(path, wait_s=wait_s)
            opened.callback(journal.close)
            return journal

        def set_up(path: Path) -> None:
            monkeypatch.setattr(log, "Journal", partial(make, path))
            stream = os.fstat(2)
            monkeypatch.setenv("JOURNAL_STREAM", f"{stream.st_dev}:{stream.st_ino}")
            log.set_up_logging(LogBuffer(), is_verbose=False)

        yield set_up


@pytest.fixture
def entry(under_systemd: Callable[[Path], None]) -> Iterator[Callable[[], str]]:
    """Return what gives the journal's next entry."""
    with (
        tempfile.TemporaryDirectory(prefix="cahoots-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as served,
    ):
        path = Path(directory) / "socket"
        served.bind(str(path))
        served.settimeout(5)
        under_systemd(path)
        yield lambda: served.recv(1 << 20).decode(errors="replace")


def test_record_is_an_entry_with_the_daemons_name_and_fields(entry: Callable[[], str]) -> None:
    fields = {"CAHOOTS_CAUSE": "host_oom"}
    logging.getLogger("cahoots_vllm").warning("it %s", "broke", extra={"fields": fields})
    assert entry().splitlines() == [
        "MESSAGE=it broke", "PRIORITY=4", "SYSLOG_IDENTIFIER=cahoots-vllmd",
        "CAHOOTS_CAUSE=host_oom",
    ]  # fmt: skip


def test_error_that_ends_the_daemon_is_one_entry(entry: Callable[[], str]) -> None:
    with pytest.raises(ValueError, match="1") as raised:
        int("1x")
    sys.excepthook(ValueError, raised.value, raised.tb)
    said = entry()
    assert "Traceback (most recent call last):" in said
    assert "ValueError: invalid literal" in said
    assert "PRIORITY=2" in said


def test_reason_for_no_daemon_is_an_error_in_the_journal(entry: Callable[[], str]) -> None:
    log.tell_end(ERROR)
    assert entry().splitlines()[:2] == ["MESSAGE=line 3 is wrong; mend it", "PRIORITY=3"]


def test_reason_for_no_daemon_is_two_plain_lines_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    monkeypatch.setattr(sys, "stderr", shown := io.StringIO())
    log.tell_end(ERROR)
    assert shown.getvalue() == "cahoots-vllmd: line 3 is wrong\n  mend it\n"


@pytest.mark.usefixtures("_restored")
def test_terminal_gets_the_time_and_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    monkeypatch.setattr(sys, "stderr", shown := io.StringIO())
    log.set_up_logging(LogBuffer(), is_verbose=False)
    logging.getLogger("cahoots_vllm").info("ready", extra={"fields": {"CAHOOTS_CAUSE": "x"}})
    time_of_day, _, text = shown.getvalue().partition(" ")
    assert (len(time_of_day), text) == (8, "ready\n")


def test_what_the_journal_does_not_take_goes_to_standard_error_with_its_priority(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, under_systemd: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(sys, "stderr", shown := io.StringIO())
    under_systemd(tmp_path / "none")
    logging.getLogger("cahoots_vllm").error("two\nlines")
    assert shown.getvalue() == "<3>two\n<3>lines\n"
