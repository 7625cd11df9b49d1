"""Cuts a log of several starts, and only where one begins: a banner may stand in a prompt."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from cahoots_vllm.core.diagnosis.marks import BANNER, DEATH
from cahoots_vllm.core.diagnosis.speakers import (
    ANSWERED,
    READY,
    is_start_lost,
    own_pids,
    serves_first,
)
from cahoots_vllm.core.diagnosis.transcript import NumberedLine

# What the API server says that comes to an end, by its own name; uvicorn gives its pid.
_OVER = re.compile(
    r"(?:RuntimeError: )?Engine core initialization failed|\[shutdown\] API server"
    r"|Gracefully stopping|Shutting down|.*Finished server process"
)
_FINISHED = re.compile(r"(?:INFO: +)?Finished server process \[(\d+)\]")


def split_starts(lines: Sequence[NumberedLine]) -> list[Sequence[NumberedLine]]:
    """Cut a log that holds several starts at the second and each later one's banner."""
    cuts = [0, *_cuts(lines), len(lines)]
    return [lines[a:b] for a, b in pairwise(cuts)]


def _cuts(lines: Sequence[NumberedLine]) -> Iterator[int]:
    last_spoke = {each.line.pid: index for index, each in enumerate(lines) if each.line.pid}
    has_banner = is_start_lost(lines)
    start = _Start(own_pids(lines) if has_banner else set(), is_serving=has_banner)
    first: str | None = None
    for index, each in enumerate(lines):
        pid = each.line.pid
        if each.line.level in {"INFO", None} and BANNER.match(each.line.message):
            if has_banner and start.may_end_at(each, index, first, last_spoke):
                if not serves_first(lines[at] for at in range(index, len(lines))):
                    yield index
                    start = _Start(set(), is_serving=False)
            elif not has_banner:
                has_banner, first = True, pid
        start.take(each)


class _Start:
    """What is known of a start that the next banner may end."""

    def __init__(self, pids: set[str], *, is_serving: bool) -> None:
        self.pids = pids
        self.is_serving = is_serving
        self.is_over = False

    def take(self, each: NumberedLine) -> None:
        line = each.line
        if not self.is_serving and line.pid is not None:
            self.pids.add(line.pid)
        self.is_serving |= READY.match(line.message) is not None
        if ANSWERED.match(line.message):
            self.is_over = False  # what looked like an end was a user's text
        elif self._ends(each):
            self.is_over = True

    def _ends(self, each: NumberedLine) -> bool:
        line = each.line
        if line.pid is None:
            # Bare lines of a server may be a user's.
            finished = _FINISHED.match(line.message)
            is_own = finished[1] in self.pids if finished else not self.is_serving
        else:
            is_own = line.pid in self.pids
        is_loud = line.pid is not None and line.level in {"ERROR", "CRITICAL"}
        is_end = _OVER.match(line.message) or (is_loud and DEATH.match(line.message))
        return is_own and bool(is_end)

    def may_end_at(
        self, banner: NumberedLine, index: int, first: str | None, last_spoke: dict[str, int]
    ) -> bool:
        """Whether another start may begin at a banner: this one came to an end, and is silent.

        In a container the next start has the pids of the one before.
        """
        pid = banner.line.pid
        if pid is None:
            return not last_spoke  # an engine that names its processes names its banner's too
        if self.is_serving and not self.is_over:
            return False
        goes_on = any(last_spoke[old] > index for old in self.pids if old != pid)
        return not goes_on or (pid == first and self.is_over)
