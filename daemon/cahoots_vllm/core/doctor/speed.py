"""Why inference is slow, from measurements: the findings of status and doctor."""

from dataclasses import dataclass
from typing import Final

from cahoots_vllm.core.amounts import MIB, size_text
from cahoots_vllm.core.doctor.finding import Findings, Group, Judge

_CPU: Final = Judge("engine-on-cpu", Group.SPEED)
_KV: Final = Judge("kv-cache", Group.SPEED)
_LOAD: Final = Judge("weights-disk", Group.SPEED)
_CLOCKS: Final = Judge("throttling", Group.SPEED)
_SWAP: Final = Judge("worker-swap", Group.SPEED)
# A hard disk reads 100 to 200 MiB/s in sequence, a SATA SSD 500.
_SLOW_BYTES_S: Final = 200 * MIB
_LONG_LOAD_S: Final = 20.0
_LONG_READ_S: Final = 30.0
_SWAPPED_BYTES: Final = 64 * MIB
# NVML's nvmlClocksEventReasons (nvml.h).
_POWER_CAP, _HW_SLOWDOWN, _SW_THERMAL = 0x4, 0x8, 0x20
_HW_THERMAL, _POWER_BRAKE = 0x40, 0x80
# A limit within this of the default is nobody's saving.
_CAPPED: Final = 0.9


@dataclass(frozen=True, slots=True)
class KvFacts:
    """Preempted requests and how full the cache is (0..1), between two looks `seconds` apart."""

    preempted: int
    usage: float
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadFacts:
    """The last load of the weights: bytes on disk, and the seconds the engine's log says.

    `was_beside`: another worker served meanwhile.
    """

    weights_bytes: int
    seconds: float
    directory: str
    was_beside: bool = False


@dataclass(frozen=True, slots=True)
class ReadFacts:
    """A cold read of a weights file, past the page cache."""

    read_bytes: int
    seconds: float
    weights_bytes: int
    directory: str


@dataclass(frozen=True, slots=True)
class ClockFacts:
    """Why a GPU's clocks are lower than they could be: NVML's bits; limits in watts."""

    index: int
    name: str
    reasons: int
    temperature: int | None = None
    power_limit_w: float | None = None
    power_default_w: float | None = None


def judge_cpu_engine(*, is_cpu: bool, gpu_names: tuple[str, ...], on_bus: int) -> Findings:
    """Say when the engine computes on the CPU beside an NVIDIA GPU."""
    if not is_cpu or not (gpu_names or on_bus):
        return ()
    what = " and ".join(gpu_names) or "an NVIDIA GPU"
    said = f"the engine is the CPU build, and this host has {what}"
    remedy = "install the GPU engine: sudo cahoots-vllm-engine install --cuda, or set engine.path"
    return (_CPU.warn(said, remedy),)


def judge_kv_cache(facts: KvFacts) -> Findings:
    """Say when requests are preempted: each is computed anew from its first token."""
    if facts.preempted <= 0:
        return ()
    requests = "request was" if facts.preempted == 1 else "requests were"
    said = (
        f"the KV cache is full ({facts.usage:.0%} now): {facts.preempted} {requests} preempted "
        f"within {facts.seconds / 60:.0f} min and computed again"
    )
    remedy = (
        "raise gpu-memory-utilization if memory is free, or lower max-model-len or max-num-seqs "
        "in cahoots-vllm.toml"
    )
    return (_KV.warn(said, remedy),)


def judge_load(facts: LoadFacts) -> Findings:
    """Say when the weights came slowly from their disk. A load from the page cache is fast."""
    if facts.was_beside:
        return ()  # it may have waited for processors that the other worker had, not for the disk
    if facts.seconds < _LONG_LOAD_S or facts.weights_bytes >= _SLOW_BYTES_S * facts.seconds:
        return ()
    rate = facts.weights_bytes / facts.seconds / MIB
    said = (
        f"loading {size_text(facts.weights_bytes)} of weights took {facts.seconds:.0f} s, "
        f"{rate:.0f} MiB/s, from {facts.directory}"
    )
    return (_LOAD.warn(said, _faster_disk()),)


def judge_read(facts: ReadFacts) -> Findings:
    """Say whether the disk of the weights is slow; only where a load from it takes long."""
    rate = facts.read_bytes / max(facts.seconds, 1e-6)
    load_s = facts.weights_bytes / rate if rate else 0.0
    said = f"{facts.directory} reads {rate / MIB:.0f} MiB/s, measured"
    if rate >= _SLOW_BYTES_S or load_s < _LONG_READ_S:
        return (_LOAD.ok(said),)
    return (
        _LOAD.warn(f"{said}: {size_text(facts.weights_bytes)} take {load_s:.0f} s", _faster_disk()),
    )


def _faster_disk() -> str:
    return "put the model on a local SSD; it is read once a start, and serving is not slowed"


def judge_clocks(facts: ClockFacts) -> Findings:
    """Say when a GPU is slowed by heat, by its power supply, or by a limit somebody set."""
    gpu, found = f"GPU {facts.index} ({facts.name})", []
    hot = f" at {facts.temperature} °C" if facts.temperature is not None else ""
    if facts.reasons & (_SW_THERMAL | _HW_THERMAL):
        remedy = "check fans, dust and the airflow: nvidia-smi -q -d TEMPERATURE,PERFORMANCE"
        found.append(_CLOCKS.warn(f"{gpu} is slowed by heat{hot}", remedy))
    elif facts.reasons & _POWER_BRAKE:
        remedy = "check the power supply and the GPU's power cables"
        found.append(_CLOCKS.warn(f"{gpu} is braked by its power supply", remedy))
    elif facts.reasons & _HW_SLOWDOWN:
        remedy = "see nvidia-smi -q -d PERFORMANCE"
        found.append(_CLOCKS.warn(f"{gpu} is slowed by its own protection{hot}", remedy))
    limit, default = facts.power_limit_w, facts.power_default_w
    # At full load every GPU meets its limit: only a lowered one is worth a word.
    is_capped = limit is not None and default is not None and limit < default * _CAPPED
    if facts.reasons & _POWER_CAP and is_capped:
        said = f"{gpu} is held back by a power limit of {limit:.0f} W; its default is {default:.0f}"
        found.append(_CLOCKS.warn(said, f"sudo nvidia-smi -i {facts.index} -pl {default:.0f}"))
    return tuple(found)


def judge_worker_swap(swapped_bytes: int) -> Findings:
    """Say when a part of the worker was swapped out."""
    if swapped_bytes < _SWAPPED_BYTES:
        return ()
    said = f"{size_text(swapped_bytes)} of the worker are swapped out"
    remedy = "free host memory: lower swap use (sudo sysctl vm.swappiness=1), or stop what eats it"
    return (_SWAP.warn(said, f"{remedy}; cahootsctl restart brings it back"),)
