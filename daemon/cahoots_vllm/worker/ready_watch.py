"""Watches whether a ready worker stays ready: its processes, its own word, its figures.

Says only what was seen; what it means is `last_words`' matter.
"""

import asyncio
import os
from collections.abc import Callable

from cahoots_vllm.core.settings import WorkerSettings
from cahoots_vllm.worker.deaths import watch_processes
from cahoots_vllm.worker.probe import Probe
from cahoots_vllm.worker.running import Running
from cahoots_vllm.worker.stall import notice_dead, notice_stall
from cahoots_vllm.worker.witness import Witness, refresh_witness


async def stay_ready(
    running: Running,
    probe: Probe,
    settings: WorkerSettings,
    *,
    find_witness: Callable[[], Witness | None],
    is_asked: Callable[[], bool],
) -> str:
    """Return once an engine process died, the API server says so, or nothing moves in it.

    `find_witness`: it may come only after the watch has begun. `is_asked`: whether requests are
    on the worker.
    """
    interval_s = settings.health_interval_s
    if (witness := find_witness()) is not None:
        witness.note(running.tree.pids())
    death: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    pidfds = watch_processes(running.tree.engine_processes(), death)
    signs = {death, asyncio.ensure_future(notice_dead(probe, interval_s))}
    if settings.stall_timeout_s > 0:
        patience_s = settings.stall_timeout_s
        stall = notice_stall(probe, is_asked, timeout_s=patience_s, interval_s=interval_s)
        signs.add(asyncio.ensure_future(stall))
    try:
        await running.tree.note_shared_memory()
        while True:
            seen, _ = await asyncio.wait(
                signs, timeout=interval_s, return_when=asyncio.FIRST_COMPLETED
            )
            if seen:
                return seen.pop().result()
            await refresh_witness(find_witness())
    finally:
        for sign in signs:
            sign.cancel()
        for pidfd in pidfds:
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)
