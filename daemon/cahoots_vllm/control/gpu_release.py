"""Waits until a stopped worker's GPU memory is really back: NVML, not hope.

The driver frees a killed process's memory a while after the process is gone; the next worker would
find "less than desired" memory.
"""

import asyncio
from collections.abc import Iterable

from cahoots_vllm.core.sleep import Held
from cahoots_vllm.host.gpu import Gpu, GpuReader

_DEADLINE_S = 10.0
_POLL_S = 0.2
_SLACK_BYTES = 256 * 1024 * 1024  # other processes' small changes meanwhile


class GpuRelease:
    """Remembers each GPU's use before a worker started and compares after its end.

    `before` is in bytes, by the GPU's index; a daemon that takes a worker over is told it.
    """

    def __init__(self, gpus: GpuReader) -> None:
        """`gpus` is the seam to NVML."""
        self._gpus = gpus
        self.before: dict[int, int] = {}

    async def remember(self) -> None:
        """Note what is used now, before the worker starts."""
        self.before = {gpu.index: gpu.memory_used for gpu in await self._gpus.read()}

    async def held(self, pids: Iterable[int]) -> tuple[Held, ...]:
        """Return what a worker's processes hold of each GPU that has memory of its own.

        Where the driver does not show that, it is what came on top since the worker started.
        """
        gpus, own = await self._gpus.read(), frozenset(pids)
        is_listed = any(process.pid in own for gpu in gpus for process in gpu.processes)
        return tuple(
            self._held(gpu, own, is_listed=is_listed) for gpu in gpus if not gpu.is_unified
        )

    def _held(self, gpu: Gpu, own: frozenset[int], *, is_listed: bool) -> Held:
        sizes = [process.memory_used for process in gpu.processes if process.pid in own]
        known = [size for size in sizes if size is not None]
        held = sum(known)
        if len(known) < len(sizes) or not is_listed:
            held = max(0, gpu.memory_used - self.before.get(gpu.index, gpu.memory_used))
        return Held(gpu.index, gpu.memory_total, held)

    async def wait(self) -> None:
        """Return when every GPU is back at what it was, at once if it is; at most 10 s."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _DEADLINE_S
        while loop.time() < deadline:
            if not any(self._is_above(gpu) for gpu in await self._gpus.read()):
                return
            await asyncio.sleep(_POLL_S)

    def _is_above(self, gpu: Gpu) -> bool:
        before = self.before.get(gpu.index)
        return before is not None and gpu.memory_used - before > _SLACK_BYTES
