"""The gate before each start: is the memory there, and who has it?

NVML, not hope: the driver frees a killed process's memory a while after it is gone. What a worker
of ours left behind is ended here; what somebody else holds is named.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

from cahoots_vllm.core.evidence import Device, Holder
from cahoots_vllm.core.launch import WORKER_MARK, LaunchSpec
from cahoots_vllm.core.memory import HOST_KEY, Room, read_sizes, used_devices
from cahoots_vllm.host import host_memory, process_info, process_tree
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.gpu import Gpu, GpuReader

_DEADLINE_S = 10.0
_POLL_S = 0.2
_READ_DEADLINE_S = 5.0
_COMES_BACK_S = 1.0
# Less than this between two looks is the noise of a host that lives.
_STILL_BYTES = 64 * 1024 * 1024
_LARGE_BYTES = 1 << 30
_LARGEST = 3


@dataclass(frozen=True, slots=True)
class Sleeping:
    """Who sleeps: the pids of the one that this start will wake, and how to end another one.

    What is left of the former on a GPU is its own again. `end_one`: False: there is no other.
    """

    waking: frozenset[int]
    end_one: Callable[[], Awaitable[bool]]


async def _nobody() -> bool:
    return False


NOBODY_SLEEPS = Sleeping(frozenset(), _nobody)


class Gate:
    """Reads the devices a start will use, once their memory is still."""

    def __init__(self, gpus: GpuReader, mark: str) -> None:
        """`mark` is the beginning of WORKER_MARK's value in every worker of this daemon."""
        self._gpus = gpus
        self._mark = mark
        self._turn = asyncio.Lock()
        # Held by the thread that looks, as NvmlReader's: what hangs is not asked again and again.
        self._inside = threading.Lock()

    async def read(self, *, is_cpu: bool) -> tuple[Device, ...]:
        """Return the devices now: the GPUs, or for the CPU engine the host.

        Where /proc or the user database does not answer, a GPU has no holders that are known, and
        of the host nothing is known: a start will tell.
        """
        async with self._turn:  # whoever comes meanwhile waits for an answer of now
            gpus = () if is_cpu else await self._gpus.read()
            look = partial(self._look, gpus, is_cpu=is_cpu)
            try:
                return await run_blocking(look, deadline_s=_READ_DEADLINE_S)
            except OSError:  # a TimeoutError is one
                return tuple(map(_without_holders, gpus))

    async def measure(
        self,
        launch: LaunchSpec,
        *,
        is_cpu: bool,
        on_ended: Callable[[int], None],
        sleeping: Sleeping = NOBODY_SLEEPS,
    ) -> tuple[Device, ...]:
        """Return the devices of a launch spec, at once if they have enough.

        Else workers that sleep are ended, one after the other, then orphans of ours (`on_ended` is
        told each pid); memory that is still coming back is waited for, 10 s at most.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _DEADLINE_S
        share = read_sizes(launch).share
        before: tuple[Device, ...] = ()
        ended: set[int] = set()
        while True:
            read = await self.read(is_cpu=is_cpu)
            found = used_devices(launch, os.environ, without(read, sleeping.waking))
            if Room(found).shortage(share) is None or loop.time() >= deadline:
                return found
            if await sleeping.end_one():
                continue
            ours = {h.pid for device in found for h in device.holders if h.is_ours}
            if not ours and _are_still(before, found):
                return found
            for pid in ours:
                if _end(pid) and pid not in ended:
                    ended.add(pid)
                    on_ended(pid)
            before = found
            await asyncio.sleep(_POLL_S)

    def _look(self, gpus: tuple[Gpu, ...], *, is_cpu: bool) -> tuple[Device, ...]:
        # One that was given up comes back soon; or it hangs, and this thread must not stay, too.
        if not self._inside.acquire(timeout=_COMES_BACK_S):
            raise TimeoutError
        try:
            return self._host() if is_cpu else tuple(map(self._device, gpus))
        finally:
            self._inside.release()

    def _host(self) -> tuple[Device, ...]:
        memory = host_memory.read_host_memory()
        largest = host_memory.largest_processes(_LARGEST)
        holders = tuple(
            self._holder(process.pid, process.resident_bytes)
            for process in largest
            if process.resident_bytes >= _LARGE_BYTES
        )
        total, free = memory.total_bytes, memory.available_bytes
        return (Device(HOST_KEY, "host memory", total, free, holders),)

    def _device(self, gpu: Gpu) -> Device:
        holders = tuple(self._holder(p.pid, p.memory_used) for p in gpu.processes)
        return replace(_without_holders(gpu), holders=holders)

    def _holder(self, pid: int, memory_bytes: int | None) -> Holder:
        mark = process_info.environ_value(pid, WORKER_MARK) or ""
        return Holder(
            pid=pid,
            user=process_info.owner_name(pid),
            command=process_info.shown_command(pid),
            memory_bytes=memory_bytes,
            is_ours=mark.startswith(self._mark),
        )


def _without_holders(gpu: Gpu) -> Device:
    return Device(
        key=gpu.uuid or f"gpu-{gpu.index}",
        name=f"GPU {gpu.index} ({gpu.name})",
        total_bytes=gpu.memory_total,
        free_bytes=gpu.memory_total - gpu.memory_used,
        capability=gpu.capability,
    )


def without(devices: tuple[Device, ...], pids: frozenset[int]) -> tuple[Device, ...]:
    """Return the devices as if these processes were gone, as far as the driver shows them."""
    return tuple(_without(device, pids) for device in devices) if pids else devices


def _without(device: Device, pids: frozenset[int]) -> Device:
    others = tuple(holder for holder in device.holders if holder.pid not in pids)
    theirs = (holder.memory_bytes or 0 for holder in device.holders if holder.pid in pids)
    return replace(device, holders=others, free_bytes=device.free_bytes + sum(theirs))


def _are_still(before: tuple[Device, ...], now: tuple[Device, ...]) -> bool:
    if [device.key for device in before] != [device.key for device in now]:
        return False  # the first look, or a GPU came or went
    return all(
        abs(a.free_bytes - b.free_bytes) < _STILL_BYTES for a, b in zip(before, now, strict=True)
    )


def _end(pid: int) -> bool:
    process = process_tree.read_process(pid)
    if process is None or process.is_zombie:
        return False
    process_tree.kill([process], signal.SIGKILL)
    return True
