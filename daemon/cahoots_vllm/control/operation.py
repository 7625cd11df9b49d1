"""One operation: who asked for what, how far it is, how it ended. Plain values."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from cahoots_vllm.core.errors import Kind, problem_view
from cahoots_vllm.core.fit.checks import Check
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.wire import OperationState


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asked, as the kernel says (SO_PEERCRED)."""

    uid: int
    pid: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is, in words and, where known, as a fraction 0..1 of the sub-phase."""

    phase: str
    text: str
    sub_phase: str | None = None
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Why it failed: a kind for programs, the rest for people."""

    kind: Kind
    detail: str
    remedy: str
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What must be there for the operation to be done; `after` asks for a younger worker."""

    goal: LaunchSpec | None
    after: int = -1


@dataclass(frozen=True, slots=True)
class Before:
    """Where an abort goes back to: the goal, and the override that `swap-model` had set.

    `is_as_set`: the goal was what the settings asked for, so what they ask for now is what counts.
    `demanded`: the model that requests had asked for.
    """

    goal: LaunchSpec | None
    override: str | None = None
    is_as_set: bool = False
    demanded: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One snapshot of an operation; `params` are the request's."""

    id: str
    kind: str
    params: Mapping[str, str]
    by: Caller
    started_at: str
    state: OperationState = OperationState.RUNNING
    ended_at: str | None = None
    progress: Progress | None = None
    result: Mapping[str, str] | None = None
    problem: Problem | None = None
    # What the look before the start has said of the model: warnings, and whether it fits.
    looked: tuple[Check, ...] = ()
    # What is left to do once the target is reached: a line of `.env`, written by `Reloader`.
    is_to_be_saved: bool = field(default=False, repr=False)
    target: Target = field(default_factory=lambda: Target(None), repr=False)
    before: Before = field(default_factory=lambda: Before(None), repr=False)


def operation_view(operation: Operation) -> dict[str, object]:
    """Return what the API shows of an operation, ready for JSON."""
    view: dict[str, object] = {
        "id": operation.id,
        "kind": operation.kind,
        "params": dict(operation.params),
        "by": asdict(operation.by),
        "state": str(operation.state),
        "started_at": operation.started_at,
        "ended_at": operation.ended_at,
        "progress": asdict(operation.progress) if operation.progress else None,
        "result": dict(operation.result) if operation.result is not None else None,
        "problem": None,
        "looked": [asdict(check) for check in operation.looked],
    }
    problem = operation.problem
    if problem is not None:
        more = {"cause": problem.cause} if problem.cause is not None else {}
        view["problem"] = problem_view(problem.kind, problem.detail, problem.remedy, **more)
    return view
