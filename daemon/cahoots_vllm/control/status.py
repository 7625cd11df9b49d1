"""The status snapshot of DESIGN §7, as plain frozen values; fields are added, never renamed."""

from dataclasses import dataclass

from cahoots_vllm.core.doctor.finding import Findings
from cahoots_vllm.core.launch import OptionValue
from cahoots_vllm.host.gpu import Gpu


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """Names: what `.env` says, what answers now, the live override, the profile in use.

    `demanded`: what requests have asked for in place of `configured`, or of the override.
    `goal`: what is served or to be next; after a failure it may be another than is asked for.
    """

    configured: str
    serving: str | None
    override: str | None
    profile: str | None
    demanded: str | None = None
    goal: str | None = None


@dataclass(frozen=True, slots=True)
class IdleStatus:
    """Since when the worker is unloaded, after how many seconds without a request."""

    since: str
    after_s: float


@dataclass(frozen=True, slots=True)
class AdaptedStatus:
    """An option that starts with another value than asked for, and the step that led there."""

    option: str
    asked: OptionValue | None
    used: OptionValue | None
    reason: str
    cause: str
    at: str


@dataclass(frozen=True, slots=True)
class ChangeStatus:
    """An option that a failure changed."""

    option: str
    before: OptionValue | None
    after: OptionValue | None


@dataclass(frozen=True, slots=True)
class HolderStatus:
    """A process that holds memory a start waits for; in bytes, None where the driver hides it."""

    pid: int
    user: str
    command: str
    memory_used: int | None


@dataclass(frozen=True, slots=True)
class WaitStatus:
    """What a start waits for; memory in bytes."""

    device: str
    memory_free: int
    memory_wanted: int
    memory_total: int
    holders: tuple[HolderStatus, ...]


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """The one worker; `progress` is 0..1 within the sub-phase, `since` of the phase.

    `model` is its own in every phase, whatever is asked for by now.
    """

    generation: int
    pid: int | None
    phase: str
    sub_phase: str | None
    progress: float | None
    since: str
    restarts: int
    gpu_memory_utilization: float | None
    max_model_len: int | None
    engine_version: str
    adapted: tuple[AdaptedStatus, ...] = ()
    model: str = ""


@dataclass(frozen=True, slots=True)
class BesideStatus:
    """A second worker during an overlap: one that starts, or one whose place was taken."""

    model: str
    generation: int
    pid: int | None
    phase: str
    sub_phase: str | None
    progress: float | None
    since: str


@dataclass(frozen=True, slots=True)
class RequestStatus:
    """Counts: running in the engine, queued inside it, held until a worker is ready."""

    running: int
    waiting: int
    held: int


@dataclass(frozen=True, slots=True)
class FailureStatus:
    """The last failure and what was done about it.

    `is_over`: the model that failed is served again, or nobody waits for it any more.
    """

    at: str
    model: str
    cause: str
    evidence: str
    remedy: str
    action: str
    line: int | None = None
    changed: tuple[ChangeStatus, ...] = ()
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class ConfigStatus:
    """Where the settings came from and when."""

    env_file: str
    loaded_at: str
    error: str | None


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """The engine in use."""

    path: str
    version: str
    cpu: bool


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """The daemon itself; `since` to the millisecond: a replaced daemon has the same pid.

    `tree_kill`: how a worker's processes are found and ended, "cgroup" or "best effort".
    """

    pid: int
    since: str
    version: str
    tree_kill: str


@dataclass(frozen=True, slots=True)
class StandbyStatus:
    """`state` is off, none, warming or warm; `why` there is none; memory in bytes.

    `forks`: EngineCore and its workers are forked from it, None where it is not warm.
    """

    state: str
    why: str | None = None
    pid: int | None = None
    private_memory: int | None = None
    forks: bool | None = None
    why_not_fork: str | None = None


@dataclass(frozen=True, slots=True)
class SleeperStatus:
    """A worker that sleeps until its model is wanted again; what it holds of host memory, in bytes.

    `pid` is its API server's.
    """

    model: str
    pid: int
    since: str
    host_memory: int


@dataclass(frozen=True, slots=True)
class Status:
    """One snapshot. Times are ISO 8601 in UTC, memory in bytes."""

    state: str
    provider: str | None
    model: ModelStatus
    worker: WorkerStatus | None
    endpoint: tuple[str, ...]
    requests: RequestStatus
    last_failure: FailureStatus | None
    wanted: FailureStatus | None
    retry_at: str | None
    config: ConfigStatus
    engine: EngineStatus
    gpus: tuple[Gpu, ...]
    warnings: tuple[str, ...]
    version: str
    daemon: DaemonStatus
    waiting_for: WaitStatus | None = None
    # Of the worker, or of the next one where there is none.
    adapted: tuple[AdaptedStatus, ...] = ()
    idle: IdleStatus | None = None
    # Why inference is slow, where something was found.
    findings: Findings = ()
    standby: StandbyStatus | None = None
    # The one that served longest ago first.
    asleep: tuple[SleeperStatus, ...] = ()
    beside: BesideStatus | None = None
