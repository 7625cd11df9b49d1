"""Looks who waits for which model, and for how long nobody has asked for anything.

Looks after each step, when a request begins to wait, and when a stay or an idle time is over; what
it finds is decided by core.demand and done by the supervisor. Owns nothing of the state.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from cahoots_vllm.control.operations import Operations
from cahoots_vllm.control.refusal import make_terms
from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.core.demand import (
    Setback,
    Turn,
    askable_names,
    choose,
    free_at,
    learn,
    next_turn,
)
from cahoots_vllm.core.events import Unload, Wake
from cahoots_vllm.core.settings import Settings
from cahoots_vllm.core.state import State

# A person's operation goes first; its end is found by looking.
_LOOK_S: Final = 0.5


class DemandWatch:
    """Lets the supervisor swap, unload and wake as requests come and stay away."""

    def __init__(
        self,
        rotation: Rotation,
        operations: Operations,
        demand: Callable[[str, str], None],
        send: Callable[[Unload | Wake], None],
    ) -> None:
        """`demand` takes the model to want, and why; `send` takes the other events."""
        self._rotation = rotation
        self._operations = operations
        self._demand = demand
        self._send = send
        self._state = State()
        self._settings: Settings | None = None
        self._names: Mapping[str, str] = {}
        self._turn: Turn | None = None
        self._setbacks: dict[str, Setback] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._is_on = False
        rotation.on_wait = self.look_soon

    def update(self, state: State, settings: Settings) -> None:
        """Take what a step has made of the state."""
        now = asyncio.get_running_loop().time()
        if settings != self._settings:
            self._take_settings(settings)
        self._setbacks = learn(self._setbacks, self._state, state, now)
        self._turn = next_turn(self._turn, state, now)
        self._state = state
        self._rotation.take(make_terms(state, settings, self._names, self._setbacks))
        self.look_soon()

    def start(self) -> None:
        """Look from now on."""
        self._is_on = True
        self.look_soon()

    def stop(self) -> None:
        """Look no more; the terms for requests still follow the state."""
        self._is_on = False

    def _take_settings(self, settings: Settings) -> None:
        old, self._settings = self._settings, settings
        self._names = askable_names(settings)
        if old is not None and replace(old, demanded=None) != replace(settings, demanded=None):
            self._setbacks = {}  # what failed may work now

    def look_soon(self) -> None:
        """Look once what happens now has happened."""
        self._look_at(asyncio.get_running_loop().time())

    def _look_at(self, at: float | None) -> None:
        if self._timer is not None and at is not None and self._timer.when() <= at:
            return
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = None if at is None else loop.call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        settings, turn = self._settings, self._turn
        if settings is None or turn is None or not self._is_on:
            return
        now = asyncio.get_running_loop().time()
        if self._operations.running is not None:
            self._look_at(now + _LOOK_S)
            return
        home_at = self._home_at(settings)
        if home_at is not None and home_at <= now:
            home = settings.home_model
            self._demand(home, f"going back to {home}: {turn.goal.model} cannot be served")
            return
        mine, others = self._oldest(turn)
        is_asleep = self._state.idle is not None
        if is_asleep and mine is not None and mine <= min(others.values(), default=mine):
            self._send(Wake())
            return
        choice = choose(others, free_at(turn, self._state, settings.gateway.min_stay_s), now)
        if choice.model is not None:
            self._demand(choice.model, f"swapping to {choice.model}: asked for by a request")
            return
        ends_at = self._idle_at(settings.gateway.idle_stop_s, now)
        if ends_at is not None and ends_at <= now:
            self._send(Unload(settings.gateway.idle_stop_s))
            return
        ats = (choice.look_at, ends_at, home_at)
        self._look_at(min((at for at in ats if at is not None), default=None))

    def _home_at(self, settings: Settings) -> float | None:
        """Return from when on to try what people want: what requests asked for has failed."""
        if settings.demanded is None or not self._state.is_failed:
            return None
        setback = self._setbacks.get(settings.home_model)
        return 0.0 if setback is None else setback.until

    def _oldest(self, turn: Turn) -> tuple[float | None, dict[str, float]]:
        """Return since when the oldest requests wait: for the goal, and for each other model."""
        mine: float | None = None
        others: dict[str, float] = {}
        for name, since in self._rotation.waiting():
            model = None if name in turn.goal.served else self._names.get(name or "")
            if model is not None:
                others[model] = min(since, others.get(model, since))
            elif mine is None or since < mine:
                mine = since
        return mine, others

    def _idle_at(self, idle_stop_s: float, now: float) -> float | None:
        """Return when the worker has been idle for long enough, as things stand now."""
        live = self._state.live
        if not idle_stop_s or live is None or not self._state.is_served:
            return None
        if self._state.idle is not None or self._state.checking is not None:
            return None
        quiet_since = self._rotation.quiet_since
        if quiet_since is None:
            return now + idle_stop_s  # in use now: not before that
        return max(quiet_since, live.since) + idle_stop_s
