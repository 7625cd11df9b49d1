"""What can happen (events) and what can be done about it (effects).

Events go into core.lifecycle.step, effects come out and are carried out by control.supervisor.
"""

from dataclasses import dataclass

from cahoots_vllm.core.diagnosis import Diagnosis
from cahoots_vllm.core.evidence import Device
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory import Memory
from cahoots_vllm.core.wire import SwapStrategy


@dataclass(frozen=True, slots=True)
class Want:
    """Somebody wants this goal, None for no worker: a person, `.env`, the provider.

    `strategy`: how to get there, None as the settings say.
    """

    goal: LaunchSpec | None
    strategy: SwapStrategy | None = None


@dataclass(frozen=True, slots=True)
class Restart:
    """A person wants a fresh worker for the same goal."""


@dataclass(frozen=True, slots=True)
class Checked:
    """Preflight passed; `launch` is the goal made ready to start (snapshot on disk).

    `known`: what an earlier start of the same launch spec on these devices has taught.
    """

    goal: LaunchSpec
    launch: LaunchSpec
    known: Memory | None = None
    is_cpu: bool = False


@dataclass(frozen=True, slots=True)
class CheckFailed:
    """Preflight did not pass."""

    goal: LaunchSpec
    diagnosis: Diagnosis


@dataclass(frozen=True, slots=True)
class Measured:
    """The devices that this launch spec will use: once their memory was still, or beside another.

    `host_available_bytes`: host memory that was left, None where that is not known.
    """

    launch: LaunchSpec
    devices: tuple[Device, ...]
    is_beside: bool = False
    host_available_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """A token came out of this worker."""

    generation: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker ended, or cannot be trusted any more, without being asked to."""

    generation: int
    diagnosis: Diagnosis
    # Host memory that was left then: restarts that each leave less are a leak.
    host_available_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Drained:
    """No request is in flight on this worker any more, or the drain's deadline passed."""

    generation: int


@dataclass(frozen=True, slots=True)
class Gone:
    """No process of this worker is left."""

    generation: int


@dataclass(frozen=True, slots=True)
class Tick:
    """The time asked for by WakeAt has come."""


@dataclass(frozen=True, slots=True)
class Cured:
    """What was missing when the goal failed is there now: a GPU, disk space, other files."""

    what: str


@dataclass(frozen=True, slots=True)
class Forget:
    """A person wants what was learned about a model's memory forgotten; None: about all."""

    source: str | None


@dataclass(frozen=True, slots=True)
class Unload:
    """Nobody has asked the ready worker for anything for so many seconds: free its devices."""

    after_s: float


@dataclass(frozen=True, slots=True)
class Wake:
    """A request came for what was unloaded."""


Event = (
    Want | Restart | Checked | CheckFailed | Measured | Ready | Lost | Drained | Gone | Tick | Cured
    | Forget | Unload | Wake
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Check:
    """Run preflight for this goal; answer Checked or CheckFailed.

    `repairs`: take damaged files of the snapshot away first, so that they are fetched again.
    `moves_caches`: move what the engine has compiled aside first, so that it is compiled again.
    """

    goal: LaunchSpec
    repairs: bool = False
    moves_caches: bool = False


@dataclass(frozen=True, slots=True)
class CancelCheck:
    """Nobody waits for the running preflight any more."""


@dataclass(frozen=True, slots=True)
class Measure:
    """Wait until memory is still, ending orphans of ours that hold some; answer Measured.

    `is_beside`: a worker serves, so look only.
    """

    launch: LaunchSpec
    is_beside: bool = False


@dataclass(frozen=True, slots=True)
class Remember:
    """Keep what was learned about a goal's memory over restarts of the daemon."""

    goal: LaunchSpec
    launch: LaunchSpec
    memory: Memory


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a worker; answer Ready or Lost."""

    generation: int
    launch: LaunchSpec


@dataclass(frozen=True, slots=True)
class Admit:
    """Send requests to this worker."""

    generation: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Take the worker out of rotation, let its requests finish; answer Drained."""

    generation: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Take the worker out of rotation and end its whole tree; answer Gone.

    `at_once`: it already failed or is still starting (vLLM swallows SIGTERM then), so there is
    nothing to wait for politely. `sleeps_for`: it may be put to sleep in place of its end, until
    this goal is wanted again.
    """

    generation: int
    at_once: bool
    sleeps_for: LaunchSpec | None = None


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send Tick at this time."""

    at: float


Effect = Check | CancelCheck | Measure | Remember | Spawn | Admit | Drain | Stop | WakeAt
