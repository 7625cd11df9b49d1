"""Makes the status snapshot of settings, state and what only the host knows."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cahoots_vllm.control.status import (
    AdaptedStatus,
    BesideStatus,
    ChangeStatus,
    ConfigStatus,
    DaemonStatus,
    EngineStatus,
    FailureStatus,
    HolderStatus,
    IdleStatus,
    ModelStatus,
    RequestStatus,
    SleeperStatus,
    StandbyStatus,
    Status,
    WaitStatus,
    WorkerStatus,
)
from cahoots_vllm.core.doctor.finding import Findings
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory import Memory, Shortage
from cahoots_vllm.core.memory.sizes import changes_between
from cahoots_vllm.core.phases import StartProgress
from cahoots_vllm.core.settings import Settings
from cahoots_vllm.core.state import Failure, Live, Stage, State
from cahoots_vllm.core.wire import Phase
from cahoots_vllm.host.gpu import Gpu


@dataclass(frozen=True, slots=True)
class Wall:
    """Turns the loop's monotonic seconds into wall-clock time, by both clocks read at once."""

    now: datetime
    loop_now: float

    @classmethod
    def read(cls, loop_now: float) -> "Wall":
        """Read the wall clock beside the loop's."""
        return cls(datetime.now(UTC), loop_now)

    def iso(self, at: float) -> str:
        """Return ISO 8601 in UTC, to the second."""
        return (self.now - timedelta(seconds=self.loop_now - at)).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the snapshot needs beside settings and state."""

    pid: int | None
    progress: StartProgress | None
    requests: RequestStatus
    gpus: tuple[Gpu, ...]
    loaded_at: str
    config_error: str | None
    endpoints: tuple[str, ...]
    warnings: tuple[str, ...]
    daemon: DaemonStatus
    standby: StandbyStatus
    findings: Findings = ()
    asleep: tuple[SleeperStatus, ...] = ()
    beside_pid: int | None = None
    beside_progress: StartProgress | None = None


def build_status(settings: Settings, state: State, facts: Facts, wall: Wall) -> Status:
    """Return the snapshot."""
    spec = state.live.plan.launch if state.live else None
    plan = state.live.plan if state.live else state.plan
    is_serving = state.live is not None and state.live.stage in (Stage.READY, Stage.DRAINING)
    return Status(
        state=state.phase.value,
        provider=settings.provider,
        model=ModelStatus(
            configured=settings.configured_model,
            serving=spec.model if spec is not None and is_serving else None,
            override=settings.override,
            profile=spec.profile if spec is not None else None,
            demanded=settings.demanded,
            goal=state.goal.model if state.goal is not None else None,
        ),
        worker=_worker(settings, state, spec, facts, wall),
        endpoint=facts.endpoints,
        requests=facts.requests,
        last_failure=_failure(state.last_failure, wall, is_over=_is_over(state)),
        wanted=_failure(state.rejected, wall),
        retry_at=wall.iso(state.retry_at) if state.retry_at is not None else None,
        config=ConfigStatus(settings.env_file, facts.loaded_at, facts.config_error),
        engine=EngineStatus(settings.engine.path, settings.engine.version, settings.engine.is_cpu),
        gpus=facts.gpus,
        warnings=facts.warnings,
        version=facts.daemon.version,
        daemon=facts.daemon,
        waiting_for=_waiting(state.shortage) if state.phase is Phase.BACKOFF else None,
        adapted=_adapted(plan.memory, wall) if plan is not None else (),
        idle=IdleStatus(wall.iso(state.idle.since), state.idle.after_s) if state.idle else None,
        findings=facts.findings,
        standby=facts.standby,
        asleep=facts.asleep,
        beside=_beside(state.beside, facts, wall),
    )


def _worker(
    settings: Settings, state: State, spec: LaunchSpec | None, facts: Facts, wall: Wall
) -> WorkerStatus | None:
    if state.live is None or spec is None:
        return None
    progress = facts.progress if state.live.stage is Stage.STARTING else None
    utilization = spec.option("gpu-memory-utilization")
    length = spec.option("max-model-len")
    reported = facts.progress.max_model_len if facts.progress else None
    return WorkerStatus(
        generation=state.live.generation,
        pid=facts.pid,
        phase=state.live.stage.value,
        sub_phase=progress.sub_phase if progress else None,
        progress=progress.fraction if progress else None,
        since=wall.iso(state.live.since),
        restarts=state.restarts,
        gpu_memory_utilization=float(utilization) if isinstance(utilization, int | float) else None,
        max_model_len=reported or (length if isinstance(length, int) else None),
        engine_version=settings.engine.version,
        adapted=_adapted(state.live.plan.memory, wall),
        model=spec.model,
    )


def _beside(beside: Live | None, facts: Facts, wall: Wall) -> BesideStatus | None:
    if beside is None:
        return None
    progress = facts.beside_progress if beside.stage is Stage.STARTING else None
    return BesideStatus(
        model=beside.plan.launch.model,
        generation=beside.generation,
        pid=facts.beside_pid,
        phase=beside.stage.value,
        sub_phase=progress.sub_phase if progress else None,
        progress=progress.fraction if progress else None,
        since=wall.iso(beside.since),
    )


def _adapted(memory: Memory, wall: Wall) -> tuple[AdaptedStatus, ...]:
    """Return what differs from what was asked for, each with the last step that touched it."""
    found = []
    for change in changes_between(memory.asked, memory.current):
        last = next(
            (s for s in reversed(memory.steps) if change.option in {c.option for c in s.changes}),
            None,
        )
        found.append(
            AdaptedStatus(
                option=change.option,
                asked=change.before,
                used=change.after,
                reason=last.reason if last else "",
                cause=last.cause if last else "",
                at=wall.iso(last.at) if last else "",
            )
        )
    return tuple(found)


def _waiting(shortage: Shortage | None) -> WaitStatus | None:
    if shortage is None:
        return None
    return WaitStatus(
        device=shortage.device,
        memory_free=shortage.free_bytes,
        memory_wanted=shortage.wanted_bytes,
        memory_total=shortage.total_bytes,
        holders=tuple(
            HolderStatus(h.pid, h.user, h.command, h.memory_bytes) for h in shortage.holders
        ),
    )


def _is_over(state: State) -> bool:
    """Whether nothing is left to wait for after the last failure."""
    live, failure = state.live, state.last_failure
    if live is None or live.stage is not Stage.READY or failure is None:
        return False
    is_back = failure.goal == live.plan.goal and failure.at <= live.since
    return state.is_served or is_back or failure.goal != state.goal


def _failure(failure: Failure | None, wall: Wall, *, is_over: bool = False) -> FailureStatus | None:
    if failure is None:
        return None
    diagnosis = failure.diagnosis
    return FailureStatus(
        at=wall.iso(failure.at),
        model=failure.goal.model,
        cause=diagnosis.cause.value,
        evidence=diagnosis.evidence,
        remedy=diagnosis.remedy,
        action=failure.action,
        line=diagnosis.line,
        changed=tuple(ChangeStatus(c.option, c.before, c.after) for c in failure.changes),
        is_over=is_over,
    )
