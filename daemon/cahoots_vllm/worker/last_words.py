"""Why a worker is lost: its exit status, its last words and the host's evidence, judged."""

import asyncio

from cahoots_vllm.core.diagnosis import Cause, Diagnosis, Exit, diagnose
from cahoots_vllm.core.evidence import HostEvidence
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.worker.running import Running

# After an engine process died the API server says why and answers its clients within half a
# second; its own exit would take up to 5 s (entrypoints/launchers/launcher.py:309).
_LAST_WORDS_S = 1.0
_QUIET_S = 0.3
_JUDGE_S = 30.0


async def explain(
    running: Running, seen: str | None, evidence: HostEvidence, *, was_ready: bool
) -> Diagnosis:
    """Return why it is lost, after its last words; `seen` is what was noticed first."""
    exit_status = running.child.exit_status
    await _hear(running)
    running.pump.drain()
    exit_ = Exit()
    if exit_status.done():
        exit_ = _exit(exit_status.result())
    lines = running.pump.lines

    def judge() -> Diagnosis:
        return diagnose(
            exit_, lines, was_ready=was_ready, seen=seen, evidence=evidence, is_unasked=True
        )

    # In a thread: thousands of lines are read by hundreds of rules, and requests are held.
    try:
        return await run_blocking(judge, deadline_s=_JUDGE_S)
    except TimeoutError:
        why = f"the worker ended ({exit_}); its log could not be judged in {_JUDGE_S:.0f} s"
        return Diagnosis(Cause.UNKNOWN, why, "read it: cahootsctl logs", is_retryable=True)


async def _hear(running: Running) -> None:
    """Return once it has ended, or said nothing for a moment."""
    now = asyncio.get_running_loop().time
    begun = now()
    while not running.child.exit_status.done() and now() - begun < _LAST_WORDS_S:
        quiet_for_s = now() - max(begun, running.pump.last_line_at)
        if quiet_for_s >= _QUIET_S:
            return
        await asyncio.wait((running.child.exit_status,), timeout=_QUIET_S - quiet_for_s)


def _exit(status: int | None) -> Exit:
    """Return how it ended; unknown for a process that an earlier daemon started."""
    if status is None:
        return Exit()
    return Exit(code=status) if status >= 0 else Exit(signal=-status)
