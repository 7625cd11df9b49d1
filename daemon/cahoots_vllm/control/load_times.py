"""How long models take to load on this host: when a request that waits can be answered.

Kept in the state file, so that the first start after a boot is foretold too.
"""

from collections.abc import Callable, Mapping
from statistics import median

from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.core.state import Stage, State

_KEPT_STARTS = 5
_KEPT_MODELS = 50
# A start that takes longer than ever is expected to be over soon.
_OVERDUE_S = 5.0

Times = Mapping[str, tuple[float, ...]]


class LoadTimes:
    """Seconds from a worker's spawn to its first token, by what the model is loaded from."""

    def __init__(self, times: Times, save: Callable[[Times], None], rotation: Rotation) -> None:
        """`times` are those of earlier daemons; `save` writes all of them."""
        self._times = dict(times)
        self._save = save
        self._rotation = rotation
        # The generation that was not loaded last.
        self._woken: int | None = None

    def skip(self, generation: int) -> None:
        """Learn nothing from this worker's start: it slept, and was not loaded."""
        self._woken = generation

    def update(self, before: State, after: State, now: float) -> None:
        """Learn from a step of the lifecycle, and foretell the next ready worker."""
        live = after.live
        for was in (before.live, before.beside):
            if (
                was is not None and live is not None and was.generation == live.generation
                and (was.stage, live.stage) == (Stage.STARTING, Stage.READY)
            ):  # fmt: skip
                if live.generation == self._woken:
                    continue
                self._learn(live.plan.goal.source, now - was.since)
        self._rotation.expected_at = self.expected_at(after, now)

    def _learn(self, source: str, seconds: float) -> None:
        times = (*self._times.pop(source, ()), round(seconds, 1))
        self._times[source] = times[-_KEPT_STARTS:]
        while len(self._times) > _KEPT_MODELS:
            self._times.pop(next(iter(self._times)))
        self._save(self._times)

    def expected_at(self, state: State, now: float) -> float | None:
        """Return when a worker should be ready; None where there is one, or nothing is known."""
        goal, live = state.goal, state.live
        if state.beside is not None and state.beside.stage is Stage.STARTING:
            live = state.beside
        known = self._times.get(goal.source) if goal is not None else None
        if goal is None or known is None or state.is_failed:
            return None
        if live is not None and live.plan.goal == goal:
            if live.stage is Stage.READY:
                return None
            if live.stage is Stage.STARTING:
                return max(live.since + median(known), now + _OVERDUE_S)
        return max(now, state.retry_at or now) + median(known)
