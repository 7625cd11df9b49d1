"""What a failure leads to: other sizes, a repair, a wait, the last good plan, or the end.

Part of the lifecycle: pure, called by core.lifecycle only.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import assert_never

from cahoots_vllm.core import memory as policy
from cahoots_vllm.core.backoff import Limits, delay_s
from cahoots_vllm.core.diagnosis import Cause, Diagnosis, Trait
from cahoots_vllm.core.events import Effect, Remember, WakeAt
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory import GiveUp, Next, Same, Shortage, Wait
from cahoots_vllm.core.state import Failure, Live, Plan, State, Strike

Step = tuple[State, tuple[Effect, ...]]
# Less than this share of what was left is the noise of a host that lives.
_SHRUNK = 0.02
# What most often does not come again: the first one after good service waits for nothing.
_AT_ONCE = (Cause.ENGINE_DEAD_OTHER, Cause.UNKNOWN)
# A start that was not even tried, or not with what was asked for; the evidence is told by the gate.
_SHORT = Diagnosis(
    Cause.GPU_OOM_STARTUP_FREE,
    "",
    "end what holds the memory, or lower gpu-memory-utilization",
    is_retryable=True,
    trait=Trait.FREE_TOO_SMALL,
)


@dataclass(frozen=True, slots=True)
class Moment:
    """What a decision may depend on besides the state: the time, the dice and the patience."""

    now: float
    jitter: float
    limits: Limits


@dataclass(frozen=True, slots=True)
class Fault:
    """What failed and why; `live` is the worker that did, None where it was a preflight.

    `over` says why no other try can help, where that is known already.
    """

    goal: LaunchSpec
    diagnosis: Diagnosis
    live: Live | None = None
    host_available_bytes: int | None = None
    over: str | None = None


def failed(state: State, fault: Fault, moment: Moment) -> Step:
    """Answer a failure of the goal."""
    live, diagnosis = fault.live, fault.diagnosis
    if live is None or state.plan is None:
        return _strike(state, fault, moment)
    limits = moment.limits.memory
    answer = policy.plan(live.plan.memory, diagnosis, live.room, limits, moment.now)
    if answer is not None:
        return _answer(state, live.plan, fault, moment, answer)
    mended = mend(state, fault.goal, diagnosis, moment.now)
    return (mended, ()) if mended is not None else _strike(state, fault, moment)


def mend(state: State, goal: LaunchSpec, diagnosis: Diagnosis, now: float) -> State | None:
    """Return the state in which damaged files are taken away first, once; None: it is not that."""
    if diagnosis.cause is Cause.CORRUPT_WEIGHTS and state.repairs == 0:
        action = "looking for the damaged file, to fetch it again"
        state = replace(state, repairs=1)
    elif diagnosis.cause is Cause.CACHE_DAMAGED and state.cache_moves == 0:
        action = "moving the engine's caches aside, to start at once without them"
        state = replace(state, cache_moves=1)
    else:
        return None
    return replace(state, plan=None, last_failure=Failure(now, goal, diagnosis, action))


def _answer(state: State, plan: Plan, fault: Fault, moment: Moment, answer: policy.Answer) -> Step:
    """Carry out what the memory policy says."""
    diagnosis = fault.diagnosis
    remember = Remember(plan.goal, plan.launch, answer.memory)
    kept = replace(plan, memory=answer.memory)
    good = state.last_good
    if good is not None and good.goal == plan.goal and isinstance(answer, Next | Wait):
        # Who comes back to it must not begin with what has failed since.
        state = replace(state, last_good=with_sizes(kept))
    match answer:
        case Next():
            fallback = _fallback(state, plan.goal)
            if fallback is not None and answer.memory.tries >= moment.limits.unproven_sizes:
                # What was learned is kept: the next swap goes on from here.
                state = fall_back(state, fallback, plan.goal, diagnosis, moment.now)
                return state, (remember,)
            failure = _changed(plan.goal, diagnosis, answer, moment.now)
            state = replace(state, plan=with_sizes(kept), last_failure=failure, starts_in_a_row=0)
            return state, (remember,)
        case Wait():
            # What is waited for may be more than the squeezed sizes that failed.
            state, effects = wait_for(
                replace(state, plan=with_sizes(kept)),
                plan.goal,
                diagnosis,
                answer.shortage,
                moment,
            )
            return state, (remember, *effects)
        case Same():
            state = replace(state, plan=kept)
            return _strike(state, fault, moment)
        case GiveUp():
            final = replace(diagnosis, is_retryable=False)
            fault = replace(fault, diagnosis=final, over=answer.reason)
            state, effects = _strike(replace(state, plan=kept), fault, moment)
            return state, (remember, *effects)
        case _:
            assert_never(answer)


def _changed(goal: LaunchSpec, diagnosis: Diagnosis, answer: Next, now: float) -> Failure:
    changes = answer.step.changes
    return Failure(now, goal, diagnosis, f"changed {', '.join(map(str, changes))}", changes)


def with_sizes(plan: Plan) -> Plan:
    """Return the plan with the sizes of its search in the launch spec."""
    return replace(plan, launch=policy.apply_sizes(plan.launch, plan.memory.current))


def pass_gate(state: State, moment: Moment) -> Step:
    """Decide, with the devices just measured, whether the plan starts, fits itself in, or waits."""
    plan, room = state.plan, state.room
    if plan is None or room is None:
        return state, ()
    answer = policy.gate(plan.memory, room, moment.limits.memory, moment.now)
    match answer:
        case Same():
            return replace(state, shortage=None), ()
        case Next():
            fitted = with_sizes(replace(plan, memory=answer.memory))
            diagnosis = replace(_SHORT, evidence=answer.step.reason)
            failure = _changed(plan.goal, diagnosis, answer, moment.now)
            return replace(state, plan=fitted, shortage=None, last_failure=failure), ()
        case Wait():
            diagnosis = replace(_SHORT, evidence=str(answer.shortage))
            return wait_for(state, plan.goal, diagnosis, answer.shortage, moment)
        case _:
            assert_never(answer)


def wait_for(
    state: State, goal: LaunchSpec, diagnosis: Diagnosis, shortage: Shortage, moment: Moment
) -> Step:
    """Look again in a while; no start is spent and no failure counted.

    With a good plan to go back to nobody has to wait for what others hold.
    """
    fallback = _fallback(state, goal)
    if fallback is not None:
        return fall_back(state, fallback, goal, diagnosis, moment.now), ()
    at = moment.now + moment.limits.shortage_poll_s
    before, failure = state.shortage, state.last_failure
    if before is None or failure is None or not before.is_like(shortage):
        remedy = f"{diagnosis.remedy}; it starts by itself as soon as the memory is free"
        told = replace(diagnosis, remedy=remedy)
        failure = Failure(moment.now, goal, told, "waiting until it is free")
    state = replace(state, room=None, retry_at=at, shortage=shortage, last_failure=failure)
    return state, (WakeAt(at),)


def _strike(state: State, fault: Fault, moment: Moment) -> Step:
    """Count a failure: go back to the last good plan, give up, or wait and retry."""
    now, limits = moment.now, moment.limits
    goal, diagnosis = fault.goal, fault.diagnosis
    recent = (s for s in state.strikes if now - s.at < limits.window_s)
    strikes = (*recent, Strike(now, fault.host_available_bytes))
    over = fault.over or _is_over(state, strikes, diagnosis, limits)
    fallback = _fallback(state, goal)
    is_unproven = state.starts_in_a_row >= limits.unproven_starts
    if fallback is not None and (over is not None or is_unproven):
        return fall_back(state, fallback, goal, diagnosis, now, over=fault.over), ()
    if over is not None:
        failure = Failure(now, goal, diagnosis, f"gave up: {over}")
        return replace(state, is_failed=True, strikes=strikes, last_failure=failure), ()
    has_served = fault.live is not None and state.starts_in_a_row == 0
    is_at_once = has_served and len(strikes) == 1 and diagnosis.cause in _AT_ONCE
    wait_s = 0.0 if is_at_once else delay_s(len(strikes), moment.jitter, limits)
    when = "at once" if is_at_once else f"in {wait_s:.0f} s"
    failure = Failure(now, goal, diagnosis, f"trying again {when}")
    state = replace(state, strikes=strikes, retry_at=now + wait_s, last_failure=failure)
    return state, (WakeAt(now + wait_s),)


def _fallback(state: State, goal: LaunchSpec) -> Plan | None:
    """Return the last good plan, where that is another than what is wanted."""
    good = state.last_good
    return good if good is not None and good.goal != goal else None


def _is_over(
    state: State, strikes: tuple[Strike, ...], diagnosis: Diagnosis, limits: Limits
) -> str | None:
    """Return why another try is useless, None when it is not."""
    left = [s.host_available_bytes for s in strikes[-limits.shrinking_restarts - 1 :]]
    if not diagnosis.is_retryable:
        return "a person must act"
    # A hub out of reach comes back by itself (a boot before the network is up): no number of tries
    # needs a person.
    if diagnosis.cause is Cause.HUB_NETWORK:
        return None
    if diagnosis.trait is Trait.TRANSIENT and len(strikes) >= limits.transient_failures:
        over = "it came again after a restart; a person must act"
    elif len(strikes) >= limits.failures_in_window:
        over = f"{len(strikes)} failures in {limits.window_s / 60:.0f} min"
    elif state.starts_in_a_row >= limits.starts_in_a_row:
        over = f"{state.starts_in_a_row} starts in a row failed"
    elif len(left) > limits.shrinking_restarts and _is_shrinking(left):
        over = "each restart left less host memory: something leaks"
    else:
        return None
    return over


def _is_shrinking(left: list[int | None]) -> bool:
    return all(a is not None and b is not None and a - b >= _SHRUNK * a for a, b in pairwise(left))


def fall_back(
    state: State,
    plan: Plan,
    goal: LaunchSpec,
    diagnosis: Diagnosis,
    now: float,
    *,
    over: str | None = None,
) -> State:
    """Let the last good plan be the goal again; status says "serving A, wanted B".

    `over` says why no other try of B can help, where the diagnosis does not.
    """
    why = f": {over}" if over is not None else ""
    failure = Failure(now, goal, diagnosis, f"went back to {plan.goal.model}{why}")
    return replace(
        cleared(state), goal=plan.goal, plan=plan, rejected=failure, last_failure=failure
    )


def keep(state: State, live: Live, goal: LaunchSpec, diagnosis: Diagnosis, now: float) -> State:
    """Let what serves be the goal again: the other never came so far as to take its place."""
    failure = Failure(now, goal, diagnosis, f"kept {live.plan.goal.model}")
    return replace(
        state,
        live=replace(live, is_leaving=False),
        goal=live.plan.goal,
        plan=live.next_plan,
        rejected=failure,
        last_failure=failure,
    )


def cleared(state: State) -> State:
    """Return the state without any verdict: a person's word, or a fallback, begins anew."""
    return replace(
        state,
        is_failed=False,
        idle=None,
        strikes=(),
        starts_in_a_row=0,
        repairs=0,
        cache_moves=0,
        retry_at=None,
        measuring=None,
        room=None,
        shortage=None,
        alone=None,
    )
