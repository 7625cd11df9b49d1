"""What the next daemon needs to go on where this one was, on the runtime directory's tmpfs.

Written at each step, since a killed daemon writes nothing at its end. Gone after a clean stop: a
start is a start. Holds no secret: a launch spec has none.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from cahoots_vllm.core.settings import Settings
from cahoots_vllm.core.state import State
from cahoots_vllm.core.takeover import taken_over
from cahoots_vllm.host.files import write_atomically
from cahoots_vllm.host.process_tree import boot_id
from cahoots_vllm.worker.leftovers import WorkerMark
from cahoots_vllm.worker.standby_source import StandbyMark

_VERSION = 1  # another one where a field gets another meaning; new fields have defaults


@dataclass(frozen=True, slots=True)
class Left:
    """How things stood, and what may still run: worker, standby; times count from this `boot`.

    `was_local`: a model was wanted on this host, so a goal of none was a person's stop.
    `gpu_memory`: bytes used on each GPU before the worker started. `demanded`: the model that
    requests had asked for in place of `configured_model`, or of the override.
    """

    version: int
    boot: str
    state: State
    was_local: bool
    mark: WorkerMark | None = None
    gpu_memory: tuple[tuple[int, int], ...] = ()
    demanded: str | None = None
    configured_model: str | None = None
    standby: StandbyMark | None = None


class Handover:
    """The file."""

    def __init__(self, path: Path) -> None:
        """`path` need not exist."""
        self._path = path
        self._adapter = TypeAdapter(Left)
        self._boot = boot_id()
        self._left: Left | None = None
        # A worker beside the one that serves: kept with the state once it has its place.
        self._newcomer: WorkerMark | None = None
        self._standby: StandbyMark | None = None

    def read(self) -> Left | None:
        """Return what an earlier daemon of this boot left, None where there is nothing to go on.

        A file that cannot be read, e.g. of a version with another idea of a state, is none.
        """
        with suppress(OSError, ValueError):  # a ValidationError is a ValueError
            left = self._adapter.validate_json(self._path.read_bytes())
            if (left.version, left.boot) == (_VERSION, self._boot) and _is_whole(left):
                self._left = replace(left, state=taken_over(left.state))
                self._standby = left.standby
        return self._left

    def started(
        self, mark: WorkerMark, state: State, settings: Settings, gpu_memory: dict[int, int]
    ) -> None:
        """Keep a worker that was just started."""
        if not _is_of(mark, state):
            self._newcomer = mark
            return
        memory = tuple(gpu_memory.items())
        left = Left(_VERSION, self._boot, state, was_local=True, mark=mark, gpu_memory=memory)
        self._write(_with_model(left, settings))

    def step(self, state: State, settings: Settings) -> None:
        """Keep how things stand now."""
        left = self._left or Left(_VERSION, self._boot, state, settings.is_local)
        mark = next((m for m in (left.mark, self._newcomer) if _is_of(m, state)), None)
        left = replace(left, state=state, was_local=settings.is_local, mark=mark)
        self._write(_with_model(left, settings))

    @property
    def standby(self) -> StandbyMark | None:
        """The standby that was noted last, also by an earlier daemon."""
        return self._standby

    def stand_by(self, mark: StandbyMark | None) -> None:
        """Keep the standby that there is now; None: there is none."""
        self._standby = mark
        if self._left is not None:
            self._write(self._left)

    def clear(self) -> None:
        """Leave nothing: the daemon has ended for good."""
        self._left = None
        self._path.unlink(missing_ok=True)

    def _write(self, left: Left) -> None:
        left = replace(left, standby=self._standby)
        if left == self._left:
            return
        try:
            write_atomically(self._path, self._adapter.dump_json(left).decode())
        except OSError:  # full: the next daemon begins anew; what is there is of the past
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
        else:
            self._left = left


def _with_model(left: Left, settings: Settings) -> Left:
    model = settings.configured_model
    return replace(left, demanded=settings.demanded, configured_model=model)


def _is_of(mark: WorkerMark | None, state: State) -> bool:
    return mark is not None and state.live is not None and state.live.generation == mark.generation


def _is_whole(left: Left) -> bool:
    """Whether the worker in the state, if any, is the one that the mark is of."""
    return left.state.live is None or _is_of(left.mark, left.state)
