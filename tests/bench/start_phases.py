"""When a start came how far: lines of its output, stamped as they are written."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Patterns of a start's lines, in their order (vLLM 0.32), and what is over once each is printed.
ENGINE_PHASES = {
    r"vLLM server version|non-default args": "arguments read",
    "Initializing a V1 LLM engine": "EngineCore up",
    "distributed_init_method=": "worker up",
    "Loading weights took": "weights loaded",
    "KV cache size": "KV cache sized",
    "init engine": "KV cache zero-filled",
    "Starting vLLM server on": "listening",
    "Application startup complete": "ready",
}
# The daemon's own lines (story.py), and what has happened once each is written.
DAEMON_PHASES = {
    r" lost: .*; hearing why$": "death noticed",
    r"; trying again": "cause known",
    r" draining ": "the swap begins",
    r": importing$": "worker launched",
    r": reading arguments$": "standby became it",
    r": starting workers$": "EngineCore and worker up",
    r": profiling memory$": "weights loaded",
    r": allocating the KV cache$": "memory profiled",
    r": starting the server$": "KV cache there",
    r": answering the first request$": "listening",
    r" ready \S+$": "ready",
}
_LOOK_S = 0.01


class Stamps:
    """When each phase's line was first seen, in seconds of the monotonic clock.

    Lines before `after`, in bytes, are those of an earlier start.
    """

    def __init__(self, log: Path, phases: dict[str, str], after: int) -> None:
        self.at: dict[str, float] = {}
        self._log, self._phases = log, phases
        self._from = after

    def look(self) -> None:
        """Stamp what was written since the last look."""
        with self._log.open("rb") as file:
            file.seek(self._from)
            said = file.read()
        now = time.monotonic()
        whole = said[: said.rfind(b"\n") + 1]
        self._from += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            for mark, phase in self._phases.items():
                if re.search(mark, line):
                    self.at.setdefault(phase, now)


@contextmanager
def stamped(log: Path, phases: dict[str, str], after: int = 0) -> Iterator[Stamps]:
    """Stamp the lines that are written to `log` meanwhile."""
    stamps, is_over = Stamps(log, phases, after), threading.Event()

    def watch() -> None:
        while not is_over.wait(_LOOK_S):
            stamps.look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield stamps
    finally:
        is_over.set()
        watcher.join()
        stamps.look()
