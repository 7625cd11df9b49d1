"""The one helper for calls that block: NVML, disk, hub. Each has a deadline."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


async def run_blocking(call: Callable[[], _T], *, deadline_s: float) -> _T:
    """Run a blocking call in a thread. Raises TimeoutError after the deadline.

    The thread of a call that hangs (a GPU that fell off the bus) cannot be ended; callers must
    not ask again before it came back.
    """
    async with asyncio.timeout(deadline_s):
        return await asyncio.to_thread(call)
