"""Swaps on demand: which of the models that requests wait for is served next, and when.

First come, first served by the oldest request for each model; all that wait for a model are served
together. A model that became ready has its minimum stay, so that clients that take turns do not
spend their time on loading; requests in flight count for nothing beyond it, a drain lets them
finish. Pure; control.demand looks and has it done.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.settings import OnDemand, Settings, make_launch_spec
from cahoots_vllm.core.state import Failure, State
from cahoots_vllm.core.wire import Phase

_FIRST_WAIT_S: Final = 60.0
_LONGEST_WAIT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Turn:
    """The goal whose turn it is, since when, and since when it could be served; loop seconds."""

    goal: LaunchSpec
    began: float
    ready_at: float | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The model to change to, None for none now; and when to look again without being told."""

    model: str | None = None
    look_at: float | None = None


@dataclass(frozen=True, slots=True)
class Setback:
    """A model that could not be served: it is not tried again for a request until then."""

    failure: Failure
    wait_s: float
    until: float


def askable_names(settings: Settings) -> dict[str, str]:
    """Return what a request may name to get another model, with the model each name means.

    A name that two models answer to is the one's that people want, else the first profile's.
    """
    if settings.gateway.on_demand is OnDemand.OFF or not settings.is_local:
        return {}
    profiles = (profile.name for profile in settings.profiles)
    names: dict[str, str] = {}
    for model in (settings.home_model, settings.configured_model, *profiles):
        for name in make_launch_spec(settings, model).served:
            names.setdefault(name, model)
    return names


def next_turn(turn: Turn | None, state: State, now: float) -> Turn | None:
    """Return whose turn it is after a step; a crash or a restart in between ends no turn."""
    if state.goal is None:
        return None
    if turn is None or turn.goal != state.goal:
        turn = Turn(state.goal, now)
    if turn.ready_at is None and state.live is not None and state.is_served:
        turn = replace(turn, ready_at=state.live.since)
    return turn


def free_at(turn: Turn, state: State, min_stay_s: float) -> float | None:
    """Return from when on another model may take its place; None: it is on its way, wait.

    What cannot be served keeps nobody from being served; what is still being looked for (a
    download, perhaps) or waits for another try has its stay from its beginning.
    """
    if state.is_failed or state.idle is not None:
        return turn.began
    is_waiting = state.phase is Phase.BACKOFF or state.checking == turn.goal
    if not is_waiting and not state.is_served:
        return None
    return (turn.began if turn.ready_at is None else turn.ready_at) + min_stay_s


def choose(waiting: Mapping[str, float], free_at_: float | None, now: float) -> Choice:
    """Return what to do for those that wait for a model which is not the goal.

    `waiting` has, for each such model, since when its oldest request waits.
    """
    if not waiting or free_at_ is None:
        return Choice()
    if now < free_at_:
        return Choice(look_at=free_at_)
    return Choice(min(waiting, key=lambda model: waiting[model]))


def learn(
    setbacks: Mapping[str, Setback], before: State, state: State, now: float
) -> dict[str, Setback]:
    """Return the setbacks after a step: a failure prolongs, a model that is ready has none."""
    learned = dict(setbacks)
    failure = _new_failure(before, state)
    if failure is not None:
        last = learned.get(failure.goal.model)
        wait_s = _FIRST_WAIT_S if last is None else min(2 * last.wait_s, _LONGEST_WAIT_S)
        learned[failure.goal.model] = Setback(failure, wait_s, now + wait_s)
    if state.goal is not None and state.is_served:
        learned.pop(state.goal.model, None)
    return learned


def _new_failure(before: State, state: State) -> Failure | None:
    """Return the failure by which a model was just given up, None where none was."""
    if state.rejected is not None and state.rejected is not before.rejected:
        return state.rejected
    return state.last_failure if state.is_failed and not before.is_failed else None
