"""What preflight and the look at the memory have found.

Part of the lifecycle: pure, called by core.lifecycle only.
"""

from dataclasses import replace

from cahoots_vllm.core import overlap
from cahoots_vllm.core.events import Checked, CheckFailed, Measured
from cahoots_vllm.core.failing import Fault, Moment, Step, failed, fall_back, keep, pass_gate
from cahoots_vllm.core.memory import Room, apply_sizes, begin, read_sizes
from cahoots_vllm.core.state import Plan, Stage, State


def checked(state: State, event: Checked, moment: Moment) -> Step:
    """Take what is to be started, with the sizes that an earlier start has taught."""
    if event.goal != state.checking:
        return state, ()  # stale: another goal is being checked, or none
    asked = read_sizes(event.launch)
    memory = begin(asked, event.known, moment.limits.memory, moment.now)
    memory = replace(memory, is_cpu=event.is_cpu)
    launch = apply_sizes(event.launch, memory.current)
    return replace(state, checking=None, plan=Plan(event.goal, launch, memory)), ()


def check_failed(state: State, event: CheckFailed, moment: Moment) -> Step:
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
        return keep(state, live, goal, diagnosis, moment.now), ()
    fallback = state.last_good
    if fallback is not None and fallback.goal != goal:
        return fall_back(state, fallback, goal, diagnosis, moment.now), ()
    return failed(state, Fault(goal, diagnosis), moment)


def measured(state: State, event: Measured, moment: Moment) -> Step:
    """Decide on a start with the memory that is there."""
    live = state.live
    if event.launch != state.measuring or event.is_beside != (live is not None):
        return state, ()  # stale: something else is to be started, or nothing
    if live is not None:
        return overlap.measured(state, live, event, moment)
    state = replace(state, measuring=None, room=Room(event.devices))
    return pass_gate(state, moment)
