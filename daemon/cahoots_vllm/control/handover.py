"""What the next daemon needs to go on with this one's worker, on the runtime directory's tmpfs.

Written at each step, since a killed daemon writes nothing at its end. Holds no secret: a launch
spec has none.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from cahoots_vllm.core.state import State
from cahoots_vllm.core.takeover import taken_over
from cahoots_vllm.host.files import write_atomically
from cahoots_vllm.worker.leftovers import WorkerMark


@dataclass(frozen=True, slots=True)
class Left:
    """A worker that may still run, and how things stood; times count from the boot in `mark`.

    `gpu_memory`: bytes used on each GPU before the worker started.
    """

    mark: WorkerMark
    state: State
    gpu_memory: tuple[tuple[int, int], ...] = ()


class Handover:
    """The file; its content is valid for this boot only."""

    def __init__(self, path: Path) -> None:
        """`path` need not exist."""
        self._path = path
        self._adapter = TypeAdapter(Left)
        self._left: Left | None = None

    def read(self) -> Left | None:
        """Return what an earlier daemon left, None where there is nothing to go on with.

        A file that cannot be read, e.g. of a version with another idea of a state, is none.
        """
        with suppress(OSError, ValueError):  # a ValidationError is a ValueError
            left = self._adapter.validate_json(self._path.read_bytes())
            state = taken_over(left.state)
            if state is not None and state.live is not None:
                is_same = state.live.generation == left.mark.generation
                self._left = replace(left, state=state) if is_same else None
        return self._left

    def started(self, mark: WorkerMark, state: State, gpu_memory: dict[int, int]) -> None:
        """Keep a worker that was just started."""
        self._write(Left(mark, state, tuple(gpu_memory.items())))

    def step(self, state: State) -> None:
        """Keep how things stand now; without its worker there is nothing to hand over."""
        if self._left is None:
            return
        is_there = state.live is not None and state.live.generation == self._left.mark.generation
        self._write(replace(self._left, state=state) if is_there else None)

    def _write(self, left: Left | None) -> None:
        if left == self._left:
            return
        self._left = left
        with suppress(OSError):  # full: the next daemon ends the worker and starts it anew
            if left is None:
                self._path.unlink(missing_ok=True)
            else:
                write_atomically(self._path, self._adapter.dump_json(left).decode())
