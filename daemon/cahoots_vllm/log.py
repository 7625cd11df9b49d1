"""The daemon's own log: to the buffer for `cahootsctl logs`, and to the journal or standard error.

Under systemd a record is one journal entry with fields (`extra={"fields": {...}}`), or where the
journal does not take it a line with its priority (sd-daemon(3)); on a terminal the time of day.
"""

import logging
import os
import sys
from types import TracebackType

from cahoots_vllm.control.log_buffer import LogBuffer
from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.host.journal import Journal, is_journal_stream

_IDENTIFIER = "cahoots-vllmd"
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}
# An entry with its fields is worth a stop of the loop where a worker's flood fills the queue.
_WAIT_S = 0.05
_LOG = logging.getLogger("cahoots_vllm")


class _BufferHandler(logging.Handler):
    def __init__(self, logs: LogBuffer) -> None:
        super().__init__()
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        self._logs.add("daemon", record.getMessage(), level=record.levelname)


class _JournalFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITY.get(record.levelno, 2)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


class _JournalHandler(logging.Handler):
    """Sends records natively; what the journal does not take goes the plain way."""

    def __init__(self, journal: Journal, plain: logging.Handler) -> None:
        super().__init__()
        self._journal = journal
        self._plain = plain

    def emit(self, record: logging.LogRecord) -> None:
        fields = {"SYSLOG_IDENTIFIER": _IDENTIFIER, **getattr(record, "fields", {})}
        text = logging.Formatter("%(message)s").format(record)  # with the traceback, if any
        if not self._journal.send(text, _PRIORITY.get(record.levelno, 2), fields):
            self._plain.emit(record)


def set_up_logging(logs: LogBuffer, *, is_verbose: bool) -> None:
    """Send the package's log to the buffer and to standard error."""
    stream = logging.StreamHandler(sys.stderr)
    if "JOURNAL_STREAM" in os.environ:
        stream.setFormatter(_JournalFormatter("%(message)s"))
    else:
        stream.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    loud: logging.Handler = stream
    if is_journal_stream(os.environ):
        loud = _JournalHandler(Journal(wait_s=_WAIT_S), stream)
        sys.excepthook = _tell_crash
    root = logging.getLogger()
    root.handlers = [loud, _BufferHandler(logs)]
    root.setLevel(logging.WARNING)
    logging.getLogger("cahoots_vllm").setLevel(logging.DEBUG if is_verbose else logging.INFO)


def _tell_crash(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
    """Write the error that ends the daemon as one entry: standard error would make it many."""
    _LOG.critical("the daemon ends by an error of its own: %s", kind.__name__, exc_info=error)


def tell_end(error: CahootsError) -> None:
    """Say why there is no daemon: with its priority where it goes to the journal."""
    if is_journal_stream(os.environ):
        _LOG.error("%s; %s", error.message, error.remedy)
    else:
        sys.stderr.write(f"{_IDENTIFIER}: {error.message}\n  {error.remedy}\n")
