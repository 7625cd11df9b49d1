"""The life of the one job: what is wanted, what is there, and the next step between them.

`step` first takes an event into the state (`_observe`), then walks from what is there towards
what is wanted (`_advance`): level, not edge. Any step may be interrupted by any event, and the
next round still does the right thing. The shell (control.supervisor) carries out the effects.
"""

from dataclasses import replace
from typing import assert_never

from cahoots_vllm.core import found, overlap
from cahoots_vllm.core.backoff import DEFAULT_LIMITS, Limits
from cahoots_vllm.core.events import (
    Admit,
    Check,
    Checked,
    CheckFailed,
    Cured,
    Drain,
    Drained,
    Event,
    Forget,
    Gone,
    Lost,
    Measure,
    Measured,
    Ready,
    Remember,
    Restart,
    Spawn,
    Stop,
    Tick,
    Unload,
    Wake,
    Want,
)
from cahoots_vllm.core.failing import Fault, Moment, Step, failed
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory import forgiven, worked
from cahoots_vllm.core.sleep import sleeps_for
from cahoots_vllm.core.state import Live, Plan, Stage, State
from cahoots_vllm.core.wishes import cured, forget, restart, unload, wake, want


def step(
    state: State, event: Event, now: float, *, jitter: float = 0.0, limits: Limits = DEFAULT_LIMITS
) -> Step:
    """Return the state after an event and what has to be done, in order.

    `jitter` is a random number in [0, 1) for the backoff. An event about a worker or a goal that
    is not the current one is stale and ignored.
    """
    moment = Moment(now, jitter, limits)
    state, observed = _observe(state, event, moment)
    state, dropped = overlap.drop_unwanted(state, now)
    state, advanced = _advance(state, moment)
    return state, observed + dropped + advanced


def _observe(state: State, event: Event, moment: Moment) -> Step:
    match event:
        case Want() | Restart() | Checked() | CheckFailed() | Measured() | Cured() | Forget():
            return _observe_goal(state, event, moment)
        case Ready() | Lost() | Drained() | Gone() | Tick():
            return _observe_worker(state, event, moment)
        case Unload():
            return unload(state, event, moment.now)
        case Wake():
            return wake(state)
        case _:
            assert_never(event)


def _observe_goal(
    state: State,
    event: Want | Restart | Checked | CheckFailed | Measured | Cured | Forget,
    moment: Moment,
) -> Step:
    match event:
        case Want():
            observed = want(state, event.goal, event.strategy)
        case Restart():
            observed = restart(state)
        case Checked():
            observed = found.checked(state, event, moment)
        case CheckFailed():
            observed = found.check_failed(state, event, moment)
        case Measured():
            observed = found.measured(state, event, moment)
        case Cured():
            observed = cured(state)
        case Forget():
            observed = forget(state, event)
        case _:
            assert_never(event)
    return observed


def _observe_worker(
    state: State, event: Ready | Lost | Drained | Gone | Tick, moment: Moment
) -> Step:
    beside = state.beside
    if beside is not None and not isinstance(event, Tick) and event.generation == beside.generation:
        return _observe_beside(state, beside, event, moment)
    match event:
        case Ready():
            observed = _ready(state, event.generation, moment.now)
        case Lost():
            observed = _lost(state, event, moment)
        case Drained():
            observed = _drained(state, event.generation, moment)
        case Gone():
            observed = _gone(state, event.generation)
        case Tick():
            observed = _tick(state, moment.now)
        case _:
            assert_never(event)
    return observed


def _observe_beside(
    state: State, beside: Live, event: Ready | Lost | Drained | Gone, moment: Moment
) -> Step:
    if not isinstance(event, Ready):
        return overlap.observe(state, beside, event, moment)
    if state.live is None or beside.stage is not Stage.STARTING:
        return state, ()  # stale: it was told to stop
    state, drain = overlap.switch(state, state.live, moment.now)
    state, admit = _ready(state, event.generation, moment.now)
    return state, admit + drain


def _live(state: State, generation: int, *stages: Stage) -> Live | None:
    """Return the live worker if it is this generation in one of these stages."""
    live = state.live
    if live is None or live.generation != generation or live.stage not in stages:
        return None
    return live


def _ready(state: State, generation: int, now: float) -> Step:
    live = _live(state, generation, Stage.STARTING)
    if live is None:
        return state, ()  # stale: it was told to stop, or is lost already
    plan = replace(live.plan, memory=worked(live.plan.memory))
    live = replace(live, stage=Stage.READY, since=now, plan=plan)
    has_plan = state.plan is not None and state.plan.goal == plan.goal
    state = replace(
        state,
        live=live,
        plan=plan if has_plan and not live.is_forgotten else state.plan,
        last_good=state.plan if live.is_forgotten and has_plan else plan,
        starts_in_a_row=0,
    )
    if live.is_forgotten:
        return state, (Admit(generation),)
    return state, (Admit(generation), Remember(plan.goal, plan.launch, plan.memory))


def _lost(state: State, event: Lost, moment: Moment) -> Step:
    live = _live(state, event.generation, Stage.STARTING, Stage.READY, Stage.DRAINING)
    if live is None:
        return state, ()  # stale, or its end was asked for
    since_s = moment.now - live.since
    if live.stage is Stage.READY and since_s >= moment.limits.reset_after_ready_s:
        live = replace(live, plan=replace(live.plan, memory=forgiven(live.plan.memory)))
        state = replace(state, live=live, strikes=(), repairs=0, cache_moves=0)
    if (newcomer := state.beside) is not None and newcomer.stage is Stage.STARTING:
        return overlap.take_over(state, live, newcomer, event.diagnosis, moment.now)
    stopping, effects = _stop(state, live, moment.now, at_once=True)
    if live.is_leaving or live.stage is Stage.DRAINING or state.goal != live.plan.goal:
        return stopping, effects  # it was on its way out: its end is no failure of the goal
    fault = Fault(live.plan.goal, event.diagnosis, live, event.host_available_bytes)
    state, more = failed(stopping, fault, moment)
    return state, effects + more


def _drained(state: State, generation: int, moment: Moment) -> Step:
    live = _live(state, generation, Stage.DRAINING)
    if live is None:
        return state, ()  # stale, or the drain was cancelled: requests go there again
    bed = sleeps_for(state, live, overlap.strategy(state, moment))
    return _stop(state, live, moment.now, at_once=False, bed=bed)


def _gone(state: State, generation: int) -> Step:
    if _live(state, generation, Stage.STOPPING) is None:
        return state, ()  # stale: only a stop that was asked for is answered
    return replace(state, live=None), ()


def _tick(state: State, now: float) -> Step:
    if state.retry_at is None or now < state.retry_at:
        return state, ()  # an older wake-up: the wait was ended or prolonged
    return replace(state, retry_at=None), ()


def _stop(
    state: State, live: Live, now: float, *, at_once: bool, bed: LaunchSpec | None = None
) -> Step:
    stopping = replace(live, stage=Stage.STOPPING, since=now)
    # What was measured beside it counts no more.
    state = replace(state, live=stopping, measuring=None, room=None)
    return state, (Stop(live.generation, at_once=at_once, sleeps_for=bed),)


def _advance(state: State, moment: Moment) -> Step:
    """Take the next step from what is there towards the goal."""
    if state.live is not None:
        return _advance_live(state, state.live, moment)
    if state.goal is None or state.is_failed or state.retry_at is not None:
        return state, ()
    if state.idle is not None:
        return state, ()  # until a request, or a person, asks for it
    if state.plan is None:
        return _check(state, state.goal)
    if state.room is None or state.beside is not None:
        return _measure(state, state.plan)
    generation = state.generation + 1
    live = Live(generation, state.plan, Stage.STARTING, moment.now, room=state.room)
    state = replace(
        state,
        live=live,
        room=None,
        generation=generation,
        starts_in_a_row=state.starts_in_a_row + 1,
        restarts=state.restarts + (1 if state.strikes else 0),
    )
    return state, (Spawn(generation, live.plan.launch),)


def _measure(state: State, plan: Plan) -> Step:
    if state.measuring == plan.launch or state.beside is not None:
        return state, ()  # already under way, or what it would find is still held
    return replace(state, measuring=plan.launch), (Measure(plan.launch),)


def _advance_live(state: State, live: Live, moment: Moment) -> Step:
    is_goal = state.goal == live.plan.goal and not live.is_leaving and state.idle is None
    match live.stage:
        case Stage.STOPPING:
            return state, ()
        case Stage.DRAINING:
            return _take_back(state, live, moment.now) if is_goal else (state, ())
        case Stage.STARTING | Stage.READY:
            return (state, ()) if is_goal else _leave(state, live, moment)
        case _:
            assert_never(live.stage)


def _take_back(state: State, live: Live, now: float) -> Step:
    """Let a draining worker serve on: the swap was taken back in time, it is still whole."""
    back = replace(live, stage=Stage.READY, since=now)
    return replace(state, live=back, plan=live.next_plan), (Admit(live.generation),)


def _leave(state: State, live: Live, moment: Moment) -> Step:
    """Let a worker make room, but only for a goal that passed preflight."""
    goal = state.goal if state.idle is None else None
    if goal is not None and state.plan is None:
        return _check(state, goal)
    if live.stage is Stage.STARTING:
        return _stop(state, live, moment.now, at_once=True)  # no request was ever sent there
    if goal is not None and (started := overlap.start_beside(state, moment)) is not None:
        return started
    draining = replace(live, stage=Stage.DRAINING, since=moment.now)
    state = replace(state, live=draining, measuring=None, room=None)
    return state, (Drain(live.generation),)


def _check(state: State, goal: LaunchSpec) -> Step:
    if state.checking == goal:
        return state, ()  # already under way
    is_suspect = state.cache_moves > 0
    check = Check(goal, repairs=state.repairs > 0, moves_caches=is_suspect)
    return replace(state, checking=goal), (check,)
