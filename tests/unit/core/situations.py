"""Every situation the lifecycle can be in, and the whole scripts that lead through them."""

from collections.abc import Sequence

from cahoots_vllm.core.events import (
    Checked,
    CheckFailed,
    Drained,
    Event,
    Gone,
    Lost,
    Ready,
    Restart,
    Tick,
    Unload,
    Wake,
    Want,
)
from unit.core.environment import FATAL, MENDABLE, A, B, C, Environment, fitted

_START_A = (Want(A), Checked(A, fitted(A)), Ready(1))
_DRAIN_FOR_B = (*_START_A, Want(B), Checked(B, fitted(B)))
_LEFT_A_FOR_B = (*_DRAIN_FOR_B, Drained(1), Gone(1))

# By name, the events that lead there; together they cover each stage with each reason to be in it.
SITUATIONS: dict[str, Sequence[Event]] = {
    "off": (),
    "preparing": (Want(A),),
    "starting": (Want(A), Checked(A, fitted(A))),
    "ready": _START_A,
    "starting, swap in preflight": (Want(A), Checked(A, fitted(A)), Want(B)),
    "ready, swap in preflight": (*_START_A, Want(B)),
    "ready, restart in preflight": (*_START_A, Restart()),
    "draining for a swap": _DRAIN_FOR_B,
    "draining for a restart": (*_START_A, Restart(), Checked(A, fitted(A))),
    "draining to off": (*_START_A, Want(None)),
    "draining, idle": (*_START_A, Unload(600.0)),
    "stopping, idle": (*_START_A, Unload(600.0), Drained(1)),
    "idle": (*_START_A, Unload(600.0), Drained(1), Gone(1)),
    "stopping for a swap": (*_DRAIN_FOR_B, Drained(1)),
    "stopping to off": (*_START_A, Want(None), Drained(1)),
    "stopping, another wanted": (*_START_A, Want(None), Drained(1), Want(B)),
    "stopping, swap in preflight": (*_START_A, Want(B), Lost(1, MENDABLE)),
    "stopping after a crash": (Want(A), Checked(A, fitted(A)), Lost(1, MENDABLE)),
    "stopping after giving up": (*_START_A, Lost(1, FATAL)),
    "backoff": (Want(A), Checked(A, fitted(A)), Lost(1, MENDABLE), Gone(1)),
    "backoff after preflight": (Want(A), CheckFailed(A, MENDABLE)),
    "failed": (*_START_A, Lost(1, FATAL), Gone(1)),
    "failed in preflight": (Want(A), CheckFailed(A, FATAL)),
    "preparing with a last good": (*_START_A, Want(None), Drained(1), Gone(1), Want(B)),
    "starting with a last good": _LEFT_A_FOR_B,
}

# Whole stories, from nothing to rest.
SCRIPTS: dict[str, Sequence[Event]] = {
    "start": _START_A,
    "swap": (*_LEFT_A_FOR_B, Ready(2)),
    "swap refused by preflight": (*_START_A, Want(B), CheckFailed(B, FATAL)),
    "swap that does not start": (*_LEFT_A_FOR_B, Lost(2, FATAL), Gone(2), Ready(3)),
    "swap that does not start twice": (
        *(*_LEFT_A_FOR_B, Lost(2, MENDABLE), Gone(2), Tick()),
        *(Lost(3, MENDABLE), Gone(3), Ready(4)),
    ),
    "swap superseded": (*_START_A, Want(B), Want(C), Checked(C, fitted(C)), Drained(1), Gone(1)),
    "swap taken back": (*_DRAIN_FOR_B, Want(A)),
    "restart": (*_START_A, Restart(), Checked(A, fitted(A)), Drained(1), Gone(1), Ready(2)),
    "stop": (*_START_A, Want(None), Drained(1), Gone(1)),
    "idle and woken": (
        *(*_START_A, Unload(600.0), Drained(1), Gone(1)),
        *(Wake(), Ready(2)),
    ),
    "woken in time": (*_START_A, Unload(600.0), Wake()),
    "crash": (*_START_A, Lost(1, MENDABLE), Gone(1), Tick(), Ready(2)),
    "late network": (Want(A), CheckFailed(A, MENDABLE), Tick(), Checked(A, fitted(A)), Ready(1)),
}


def arrange(name: str) -> Environment:
    """Return a world in the named situation."""
    return Environment().play(SITUATIONS[name])
