"""Waits until a stopped worker's GPU memory is really back: NVML, not hope.

The driver frees a killed process's memory a while after the process is gone; the next worker would
find "less than desired" memory.
"""

import asyncio

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
