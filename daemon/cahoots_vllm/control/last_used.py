"""When a worker last served each model, kept in the state file: what has not been used may go."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from cahoots_vllm.control.state_file import StateFile
from cahoots_vllm.core.state import Stage, State

_KEPT = 200
_AGAIN_S = 3600.0  # a daemon that is killed forgets so much of a long service
_PREFIX = "models--"

Times = Mapping[str, float]


def used_key(directory: Path) -> str:
    """Return REPO@COMMIT for a snapshot of the hub's cache, the path of any other directory."""
    repo, snapshots = directory.parent.parent.name, directory.parent.name
    if snapshots != "snapshots" or not repo.startswith(_PREFIX):
        return str(directory)
    return f"{repo.removeprefix(_PREFIX).replace('--', '/')}@{directory.name}"


class LastUsed:
    """Seconds since 1970, by what was served; those used longest ago are forgotten first."""

    def __init__(
        self, times: Times, save: Callable[[Times], None], now: Callable[[], float] = time.time
    ) -> None:
        """`times` are those of earlier daemons; `save` writes all of them."""
        self._times = dict(times)
        self._save = save
        self._now = now
        self._written_at = 0.0

    def update(self, before: State, after: State) -> None:
        """Note in a step of the lifecycle what is served, and what no longer is."""
        was, served = _served(before), _served(after)
        is_due = served is not None and abs(self._now() - self._written_at) > _AGAIN_S
        if was == served and not is_due:
            return
        for key in (was, served):
            if key is not None:
                self._times.pop(key, None)
                self._times[key] = self._written_at = round(self._now(), 0)
        while len(self._times) > _KEPT:
            self._times.pop(next(iter(self._times)))
        self._save(self._times)

    def find(self, directory: Path) -> float | None:
        """Return when it was served last; None: never, that is known."""
        return self._times.get(used_key(directory))


def last_used(times: Times, state: StateFile) -> LastUsed:
    """Return one that keeps the times in the state file."""
    return LastUsed(times, lambda now: state.save(last_used=dict(now)))


def _served(state: State) -> str | None:
    live = state.live
    if live is None or live.stage not in (Stage.READY, Stage.DRAINING):
        return None
    return used_key(Path(live.plan.launch.source))
