"""What a daemon that was started again goes on with: most of all a worker that outlived the last.

Pure; control.handover keeps the state in between.
"""

from dataclasses import replace

from cahoots_vllm.core.events import Event, Tick, Want
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.state import Stage, State


def taken_over(state: State) -> State:
    """Return the state to go on from.

    What was under way beside the worker (preflight, measuring, a drain, a wait) is begun again by
    the next step. A worker that was being stopped, or was beside the one that serves, is ended by
    who takes over, so there is none.
    """
    live = state.live
    state = replace(state, beside=None, checking=None, measuring=None, room=None, retry_at=None)
    if live is None or live.stage is Stage.STOPPING:
        return without_worker(state)
    if live.stage is Stage.DRAINING:
        live = replace(live, stage=Stage.READY)
    return replace(state, live=live)


def without_worker(state: State) -> State:
    """Return the state to go on from where no worker is left: a new daemon tries again.

    What is wanted stays, so what a person stopped stays stopped.
    """
    return replace(
        state,
        live=None,
        plan=None,
        is_failed=False,
        strikes=(),
        repairs=0,
        cache_moves=0,
        starts_in_a_row=0,
    )


def first_event(state: State, configured: LaunchSpec | None, *, was_local: bool) -> Event:
    """Return what to begin with, given what the settings of now ask for.

    A restart of the daemon is no reason to try again what failed before, nor to undo a stop.
    `was_local`: a model was wanted on this host before.
    """
    if configured is None:
        return Want(None)
    is_stopped = state.goal is None and was_local
    is_rejected = state.rejected is not None and state.rejected.goal == configured
    if is_stopped or is_rejected or state.goal == configured:
        return Tick()  # no wake-up of its own: the next step goes on from what is there
    return Want(configured)
