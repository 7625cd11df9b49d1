"""Has the weights of the next model read while the last one still serves, drains or stops.

Owns nothing of the state; delays nothing: a start never waits for it.
"""

import asyncio
import logging
import threading
from functools import partial
from pathlib import Path
from typing import Final

from cahoots_vllm.core.amounts import size_text
from cahoots_vllm.core.read_ahead import budget_bytes
from cahoots_vllm.core.state import Stage, State
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.memory_pressure import read_memory
from cahoots_vllm.host.read_ahead import read_ahead

_DEADLINE_S: Final = 1800.0  # 60 GB from a slow disk
_LOG: Final = logging.getLogger(__name__)


class ReadAhead:
    """One reading at most; begun and ended by `update`."""

    def __init__(self, cgroup: Path | None) -> None:
        """`cgroup` is the one of the service, whose memory may have a limit."""
        self._cgroup = cgroup
        self._source: str | None = None
        self._stop = threading.Event()

    def update(self, state: State, tasks: asyncio.TaskGroup) -> None:
        """Take what a step has made of the state: read for a swap, and no longer than that."""
        source = _wanted(state, self._source)
        if source == self._source:
            return
        self._stop.set()
        self._source, self._stop = source, threading.Event()
        if source is not None:
            tasks.create_task(self._read(Path(source), self._stop), name="read ahead")

    async def _read(self, directory: Path, stop: threading.Event) -> None:
        work = partial(_work, directory, self._cgroup, stop)
        try:
            done = await run_blocking(work, deadline_s=_DEADLINE_S)
        except OSError as error:  # a TimeoutError is one too; the start says it with more reason
            _LOG.debug("cannot read %s ahead: %s", directory, error)
        else:
            if done > 0:  # else it was in the page cache, or there is no memory for it
                _LOG.info("read %s of %s ahead of its start", size_text(done), directory)
        finally:
            stop.set()


def _wanted(state: State, reading: str | None) -> str | None:
    """Return the directory to read: of what is to be started in place of another model.

    Once that other one is gone, what is being `reading` goes on until the new one is ready.
    """
    plan, live = state.plan, state.live
    if plan is None or plan.goal != state.goal or state.is_failed or not plan.launch.is_local:
        return None
    source = plan.launch.source
    if live is not None and live.plan.launch.source != source:
        return source
    is_coming = live is None or live.stage is Stage.STARTING
    return source if is_coming and source == reading else None


def _work(directory: Path, cgroup: Path | None, stop: threading.Event) -> int:
    budget = budget_bytes(read_memory(cgroup))
    return read_ahead(sorted(directory.glob("*.safetensors")), budget, stop)
