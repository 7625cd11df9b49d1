"""Notices an engine that is dead by its API server's word, or hangs: nothing about it moves.

A stopped engine is invisible from outside (vLLM 0.32, seen with SIGSTOP): `/health` says 200, the
page of figures comes and shows no request, answers have their headers and never a byte.
"""

import asyncio
from collections.abc import Callable

from cahoots_vllm.worker.probe import Probe


async def notice_dead(probe: Probe, interval_s: float) -> str:
    """Return what was seen, once the API server says that its engine died; looks at once."""
    while True:
        if await probe.is_engine_dead():
            return "/health says 503: the engine is dead"
        await asyncio.sleep(interval_s)


async def notice_stall(
    probe: Probe, is_asked: Callable[[], bool], *, timeout_s: float, interval_s: float
) -> str:
    """Return what was seen, once nothing has moved for `timeout_s` although somebody asked.

    The engine's own figures move with each of its steps. They stand still with requests on it
    that ask nothing of it, too (a client that does not take its answer): in the second half of the
    time a token is asked for. It comes, or something moves: all is well.
    """
    now = asyncio.get_running_loop().time
    figures: str | None = None
    still_since: float | None = None  # None: nobody has asked since something moved
    while True:
        await asyncio.sleep(interval_s)
        if still_since is None and not is_asked():
            continue
        # Clients that give up change nothing about a wait that has begun: the engine, if it lives,
        # counts them.
        seen = await probe.engine_figures()
        if still_since is None:
            figures, still_since = seen, now()
        elif _has_moved(figures, seen):
            figures, still_since = seen, now() if is_asked() else None
        elif now() - still_since >= timeout_s / 2:
            if not await _shows_life(probe, figures, timeout_s / 2, interval_s):
                still_s = now() - still_since
                return f"requests wait, and nothing in the engine has moved for {still_s:.0f} s"
            still_since = None


def _has_moved(before: str | None, now: str | None) -> bool:
    return now is not None and now != before


async def _shows_life(
    probe: Probe, figures: str | None, timeout_s: float, interval_s: float
) -> bool:
    """Whether it answers within the time, or its figures move (others are before us)."""
    answer = asyncio.ensure_future(probe.answers(timeout_s))
    try:
        while True:
            await asyncio.wait((answer,), timeout=interval_s)
            if answer.done():
                return answer.result()
            if _has_moved(figures, await probe.engine_figures()):
                return True
    finally:
        answer.cancel()
