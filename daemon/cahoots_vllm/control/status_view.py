"""Makes the status snapshot of settings, state and what only the host knows."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cahoots_vllm.control.status import (
    AdaptedStatus,
    ChangeStatus,
    ConfigStatus,
    DaemonStatus,
    EngineStatus,
    FailureStatus,
    HolderStatus,
    IdleStatus,
    ModelStatus,
    RequestStatus,
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
from cahoots_vllm.core.state import Failure, Stage, State
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
    findings: Findings = ()


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
        ),
        worker=_worker(settings, state, spec, facts, wall),
        endpoint=facts.endpoints,
        requests=facts.requests,
        last_failure=_failure(state.last_failure, wall),
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


def _failure(failure: Failure | None, wall: Wall) -> FailureStatus | None:
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
    )
