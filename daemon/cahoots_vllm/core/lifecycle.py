"""The life of the one job: what is wanted, what is there, and the next step between them.

`step` first takes an event into the state (`_observe`), then walks from what is there towards
what is wanted (`_advance`): level, not edge. Any step may be interrupted by any event, and the
next round still does the right thing. The shell (control.supervisor) carries out the effects.
"""

from dataclasses import replace
from typing import assert_never

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
from cahoots_vllm.core.failing import Fault, Moment, Step, failed, fall_back, pass_gate
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory import Room, apply_sizes, begin, forgiven, read_sizes, worked
from cahoots_vllm.core.state import Failure, Live, Plan, Stage, State
from cahoots_vllm.core.wishes import cured, forget, restart, unload, wake, want


def step(
    state: State, event: Event, now: float, *, jitter: float = 0.0, limits: Limits = DEFAULT_LIMITS
) -> Step:
    """Return the state after an event and what has to be done, in order.

    `jitter` is a random number in [0, 1) for the backoff. An event about a worker or a goal that
    is not the current one is stale and ignored.
    """
    state, observed = _observe(state, event, Moment(now, jitter, limits))
    state, advanced = _advance(state, now)
    return state, observed + advanced


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
            observed = want(state, event.goal)
        case Restart():
            observed = restart(state)
        case Checked():
            observed = _checked(state, event, moment)
        case CheckFailed():
            observed = _check_failed(state, event, moment)
        case Measured():
            observed = _measured(state, event, moment)
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
    match event:
        case Ready():
            observed = _ready(state, event.generation, moment.now)
        case Lost():
            observed = _lost(state, event, moment)
        case Drained():
            observed = _drained(state, event.generation, moment.now)
        case Gone():
            observed = _gone(state, event.generation)
        case Tick():
            observed = _tick(state, moment.now)
        case _:
            assert_never(event)
    return observed


def _live(state: State, generation: int, *stages: Stage) -> Live | None:
    """Return the live worker if it is this generation in one of these stages."""
    live = state.live
    if live is None or live.generation != generation or live.stage not in stages:
        return None
    return live


def _checked(state: State, event: Checked, moment: Moment) -> Step:
    if event.goal != state.checking:
        return state, ()  # stale: another goal is being checked, or none
    asked = read_sizes(event.launch)
    memory = begin(asked, event.known, moment.limits.memory, moment.now)
    memory = replace(memory, is_cpu=event.is_cpu)
    launch = apply_sizes(event.launch, memory.current)
    return replace(state, checking=None, plan=Plan(event.goal, launch, memory)), ()


def _check_failed(state: State, event: CheckFailed, moment: Moment) -> Step:
    """Keep what serves; without that, treat it like a failed start."""
    goal, diagnosis = event.goal, event.diagnosis
    if goal != state.checking:
        return state, ()  # stale: another goal is being checked, or none
    state = replace(state, checking=None)
    before = state.last_failure
    if state.repairs and before is not None and diagnosis.cause is before.diagnosis.cause:
        # The engine's own words first: the preflight only says which file it was.
        evidence = f"{before.diagnosis.evidence}; {diagnosis.evidence}"
        diagnosis = replace(diagnosis, evidence=evidence)
    live = state.live
    if live is not None and live.stage in (Stage.STARTING, Stage.READY):
        failure = Failure(moment.now, goal, diagnosis, f"kept {live.plan.goal.model}")
        live = replace(live, is_leaving=False)
        kept = replace(state, live=live, goal=live.plan.goal, plan=live.next_plan)
        return replace(kept, rejected=failure, last_failure=failure), ()
    fallback = state.last_good
    if fallback is not None and fallback.goal != goal:
        return fall_back(state, fallback, goal, diagnosis, moment.now), ()
    return failed(state, Fault(goal, diagnosis), moment)


def _measured(state: State, event: Measured, moment: Moment) -> Step:
    if event.launch != state.measuring:
        return state, ()  # stale: something else is to be started, or nothing
    state = replace(state, measuring=None, room=Room(event.devices))
    return pass_gate(state, moment)


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
        state = replace(state, live=live, strikes=(), repairs=0)
    stopping, effects = _stop(state, live, moment.now, at_once=True)
    if live.is_leaving or live.stage is Stage.DRAINING or state.goal != live.plan.goal:
        return stopping, effects  # it was on its way out: its end is no failure of the goal
    fault = Fault(live.plan.goal, event.diagnosis, live, event.host_available_bytes)
    state, more = failed(stopping, fault, moment)
    return state, effects + more


def _drained(state: State, generation: int, now: float) -> Step:
    live = _live(state, generation, Stage.DRAINING)
    if live is None:
        return state, ()  # stale, or the drain was cancelled: requests go there again
    return _stop(state, live, now, at_once=False)


def _gone(state: State, generation: int) -> Step:
    if _live(state, generation, Stage.STOPPING) is None:
        return state, ()  # stale: only a stop that was asked for is answered
    return replace(state, live=None), ()


def _tick(state: State, now: float) -> Step:
    if state.retry_at is None or now < state.retry_at:
        return state, ()  # an older wake-up: the wait was ended or prolonged
    return replace(state, retry_at=None), ()


def _stop(state: State, live: Live, now: float, *, at_once: bool) -> Step:
    stopping = replace(live, stage=Stage.STOPPING, since=now)
    return replace(state, live=stopping), (Stop(live.generation, at_once=at_once),)


def _advance(state: State, now: float) -> Step:
    """Take the next step from what is there towards the goal."""
    if state.live is not None:
        return _advance_live(state, state.live, now)
    if state.goal is None or state.is_failed or state.retry_at is not None:
        return state, ()
    if state.idle is not None:
        return state, ()  # until a request, or a person, asks for it
    if state.plan is None:
        return _check(state, state.goal)
    if state.room is None:
        return _measure(state, state.plan)
    generation = state.generation + 1
    live = Live(generation, state.plan, Stage.STARTING, now, room=state.room)
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
    if state.measuring == plan.launch:
        return state, ()  # already under way
    return replace(state, measuring=plan.launch), (Measure(plan.launch),)


def _advance_live(state: State, live: Live, now: float) -> Step:
    is_goal = state.goal == live.plan.goal and not live.is_leaving and state.idle is None
    match live.stage:
        case Stage.STOPPING:
            return state, ()
        case Stage.DRAINING:
            return _take_back(state, live, now) if is_goal else (state, ())
        case Stage.STARTING | Stage.READY:
            return (state, ()) if is_goal else _leave(state, live, now)
        case _:
            assert_never(live.stage)


def _take_back(state: State, live: Live, now: float) -> Step:
    """Let a draining worker serve on: the swap was taken back in time, it is still whole."""
    back = replace(live, stage=Stage.READY, since=now)
    return replace(state, live=back, plan=live.next_plan), (Admit(live.generation),)


def _leave(state: State, live: Live, now: float) -> Step:
    """Let a worker make room, but only for a goal that passed preflight."""
    if state.goal is not None and state.idle is None and state.plan is None:
        return _check(state, state.goal)
    if live.stage is Stage.STARTING:
        return _stop(state, live, now, at_once=True)  # no request was ever sent there
    draining = replace(live, stage=Stage.DRAINING, since=now)
    return replace(state, live=draining), (Drain(live.generation),)


def _check(state: State, goal: LaunchSpec) -> Step:
    if state.checking == goal:
        return state, ()  # already under way
    return replace(state, checking=goal), (Check(goal, repairs=state.repairs > 0),)
