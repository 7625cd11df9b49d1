"""What the lifecycle does in every situation with every event: the whole table.

"phase: effects" after the event. A pair that is not listed must change nothing at all and ask for
nothing. Why pairs are ignored, by kind of event:

- Want: it is what is wanted already, and nothing has been decided against it.
- Restart: off, where nothing is to be restarted; or a fresh preflight is under way already.
- Checked, CheckFailed: nobody waits for that preflight; it was cancelled or answered.
- Ready: the worker is being stopped, or it is ready already, or it is an earlier worker.
- Lost: its end was asked for, or was noticed already, or it is an earlier worker.
- Drained: nobody drains that worker; the swap was taken back, or it is being stopped already.
- Gone: nobody asked that worker to go; a worker that goes by itself is Lost.
- Tick: nothing is waited for, or the wait is not over yet.
- Cured: the goal has not failed; whatever appeared, it is being tried anyway.
- Measured: the gate is open in this world and answers at once; test_lifecycle_memory closes it.
"""

TRANSITIONS: dict[str, dict[str, str]] = {
    "off": {
        "Want(A)": "preparing: Check(A)",
        "Want(B)": "preparing: Check(B)",
        "Want(C)": "preparing: Check(C)",
    },
    "preparing": {
        "Want(None)": "off: CancelCheck",
        "Checked(A)": "starting: Spawn",
        "CheckFailed(A,mendable)": "backoff: WakeAt",
        "CheckFailed(A,fatal)": "failed",
        "Want(B)": "preparing: CancelCheck, Check(B)",
        "Want(C)": "preparing: CancelCheck, Check(C)",
    },
    "starting": {
        "Want(None)": "stopping: Stop(at_once)",
        "Restart": "starting: Check(A)",
        "Want(A)": "starting",
        "Want(B)": "starting: Check(B)",
        "Want(C)": "starting: Check(C)",
        "Ready(live)": "ready: Admit",
        "Lost(live,mendable)": "stopping: Stop(at_once), WakeAt",
        "Lost(live,fatal)": "stopping: Stop(at_once)",
    },
    "ready": {
        "Want(None)": "draining: Drain",
        "Restart": "ready: Check(A)",
        "Want(B)": "ready: Check(B)",
        "Want(C)": "ready: Check(C)",
        "Lost(live,mendable)": "stopping: Stop(at_once), WakeAt",
        "Lost(live,fatal)": "stopping: Stop(at_once)",
    },
    "starting, swap in preflight": {
        "Want(None)": "stopping: CancelCheck, Stop(at_once)",
        "Restart": "starting",
        "Want(A)": "starting: CancelCheck",
        "Checked(B)": "stopping: Stop(at_once)",
        "CheckFailed(B,mendable)": "starting",
        "CheckFailed(B,fatal)": "starting",
        "Want(C)": "starting: CancelCheck, Check(C)",
        "Ready(live)": "ready: Admit",
        "Lost(live,mendable)": "stopping: Stop(at_once)",
        "Lost(live,fatal)": "stopping: Stop(at_once)",
    },
    "ready, swap in preflight": {
        "Want(None)": "draining: CancelCheck, Drain",
        "Restart": "ready",
        "Want(A)": "ready: CancelCheck",
        "Checked(B)": "draining: Drain",
        "CheckFailed(B,mendable)": "ready",
        "CheckFailed(B,fatal)": "ready",
        "Want(C)": "ready: CancelCheck, Check(C)",
        "Lost(live,mendable)": "stopping: Stop(at_once)",
        "Lost(live,fatal)": "stopping: Stop(at_once)",
    },
    "ready, restart in preflight": {
        "Want(None)": "draining: CancelCheck, Drain",
        "Want(A)": "ready: CancelCheck",
        "Checked(A)": "draining: Drain",
        "CheckFailed(A,mendable)": "ready",
        "CheckFailed(A,fatal)": "ready",
        "Want(B)": "ready: CancelCheck, Check(B)",
        "Want(C)": "ready: CancelCheck, Check(C)",
        "Lost(live,mendable)": "stopping: Stop(at_once)",
        "Lost(live,fatal)": "stopping: Stop(at_once)",
    },
    "draining for a swap": {
        "Want(None)": "draining",
        "Restart": "draining",
        "Want(A)": "ready: Admit",
        "Want(C)": "draining",
        "Lost(live,mendable)": "stopping: Stop(at_once)",
        "Lost(live,fatal)": "stopping: Stop(at_once)",
        "Drained(live)": "stopping: Stop",
    },
    "draining for a restart": {
        "Want(None)": "draining",
        "Want(A)": "ready: Admit",
        "Restart": "draining",
        "Want(B)": "draining",
        "Want(C)": "draining",
        "Lost(live,mendable)": "stopping: Stop(at_once)",
        "Lost(live,fatal)": "stopping: Stop(at_once)",
        "Drained(live)": "stopping: Stop",
    },
    "draining to off": {
        "Want(A)": "ready: Admit",
        "Want(B)": "draining",
        "Want(C)": "draining",
        "Lost(live,mendable)": "stopping: Stop(at_once)",
        "Lost(live,fatal)": "stopping: Stop(at_once)",
        "Drained(live)": "stopping: Stop",
    },
    "stopping for a swap": {
        "Want(None)": "stopping",
        "Restart": "stopping",
        "Want(A)": "stopping",
        "Want(C)": "stopping",
        "Gone(live)": "starting: Spawn",
    },
    "stopping to off": {
        "Want(A)": "stopping",
        "Want(B)": "stopping",
        "Want(C)": "stopping",
        "Gone(live)": "off",
    },
    "stopping, another wanted": {
        "Want(None)": "stopping",
        "Want(A)": "stopping",
        "Want(C)": "stopping",
        "Gone(live)": "preparing: Check(B)",
    },
    "stopping, swap in preflight": {
        "Want(None)": "stopping: CancelCheck",
        "Want(A)": "stopping: CancelCheck",
        "Checked(B)": "stopping",
        "CheckFailed(B,mendable)": "stopping",
        "CheckFailed(B,fatal)": "stopping",
        "Want(C)": "stopping: CancelCheck",
        "Gone(live)": "preparing",
    },
    "stopping after a crash": {
        "Want(None)": "stopping",
        "Restart": "stopping",
        "Tick(due)": "stopping",
        "Want(A)": "stopping",
        "Want(B)": "stopping",
        "Want(C)": "stopping",
        "Gone(live)": "backoff",
    },
    "stopping after giving up": {
        "Want(None)": "stopping",
        "Restart": "stopping",
        "Want(A)": "stopping",
        "Cured": "stopping",
        "Want(B)": "stopping",
        "Want(C)": "stopping",
        "Gone(live)": "failed",
    },
    "backoff": {
        "Want(None)": "off",
        "Restart": "preparing: Check(A)",
        "Tick(due)": "starting: Spawn",
        "Want(A)": "starting: Spawn",
        "Want(B)": "preparing: Check(B)",
        "Want(C)": "preparing: Check(C)",
    },
    "backoff after preflight": {
        "Want(None)": "off",
        "Restart": "preparing: Check(A)",
        "Tick(due)": "preparing: Check(A)",
        "Want(A)": "preparing: Check(A)",
        "Want(B)": "preparing: Check(B)",
        "Want(C)": "preparing: Check(C)",
    },
    "failed": {
        "Want(None)": "off",
        "Restart": "preparing: Check(A)",
        "Want(A)": "preparing: Check(A)",
        "Cured": "preparing: Check(A)",
        "Want(B)": "preparing: Check(B)",
        "Want(C)": "preparing: Check(C)",
    },
    "failed in preflight": {
        "Want(None)": "off",
        "Restart": "preparing: Check(A)",
        "Want(A)": "preparing: Check(A)",
        "Cured": "preparing: Check(A)",
        "Want(B)": "preparing: Check(B)",
        "Want(C)": "preparing: Check(C)",
    },
    "preparing with a last good": {
        "Want(None)": "off: CancelCheck",
        "Want(A)": "preparing: CancelCheck, Check(A)",
        "Checked(B)": "starting: Spawn",
        "CheckFailed(B,mendable)": "starting: Spawn",
        "CheckFailed(B,fatal)": "starting: Spawn",
        "Want(C)": "preparing: CancelCheck, Check(C)",
    },
    "starting with a last good": {
        "Want(None)": "stopping: Stop(at_once)",
        "Restart": "starting: Check(B)",
        "Want(A)": "starting: Check(A)",
        "Want(B)": "starting",
        "Want(C)": "starting: Check(C)",
        "Ready(live)": "ready: Admit",
        "Lost(live,mendable)": "stopping: Stop(at_once), WakeAt",
        "Lost(live,fatal)": "stopping: Stop(at_once)",
    },
}
