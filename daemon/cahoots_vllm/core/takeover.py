"""What a daemon that was started again goes on with: a worker that outlived the last one.

Pure; control.handover keeps the state in between.
"""

from dataclasses import replace

from cahoots_vllm.core.events import Event, Tick, Want
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.state import Stage, State


def taken_over(state: State) -> State | None:
    """Return the state to go on from, None where no worker starts or serves in it.

    What was under way beside the worker (preflight, measuring, a drain) is begun again by the next
    step; a worker that was being stopped is to be ended, not kept.
    """
    live = state.live
    if live is None or live.stage is Stage.STOPPING:
        return None
    if live.stage is Stage.DRAINING:
        live = replace(live, stage=Stage.READY)
    return replace(state, live=live, checking=None, measuring=None, room=None, retry_at=None)


def first_event(state: State, configured: LaunchSpec | None) -> Event:
    """Return what to begin with, given what the settings of now ask for.

    A restart of the daemon is no reason to try again what failed before, nor to undo a stop.
    """
    if configured is None:
        return Want(None)
    is_stopped = state.goal is None
    is_rejected = state.rejected is not None and state.rejected.goal == configured
    if is_stopped or is_rejected or state.goal == configured:
        return Tick()  # no wake-up of its own: the next step goes on from what is there
    return Want(configured)
