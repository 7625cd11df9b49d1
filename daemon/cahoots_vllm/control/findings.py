"""Why inference is slow: looked for every half minute, shown in status and by the doctor."""

import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path

from cahoots_vllm.control.supervisor import Supervisor
from cahoots_vllm.core.doctor.figures import (
    KvSample,
    keep_sample,
    kv_facts,
    load_seconds,
    read_sample,
)
from cahoots_vllm.core.doctor.finding import Findings
from cahoots_vllm.core.doctor.speed import (
    LoadFacts,
    judge_clocks,
    judge_cpu_engine,
    judge_kv_cache,
    judge_load,
    judge_worker_swap,
)
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.disk_speed import weights_of
from cahoots_vllm.host.gpu_bus import read_gpu_bus
from cahoots_vllm.host.gpu_health import DriverHealth, GpuHealth
from cahoots_vllm.host.host_memory import swapped_bytes
from cahoots_vllm.worker.process import Worker

_EVERY_S = 30.0
# Whoever asks sooner gets the last answer: status may be asked for many times a second.
_FRESH_S = 1.0
_DEADLINE_S = 2.0


class SlowFindings:
    """Measures what slows the worker; remembers the last minutes of its figures."""

    def __init__(self, supervisor: Supervisor, health: GpuHealth) -> None:
        """Nothing is looked at before the first `read`."""
        self._supervisor = supervisor
        self._health = health
        self._samples: tuple[KvSample, ...] = ()
        self._weights: dict[str, int] = {}
        self._at = float("-inf")
        self._last: Findings = ()
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Look now and then, so that what happens between two questions is seen as well."""
        while True:
            await self.read()
            await asyncio.sleep(_EVERY_S)

    async def read(self) -> Findings:
        """Return what slows inference now; what does not answer in time says nothing."""
        async with self._turn:
            now = asyncio.get_running_loop().time()
            if now - self._at >= _FRESH_S:
                self._at = now
                self._last = await self._look(now)
            return self._last

    async def _look(self, now: float) -> Findings:
        supervisor = self._supervisor
        worker, is_cpu = supervisor.worker, supervisor.settings.engine.is_cpu
        health = DriverHealth()
        on_bus = 0
        with suppress(OSError, TimeoutError):
            health = await run_blocking(self._health.read, deadline_s=_DEADLINE_S)
            on_bus = (await run_blocking(read_gpu_bus, deadline_s=_DEADLINE_S)).on_bus
        clocks = [card.clocks for card in health.cards if card.clocks is not None]
        found = judge_cpu_engine(
            is_cpu=is_cpu, gpu_names=tuple(c.name for c in clocks), on_bus=on_bus
        )
        if worker is None or not worker.is_running:
            return found
        for each in clocks if not is_cpu else ():
            found += judge_clocks(each)
        return found + await self._of_worker(worker, now)

    async def _of_worker(self, worker: Worker, now: float) -> Findings:
        found: Findings = ()
        page = await worker.metrics()
        sample = read_sample(page, worker.generation, now) if page is not None else None
        if sample is not None:
            self._samples = keep_sample(self._samples, sample)
        facts = kv_facts(self._samples)
        if facts is not None:
            found += judge_kv_cache(facts)
        with suppress(OSError, TimeoutError):
            swapped = await run_blocking(
                lambda: swapped_bytes(worker.pids()), deadline_s=_DEADLINE_S
            )
            found += judge_worker_swap(swapped)
            found += await self._of_load(worker)
        return found

    async def _of_load(self, worker: Worker) -> Findings:
        seconds = load_seconds(worker.start_lines())
        source = worker.launch.source
        if seconds is None or not source.startswith("/"):
            return ()
        if source not in self._weights:
            look = partial(weights_of, Path(source))
            sizes = await run_blocking(look, deadline_s=_DEADLINE_S)
            self._weights = {source: sum(sizes.values())}
        live = self._supervisor.state.live
        if live is None or live.generation != worker.generation:
            return ()  # another one has taken its place meanwhile
        facts = LoadFacts(self._weights[source], seconds, source, was_beside=live.was_beside)
        return judge_load(facts)
