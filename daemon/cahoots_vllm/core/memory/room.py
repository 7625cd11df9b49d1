"""How much memory there is to start with: the worst of the GPUs that the worker will use."""

from collections.abc import Mapping
from dataclasses import dataclass

from cahoots_vllm.core.evidence import Device, Holder
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory.sizes import read_integer

GIB = 1 << 30
_UNIT = 1000
_GRID = 10  # a fitted share is a whole hundredth: nobody wants to read 0.8437
# The engine looks after its own CUDA context (0.3 to 0.5 GiB) is there; on the CPU after three
# processes have imported it (1.5 to 2 GiB seen).
_GPU_MARGIN_BYTES = GIB // 2
_HOST_MARGIN_BYTES = 2 * GIB
HOST_KEY = "host"
_PARALLEL = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")


@dataclass(frozen=True, slots=True)
class Shortage:
    """What a start lacks, and who has it."""

    device: str
    free_bytes: int
    wanted_bytes: int
    total_bytes: int
    holders: tuple[Holder, ...]

    @property
    def is_ours(self) -> bool:
        """Whether an earlier worker of ours holds memory: it is ended, so nothing need shrink."""
        return any(holder.is_ours for holder in self.holders)

    def is_like(self, other: "Shortage") -> bool:
        """Whether it is the same wait: what somebody trains never has the same MiB twice."""
        pids = {holder.pid for holder in self.holders}
        return self.device == other.device and pids == {holder.pid for holder in other.holders}

    def __str__(self) -> str:
        """Say it in one sentence, the largest holder first."""
        free, wanted, total = (
            f"{size / GIB:.1f}" for size in (self.free_bytes, self.wanted_bytes, self.total_bytes)
        )
        text = f"{self.device} has {free} of {total} GiB free, {wanted} GiB are wanted"
        held = ", ".join(_name(holder) for holder in self.holders[:3])
        return f"{text}; held by {held or 'processes not visible here'}"


def _name(holder: Holder) -> str:
    size = f", {holder.memory_bytes >> 20} MiB" if holder.memory_bytes is not None else ""
    # As a service one sees other users' processes by pid only (ProtectProc=).
    user = f", user {holder.user}" if holder.user else ""
    return f"{holder.command or 'a process'} (pid {holder.pid}{user}{size})"


@dataclass(frozen=True, slots=True)
class Room:
    """The devices a start will use, as they were found before it. Empty: nothing is known."""

    devices: tuple[Device, ...] = ()

    @property
    def limit(self) -> int | None:
        """The largest share that can start now, in thousandths; None when nothing is known."""
        return min((_fitting(device) for device in self.devices), default=None)

    @property
    def has_holders(self) -> bool:
        """Whether somebody else holds memory, so that more may become free."""
        return any(device.holders for device in self.devices)

    @property
    def spare_bytes(self) -> int | None:
        """What is free on the worst device, less the margin; None when nothing is known."""
        return min((_spare(device) for device in self.devices), default=None)

    @property
    def smallest_gib(self) -> float | None:
        """The whole of the smallest device, in GiB."""
        return min((device.total_bytes / GIB for device in self.devices), default=None)

    def shortage(self, share: int) -> Shortage | None:
        """Return what the worst device lacks for a share, None when all have enough.

        The engine's own test: free ≥ share of total (vllm/v1/worker/utils.py:725-767).
        """
        lacking = [d for d in self.devices if d.free_bytes * _UNIT < share * d.total_bytes]
        if not lacking:
            return None
        worst = min(lacking, key=lambda device: device.free_share)
        holders = tuple(
            sorted(worst.holders, key=lambda holder: holder.memory_bytes or 0, reverse=True)
        )
        wanted = share * worst.total_bytes // _UNIT
        return Shortage(worst.name, worst.free_bytes, wanted, worst.total_bytes, holders)

    def lacking_beside(self, share: int, least_bytes: int) -> str | None:
        """Return what a device lacks for another worker with so much, None where all have it."""
        for device in self.devices:
            wanted = max(share * device.total_bytes // _UNIT, least_bytes)
            if _spare(device) < wanted:
                sizes = (device.free_bytes, device.total_bytes, wanted, _margin(device))
                free, total, want, margin = (f"{size / GIB:.1f}" for size in sizes)
                return (
                    f"{device.name} has {free} of {total} GiB free beside the worker that serves, "
                    f"{want} GiB are wanted, and {margin} GiB to spare"
                )
        return None


def _margin(device: Device) -> int:
    return _HOST_MARGIN_BYTES if device.key == HOST_KEY else _GPU_MARGIN_BYTES


def _spare(device: Device) -> int:
    return max(0, device.free_bytes - _margin(device))


def _fitting(device: Device) -> int:
    if device.total_bytes <= 0:
        return 0
    return _UNIT * _spare(device) // device.total_bytes // _GRID * _GRID


def used_devices(
    spec: LaunchSpec, inherited: Mapping[str, str], devices: tuple[Device, ...]
) -> tuple[Device, ...]:
    """Return the devices a worker of this spec will use, in the order of the driver.

    CUDA_VISIBLE_DEVICES by index or UUID ("GPU-…", a unique beginning is enough); the first
    ones of them, tensor by pipeline by data parallel. An unknown entry ends the list, as in CUDA.
    """
    if any(device.key == HOST_KEY for device in devices):
        return devices
    visible = dict(spec.env).get("CUDA_VISIBLE_DEVICES", inherited.get("CUDA_VISIBLE_DEVICES"))
    chosen = devices if visible is None else _visible(visible, devices)
    count = 1
    for option in _PARALLEL:
        count *= max(1, read_integer(spec.option(option)) or 1)
    return chosen[:count]


def _visible(entries: str, devices: tuple[Device, ...]) -> tuple[Device, ...]:
    found: list[Device] = []
    for entry in (part.strip() for part in entries.split(",")):
        if entry.isdecimal() and int(entry) < len(devices):
            device = devices[int(entry)]
        else:
            named = [d for d in devices if entry and d.key.startswith(entry)]
            if len(named) != 1:
                break
            device = named[0]
        found.append(device)
    return tuple(found)
