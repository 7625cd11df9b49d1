"""A worker that starts beside the one that serves, and takes its place once a token came out.

Part of the lifecycle: pure, called by core.lifecycle only. The newcomer that fails costs nobody
anything: what serves goes on. Where memory was too small for both, it is started alone next.
"""

from dataclasses import replace

from cahoots_vllm.core import memory as policy
from cahoots_vllm.core.diagnosis import Cause, Diagnosis, Trait
from cahoots_vllm.core.events import Drain, Drained, Gone, Lost, Measure, Measured, Spawn, Stop
from cahoots_vllm.core.failing import Moment, Step, keep, mend
from cahoots_vllm.core.memory import Room
from cahoots_vllm.core.state import Failure, Live, Plan, Stage, State
from cahoots_vllm.core.wire import SwapStrategy

_BESIDE = (SwapStrategy.AUTO, SwapStrategy.OVERLAP)
_NO_ROOM = Diagnosis(
    Cause.GPU_OOM_STARTUP_FREE,
    "",
    "swap with strategy auto or sequential, or lower gpu-memory-utilization of both",
    is_retryable=True,
    trait=Trait.FREE_TOO_SMALL,
)


def start_beside(state: State, moment: Moment) -> Step | None:
    """Take the next step of a start beside the worker that serves; None: that is to go first."""
    plan, newcomer = state.plan, state.beside
    if newcomer is not None and newcomer.stage is Stage.STARTING:
        return state, ()  # what is under way goes on, however it is to be done by now
    if plan is None or _goes_first(state, plan, moment):
        return None
    if newcomer is not None:
        return state, ()  # one at a time
    if state.room is None:
        if state.measuring == plan.launch:
            return state, ()  # already under way
        return replace(state, measuring=plan.launch), (Measure(plan.launch, is_beside=True),)
    generation = state.generation + 1
    newcomer = Live(generation, plan, Stage.STARTING, moment.now, room=state.room, was_beside=True)
    state = replace(
        state,
        beside=newcomer,
        room=None,
        generation=generation,
        starts_in_a_row=state.starts_in_a_row + 1,
    )
    return state, (Spawn(generation, plan.launch),)


def _goes_first(state: State, plan: Plan, moment: Moment) -> bool:
    way = strategy(state, moment)
    if way not in _BESIDE or state.alone == plan.launch:
        return True
    # Both CPU engines would pin themselves to the same cores.
    return way is SwapStrategy.AUTO and plan.memory.is_cpu


def measured(state: State, live: Live, event: Measured, moment: Moment) -> Step:
    """Decide whether there is room for both."""
    state, plan, room = replace(state, measuring=None), state.plan, Room(event.devices)
    if plan is None:
        return state, ()
    lacking = policy.lacking_beside(plan.memory, room, event.host_available_bytes)
    if lacking is None:
        return replace(state, room=room), ()
    if strategy(state, moment) is SwapStrategy.OVERLAP:
        return _refused(state, live, plan, replace(_NO_ROOM, evidence=lacking), moment), ()
    return replace(state, alone=plan.launch), ()


def drop_unwanted(state: State, now: float) -> Step:
    """Let a newcomer go that is not wanted any more, or need not take anybody's place."""
    live, newcomer = state.live, state.beside
    if newcomer is None or newcomer.stage is not Stage.STARTING:
        return state, ()
    is_wanted = state.goal == newcomer.plan.goal and state.idle is None and state.plan is not None
    is_served = live is not None and live.plan.goal == state.goal and not live.is_leaving
    if is_wanted and not is_served:
        return state, ()
    return _stop(state, newcomer, now, at_once=True)


def switch(state: State, live: Live, now: float) -> Step:
    """Let the newcomer take the place of the one that served until now."""
    newcomer = state.beside
    old = replace(live, stage=Stage.DRAINING, since=now)
    return replace(state, live=newcomer, beside=old), (Drain(live.generation),)


def take_over(state: State, live: Live, newcomer: Live, diagnosis: Diagnosis, now: float) -> Step:
    """Let the newcomer go on as the only one: the one that served has died.

    That is told as a failure, but no strike against the goal: nothing is started again for it.
    """
    action = f"{newcomer.plan.goal.model} takes its place, which is starting already"
    failure = Failure(now, live.plan.goal, diagnosis, action)
    state = replace(state, live=newcomer, measuring=None, room=None, last_failure=failure)
    return _stop(state, live, now, at_once=True)


def observe(state: State, beside: Live, event: Lost | Drained | Gone, moment: Moment) -> Step:
    """Take an event about the one beside."""
    match event, beside.stage:
        case Gone(), Stage.STOPPING:
            return replace(state, beside=None), ()
        case Drained(), Stage.DRAINING:
            return _stop(state, beside, moment.now, at_once=False)
        case Lost(), Stage.DRAINING:
            return _stop(state, beside, moment.now, at_once=True)
        case Lost() as lost, Stage.STARTING:
            return _lost(state, beside, lost, moment)
        case _:
            return state, ()  # stale: it was told to stop, or is gone already


def _lost(state: State, newcomer: Live, event: Lost, moment: Moment) -> Step:
    state, effects = _stop(state, newcomer, moment.now, at_once=True)
    live, plan, diagnosis = state.live, state.plan, event.diagnosis
    if live is None or plan is None:
        return state, effects  # drop_unwanted lets nothing of the kind be
    limits = moment.limits
    answer = policy.plan(newcomer.plan.memory, diagnosis, newcomer.room, limits.memory, moment.now)
    is_forced = strategy(state, moment) is SwapStrategy.OVERLAP
    if answer is not None and not is_forced:
        action = f"starting it once {live.plan.goal.model} has made room"
        failure = Failure(moment.now, plan.goal, diagnosis, action)
        return replace(state, alone=plan.launch, last_failure=failure, starts_in_a_row=0), effects
    is_proven_bad = not diagnosis.is_retryable or state.starts_in_a_row >= limits.unproven_starts
    mended = mend(state, plan.goal, diagnosis, moment.now) if answer is None else None
    if mended is not None:
        state = mended
    elif answer is not None or is_proven_bad:
        state = _refused(state, live, plan, diagnosis, moment)
    else:
        failure = Failure(moment.now, plan.goal, diagnosis, "trying again at once")
        state = replace(state, last_failure=failure)
    return state, effects


def _stop(state: State, gone: Live, now: float, *, at_once: bool) -> Step:
    stopping = replace(gone, stage=Stage.STOPPING, since=now)
    return replace(state, beside=stopping), (Stop(gone.generation, at_once=at_once),)


def _refused(state: State, live: Live, plan: Plan, why: Diagnosis, moment: Moment) -> State:
    kept = keep(state, live, plan.goal, why, moment.now)
    return replace(kept, starts_in_a_row=0, repairs=0, cache_moves=0)


def strategy(state: State, moment: Moment) -> SwapStrategy:
    """Return how the goal is to be reached: as a person said, else as the settings do."""
    return state.strategy or moment.limits.swap
