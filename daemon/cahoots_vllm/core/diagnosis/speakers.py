"""Whose lines a log has: a server's own processes, or those of logs that users paste into prompts.

A log is bounded: of a long-lived server the start may be gone, and with it who belongs to it.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from cahoots_vllm.core.diagnosis.transcript import NumberedLine
from cahoots_vllm.core.log_line import Depth

# What only a server says that serves already.
_SERVES = re.compile(
    r'.*"(?:GET|POST) /\S* HTTP/\d\.\d" \d{3}|.*Avg prompt throughput|Received request '
)
# An answer to a request; a few may come after a death, of requests that were begun.
ANSWERED = re.compile(r'.*"POST /\S+ HTTP/\d\.\d" 200\b|.*generation throughput: [1-9]')
MANY = 5
READY = re.compile(r"Application startup complete|Uvicorn running on")
# The API server's word that its engine is gone.
_LOST = re.compile(
    r"AsyncLLM output_handler failed|(?:\w+\.)*EngineDeadError|.*engine core exited unexpectedly"
    r"|Engine core proc\S* .*died"
)
_NEAR = 600  # lines: a root cause stands up to so far above the end


def serves_first(lines: Iterable[NumberedLine]) -> bool:
    """Whether the first thing that a log tells of serving is not that it began."""
    for each in lines:
        if READY.match(each.line.message):
            return False
        if _SERVES.match(each.line.message):
            return True
    return False


def is_start_lost(lines: Sequence[NumberedLine]) -> bool:
    """Whether a log is of a server whose start is gone; what looks like one is a user's then."""
    if serves_first(lines):
        return True
    server = _server(lines)
    for each in lines:
        if server is None or each.line.pid == server:
            return False
        if READY.match(each.line.message):
            return True  # of another server than the one that speaks most
    return False


def _server(lines: Sequence[NumberedLine]) -> str | None:
    """Return the pid of the API server whose log it is: who speaks most."""
    spoke = Counter(e.line.pid for e in lines if e.line.pid and e.line.depth is Depth.OUTER)
    return spoke.most_common(1)[0][0] if spoke else None


def is_quoted(pid: str | None, level: str | None, pids: Collection[str]) -> bool:
    """Whether a line is not of this start: users paste whole logs into prompts.

    Where a server names its processes (since 0.10.2), each record does, and by a pid known from
    the start.
    """
    return bool(pids) and pid not in pids and (pid is not None or level is not None)


def own_pids(lines: Sequence[NumberedLine]) -> set[str]:
    """Return whose log it is, where its start is lost: the API server and who died before its word.

    Empty where no API server names itself: then nobody can be told apart.
    """
    server = _server(lines)
    if server is None:
        return set()
    lost = _lost_at(lines, server)
    found = {server}
    if lost is None:
        return found
    spoke: dict[str, str] = {}
    for each in lines:
        line = each.line
        if line.process and line.pid and line.depth is not Depth.OUTER:
            before = spoke.get(line.process)
            if before is None or lost - _NEAR <= each.number <= lost:
                spoke[line.process] = line.pid
    return found | set(spoke.values())


def _lost_at(lines: Sequence[NumberedLine], server: str) -> int | None:
    """Return where the API server lost its engine for good."""
    lost: int | None = None
    answers = 0
    for each in lines:
        if each.line.pid == server and _is_loss(each):
            lost, answers = lost or each.number, 0
        elif lost is not None and ANSWERED.match(each.line.message):
            answers += 1
            lost = None if answers >= MANY else lost
    return lost


def _is_loss(each: NumberedLine) -> bool:
    return each.line.level in {"ERROR", "WARNING"} and _LOST.match(each.line.message) is not None
