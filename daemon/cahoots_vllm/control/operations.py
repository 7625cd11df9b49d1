"""Operations: what was asked of the daemon and takes longer than a second.

One mutating operation at a time. Whether one is over is read off the lifecycle's state after each
step, so nothing an operation waits for can be missed.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from cahoots_vllm.control.operation import Before, Caller, Operation, Problem, Progress, Target
from cahoots_vllm.core.diagnosis import Cause
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.fit.checks import Check
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.state import Stage, State
from cahoots_vllm.core.wire import OperationState, Phase

_KEPT = 100
PULL = "pull"


class Operations:
    """The running operation and the last ones."""

    def __init__(self) -> None:
        """Start with none."""
        self._all: dict[str, Operation] = {}
        self._next = 1
        self._changed = asyncio.Event()
        # Operations that have reached their target and are to be saved.
        self.to_save: asyncio.Queue[Operation] = asyncio.Queue()
        self._saving = ""

    @property
    def running(self) -> Operation | None:
        """The one mutating operation under way; a pull takes hours and is in nobody's way."""
        return self._under_way(is_pull=False)

    @property
    def pull(self) -> Operation | None:
        """The one pull under way."""
        return self._under_way(is_pull=True)

    def _under_way(self, *, is_pull: bool) -> Operation | None:
        newest_first = reversed(self._all.values())
        open_ones = (o for o in newest_first if not o.state.is_over)
        return next((o for o in open_ones if (o.kind == PULL) is is_pull), None)

    def newest_first(self) -> list[Operation]:
        """Return the operations that are kept."""
        return list(reversed(self._all.values()))

    def get(self, id_: str) -> Operation:
        """Return an operation. Raises CahootsError (NOT_FOUND)."""
        if id_ not in self._all:
            raise CahootsError(
                Kind.NOT_FOUND, f"no operation {id_}", "list them: cahootsctl operations"
            )
        return self._all[id_]

    def begin(
        self,
        kind: str,
        params: Mapping[str, str],
        by: Caller,
        target: Target,
        before: Before,
        *,
        saves: bool = False,
    ) -> Operation:
        """Start an operation; the caller has made sure that none is running.

        `saves`: reaching the target is not the end, `to_save` gets it then.
        """
        operation = Operation(
            id=str(self._next),
            kind=kind,
            params=params,
            by=by,
            started_at=_now(),
            target=target,
            before=before,
            is_to_be_saved=saves,
        )
        self._next += 1
        self._put(operation)
        while len(self._all) > _KEPT:
            del self._all[next(o.id for o in self._all.values() if o.state.is_over)]
        return operation

    def refuse_if_busy(self) -> None:
        """Raise CahootsError (BUSY) naming the running operation."""
        self._refuse(self.running)

    def refuse_if_pulling(self) -> None:
        """Raise CahootsError (BUSY) naming the running pull."""
        self._refuse(self.pull)

    def _refuse(self, running: Operation | None) -> None:
        if running is not None:
            what = " ".join((running.kind, *running.params.values()))
            raise CahootsError(
                Kind.BUSY,
                f"operation {running.id} ({what}) is running",
                f"wait for it: cahootsctl operations wait {running.id}; "
                f"or end it: cahootsctl operations abort {running.id}",
                operation=running.id,
            )

    def advance(self, progress: Progress) -> Operation | None:
        """Note the progress of the running operation; return it if it changed."""
        running = self.running
        if running is None or running.progress == progress:
            return None
        return self._put(replace(running, progress=progress))

    def advance_pull(self, progress: Progress) -> Operation | None:
        """Note the progress of the running pull; return it if it changed."""
        pull = self.pull
        if pull is None or pull.progress == progress:
            return None
        return self._put(replace(pull, progress=progress))

    def looked(self, model: str, checks: tuple[Check, ...]) -> None:
        """Note what the look before a start has said; it is published with the next progress."""
        running = self.running
        goal = running.target.goal if running is not None else None
        if running is not None and goal is not None and goal.model == model:
            self._put(replace(running, looked=checks))

    def settle(self, state: State, result: Mapping[str, str]) -> Operation | None:
        """End the running operation if the state says that it is over; return it then."""
        running = self.running
        if running is None:
            return None
        verdict, problem = _verdict(running.target, state)
        if verdict is OperationState.RUNNING:
            return None
        if verdict is OperationState.DONE and running.is_to_be_saved:
            if self._saving != running.id:
                self._saving = running.id
                self.to_save.put_nowait(running)
            return None
        return self._end(running, verdict, result, problem)

    def saved(
        self, id_: str, result: Mapping[str, str], problem: Problem | None
    ) -> Operation | None:
        """End an operation after what it left to do; None where it has ended otherwise."""
        operation = self.get(id_)
        if operation.state.is_over:
            return None
        state = OperationState.DONE if problem is None else OperationState.FAILED
        return self._end(operation, state, result, problem)

    def supersede(self, goal: LaunchSpec | None) -> Operation | None:
        """End the running operation if it works for another goal; return it then."""
        running = self.running
        if running is None or running.target.goal == goal:
            return None
        state, problem = _superseded()
        return self._end(running, state, {}, problem)

    def abort(self, id_: str) -> Operation:
        """End a running operation as aborted. Raises CahootsError (NOT_FOUND, CONFLICT)."""
        operation = self.get(id_)
        if operation.state.is_over:
            raise CahootsError(
                Kind.CONFLICT, f"operation {id_} is over", "nothing is left to abort"
            )
        problem = Problem(Kind.ABORTED, "aborted on request", "ask again when you want it")
        return self._end(operation, OperationState.ABORTED, {}, problem)

    async def wait(self, id_: str, timeout_s: float) -> Operation:
        """Return the operation once it is over, or as it is when the time has run out."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.get(id_).state.is_over:
                    await self._changed.wait()
        except TimeoutError:
            pass  # the caller sees from the state that it still runs
        return self.get(id_)

    def _end(
        self,
        operation: Operation,
        state: OperationState,
        result: Mapping[str, str],
        problem: Problem | None,
    ) -> Operation:
        is_done = state is OperationState.DONE
        return self._put(
            replace(
                operation,
                state=state,
                ended_at=_now(),
                result=result if is_done else None,
                problem=problem,
            )
        )

    def _put(self, operation: Operation) -> Operation:
        self._all[operation.id] = operation
        self._changed.set()
        self._changed = asyncio.Event()
        return operation


def _verdict(target: Target, state: State) -> tuple[OperationState, Problem | None]:
    """Return whether the target is reached, can no longer be, or is still on its way."""
    goal, live = target.goal, state.live
    if goal is None:
        if state.goal is not None:
            return _superseded()
        is_there = live is not None or state.beside is not None
        return (OperationState.RUNNING if is_there else OperationState.DONE), None
    if (problem := _problem(goal, target, state)) is not None:
        return OperationState.FAILED, problem
    if state.goal != goal:
        return _superseded()
    if state.idle is not None:
        return OperationState.DONE, None  # it would be there if anybody asked
    is_there = live is not None and live.stage is Stage.READY and not live.is_leaving
    if live is None or live.plan.goal != goal or live.generation <= target.after:
        is_there = False
    return (OperationState.DONE if is_there else OperationState.RUNNING), None


def _problem(goal: LaunchSpec, target: Target, state: State) -> Problem | None:
    """Return why a goal is not reached, None while it may be, or where another is wanted."""
    # A restart that was refused says nothing of a later operation that needs no younger worker.
    is_refused = state.goal != goal or target.after >= 0
    if state.rejected is not None and state.rejected.goal == goal and is_refused:
        diagnosis = state.rejected.diagnosis
        remedy = f"{diagnosis.remedy} ({state.rejected.action})"
        return Problem(Kind.MODEL_UNUSABLE, diagnosis.evidence, remedy, diagnosis.cause)
    if state.goal != goal:
        return None
    if state.is_failed and state.last_failure is not None:
        diagnosis = state.last_failure.diagnosis
        return Problem(Kind.WORKER_FAILED, diagnosis.evidence, diagnosis.remedy, diagnosis.cause)
    if state.shortage is not None and state.phase is Phase.BACKOFF:
        remedy = "end what holds the memory; it starts by itself as soon as there is enough"
        short = str(state.shortage)
        return Problem(Kind.WORKER_FAILED, short, remedy, Cause.GPU_OOM_STARTUP_FREE)
    return None


def _superseded() -> tuple[OperationState, Problem]:
    problem = Problem(Kind.ABORTED, "superseded by a newer wish", "see cahootsctl status")
    return OperationState.ABORTED, problem


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
