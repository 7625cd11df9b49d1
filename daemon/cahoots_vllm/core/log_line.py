"""One line of a worker's output, taken apart: who says it, how loud, and what.

The forms of vLLM 0.4 to 0.33, alone or pasted: behind the prefixes of docker compose, journald,
kubectl, `grep -n`, a quoted mail, our own `cahootsctl logs`; in colour; several workers' prefixes
in one line.
"""

import re
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache


class Depth(IntEnum):
    """How far inside a process is: the inner one's error is the cause, the outer one's an echo."""

    OUTER = 0
    ENGINE = 1
    WORKER = 2


@dataclass(frozen=True, slots=True)
class LogLine:
    """`process` and `level` may be unknown; `pid` tells the workers of one name apart."""

    message: str
    process: str | None = None
    level: str | None = None
    pid: str | None = None

    @property
    def depth(self) -> Depth:
        """Where the process stands; a line of nobody is the outermost's."""
        if self.process is None:
            return Depth.OUTER
        if "Worker" in self.process:
            return Depth.WORKER
        return Depth.ENGINE if self.process.startswith("Engine") else Depth.OUTER


_LEVEL = r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL)"
# "(EngineCore_DP0 pid=12) ", "(VllmWorker rank=1 pid=12) "; ray adds ", ip=10.0.0.1"
_PROCESS = re.compile(
    r"\((?P<process>[A-Za-z][\w.-]*)(?: rank=\d+)? pid=(?P<pid>\d+)(?:, ip=[\w.:]+)?\)[ \t]?"
)
# vllm/logger.py: level, date, time, "[core.py:1510]"; until 0.8 the bracket was a closing one only.
_RECORD = re.compile(
    _LEVEL + r"[ \t]+(?:\d{4}-)?\d\d-\d\d \d\d:\d\d:\d\d(?:[.,]\d+)?[ \t]+\[?[^\]\s]+:\d+\][ \t]?"
)
# uvicorn's own: the level, a colon, blanks.
_SHORT = re.compile(_LEVEL + r":[ \t]+")
# Also the moves of nested progress bars; "^[" is how an escape looks in a paste.
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\^\[\[[0-9;]*[mK]")
_STAMP = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,\d]*(?:Z|[+-]\d\d:?\d\d)?"
_DATE = r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:[.,]\d+)?"
# What other programs put before a line.
_FOREIGN = re.compile(
    r"(?:>[ -]*"  # a quoted mail
    r"|\d{1,7}[:-](?!\d)(?: (?=\S))?"  # grep -n, slurm's labels
    r"|[\w./|-]+[ \t]+\|[ \t]?"  # docker compose: "vllm-1  | "; pm2: "0|vllm  | "
    r"|\[pod/[^\]\s]+\][ \t]"  # kubectl logs --prefix
    rf"|{_STAMP} \| [A-Z]+ +\| \w+ \| "  # loguru, around a program's stderr
    rf"|(?:[A-Z]+ )?\[?{_STAMP}\]?[ \t](?:\[[^\]]*\] )?"  # docker, kubectl, a cloud's log viewer
    r"(?:(?:stdout|stderr) [FP] )?"  # the container runtime's own files
    r"(?:[^\s:\[]+ [\w.@/-]+\[\d+\]: )?"  # journalctl -o short-iso
    rf"|{_DATE} (?:[^\s:\[]+ )?[\w.@/-]+(?:\[\d+\])?: "  # journald, syslog, cahootsctl logs
    r"|\[rank\d+\]:[ \t]?"  # torch
    r"|\S+[ \t]+(?=\([A-Z][\w.-]+(?: rank=\d+)? pid=\d)"  # whatever stands before vLLM's own
    r")"
)
# `cahootsctl logs` shows the daemon's own lines between the worker's: no words of the engine.
_DAEMONS = re.compile(rf"{_DATE} daemon: ")


# Each line is read by the phases, the log and the journal in turn: the most of a flood's cost.
@lru_cache(maxsize=8)
def parse_line(text: str) -> LogLine:
    """Split a line into process, level and message; never fails."""
    rest = without_colour(text).rstrip("\r\n")
    if daemons := _DAEMONS.match(rest):
        return LogLine(rest[daemons.end() :], None, "INFO")
    rest = _without_foreign(rest)
    process = pid = level = None
    while match := _PROCESS.match(rest):
        # Two workers wrote at once: the last prefix is the one that the text belongs to.
        process, pid = match["process"], match["pid"]
        rest = rest[match.end() :]
        rest = _without_foreign(rest)
    match = _RECORD.match(rest) or _SHORT.match(rest)
    if match:
        level = match["level"]
        rest = rest[match.end() :]
    return LogLine(rest.rstrip("\r"), process, level, pid)


def without_colour(text: str) -> str:
    """Return a line without what only a terminal understands."""
    return _COLOUR.sub("", text) if "\x1b" in text or "^[" in text else text


def _without_foreign(text: str) -> str:
    for _ in range(3):  # compose around a container that stamps its lines: two at the most seen
        match = _FOREIGN.match(text)
        if not match:
            break
        text = text[match.end() :]
    return text
