"""What people, the settings, requests and a cure ask of the lifecycle.

Part of the lifecycle: pure, called by core.lifecycle only.
"""

from dataclasses import replace

from cahoots_vllm.core.events import CancelCheck, Forget, Unload
from cahoots_vllm.core.failing import Step, cleared, with_sizes
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory import fresh
from cahoots_vllm.core.state import Idle, Plan, Stage, State
from cahoots_vllm.core.wire import SwapStrategy


def want(state: State, goal: LaunchSpec | None, strategy: SwapStrategy | None = None) -> Step:
    """Take a new goal; a person's word clears every earlier verdict."""
    effects: tuple[CancelCheck, ...] = ()
    plan = state.plan if state.plan is not None and state.plan.goal == goal else None
    if state.is_failed:
        plan = None  # what failed may have been mended on disk or at the hub: look again
    live, is_kept = state.live, False
    if live is not None and live.stage is not Stage.STOPPING and live.plan.goal == goal:
        # What is there is what is wanted: a restart that was under way is taken back.
        live, plan, is_kept = replace(live, is_leaving=False), live.next_plan, True
    if state.checking is not None and (state.checking != goal or is_kept):
        effects = (CancelCheck(),)
    state = replace(
        cleared(state),
        goal=goal,
        live=live,
        plan=plan,
        checking=state.checking if not effects else None,
        rejected=None,
        strategy=strategy,
    )
    return state, effects


def restart(state: State) -> Step:
    """Let the worker be replaced after a fresh preflight; without a worker, try at once."""
    state = cleared(state)
    if state.goal is None:
        return state, ()  # off: nothing to restart, the caller says so
    live = state.live
    if live is not None and live.stage is not Stage.STOPPING:
        live = replace(live, is_leaving=True)
    return replace(state, live=live, plan=None, rejected=None, strategy=None), ()


def cured(state: State) -> Step:
    """Try again what a person would have to start again: what it lacked is there."""
    if not state.is_failed or state.goal is None:
        return state, ()  # it was started again meanwhile, or is not wanted any more
    return want(state, state.goal)


def unload(state: State, event: Unload, now: float) -> Step:
    """Let the worker go until a request comes; the goal stays."""
    if not state.is_served or state.idle is not None:
        return state, ()  # something else is under way, or it is idle already
    return replace(state, idle=Idle(now, event.after_s)), ()


def wake(state: State) -> Step:
    """Start what was unloaded again, or keep it where it has not gone yet."""
    return replace(state, idle=None), ()


def forget(state: State, event: Forget) -> Step:
    """Begin the search for sizes anew; a worker that runs keeps its own until it is replaced."""

    def concerns(plan: Plan | None) -> bool:
        return plan is not None and event.source in (None, plan.goal.source)

    plan, live, good = state.plan, state.live, state.last_good
    if plan is not None and concerns(plan):
        plan = with_sizes(replace(plan, memory=fresh(plan.memory)))
    if good is not None and concerns(good):
        good = with_sizes(replace(good, memory=fresh(good.memory)))
    if live is not None and concerns(live.plan):
        memory = replace(live.plan.memory, failed=(), good=None)
        live = replace(live, plan=replace(live.plan, memory=memory), is_forgotten=True)
    return replace(state, plan=plan, live=live, last_good=good), ()
