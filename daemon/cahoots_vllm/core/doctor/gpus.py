"""Driver, GPUs and the engine's CUDA: do they go together, and who has the memory?"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cahoots_vllm.core.amounts import GIB, MIB, size_text
from cahoots_vllm.core.doctor.expectations import Expectation
from cahoots_vllm.core.doctor.finding import Finding, Findings, Group, Judge, or_ok

_DRIVER: Final = Judge("driver", Group.GPU)
_GPU: Final = Judge("gpu", Group.GPU)
_CUDA: Final = Judge("cuda", Group.GPU)
_VRAM: Final = Judge("vram", Group.GPU)
# What a desktop, or the driver itself, holds of a GPU.
_DESKTOP_BYTES: Final = GIB
_OLDEST: Final = (7, 0)  # vLLM's documentation: "GPU: compute capability 7.0 or higher"
_OLDEST_CUDA_13: Final = (7, 5)  # CUDA 13 dropped Maxwell, Pascal and Volta
_BLACKWELL: Final = (10, 0)
_BLACKWELL_CUDA: Final = (12, 8)
# The first driver of each CUDA major version (CUDA release notes, table 3).
_DRIVERS: Final = {11: "450", 12: "525", 13: "580"}


@dataclass(frozen=True, slots=True)
class GpuHolder:
    """A process with GPU memory in bytes (None: hidden); `is_ours`: of the daemon's worker."""

    pid: int
    user: str
    command: str
    memory_bytes: int | None
    is_ours: bool = False

    def __str__(self) -> str:
        """Name it for people."""
        size = f", {self.memory_bytes // MIB} MiB" if self.memory_bytes is not None else ""
        user = f", user {self.user}" if self.user else ""
        return f"{self.command or 'a process'} (pid {self.pid}{user}{size})"


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """One GPU as the driver shows it; memory in bytes, `capability` None where unknown."""

    index: int
    name: str
    memory_total: int
    memory_used: int
    capability: tuple[int, int] | None = None
    holders: tuple[GpuHolder, ...] = ()
    is_unified: bool = False


@dataclass(frozen=True, slots=True)
class DriverFacts:
    """What there is of a driver. `nvml_error` is NVML's own name for why it gives no answer.

    `on_bus` counts NVIDIA's display controllers on the PCI bus, driver or not. `module` is the
    loaded kernel module's version, `library` that of NVML. `cuda` is the newest CUDA it can run.
    `closed` names device nodes this user may not open; `has_uvm`: /dev/nvidia-uvm is there.
    """

    on_bus: int = 0
    nvml_error: str | None = "NVMLError_LibraryNotFound"
    module: str | None = None
    library: str | None = None
    cuda: tuple[int, int] | None = None
    is_nouveau: bool = False
    closed: tuple[str, ...] = ()
    has_uvm: bool = True
    gpus: tuple[GpuFacts, ...] = ()

    @property
    def has_gpu(self) -> bool:
        """Whether there is an NVIDIA GPU, usable or not (WSL shows none on the bus)."""
        return bool(self.on_bus or self.gpus)


@dataclass(frozen=True, slots=True)
class EngineBuild:
    """What the engine was built for; `cuda` is that of its torch, None on CPU or unknown."""

    is_cpu: bool
    cuda: tuple[int, int] | None = None


def judge_driver(facts: DriverFacts, build: EngineBuild) -> Findings:
    """Say whether a driver is there and works. A CPU engine needs none."""
    if not facts.has_gpu and not facts.module:
        return (_no_gpu(build),)
    is_fatal = not build.is_cpu
    if facts.nvml_error is not None:
        return (_DRIVER.bad(*_why_no_answer(facts), is_fatal=is_fatal),)
    found = []
    if facts.closed:
        said = f"this user may not open {', '.join(facts.closed)}"
        remedy = "add the user to the group that owns them: ls -l /dev/nvidia*"
        found.append(_DRIVER.bad(said, remedy, is_fatal=is_fatal))
    if not facts.has_uvm:
        said = "/dev/nvidia-uvm is not there: CUDA cannot start (error 999 or 'unknown error')"
        found.append(_DRIVER.bad(said, "sudo modprobe nvidia_uvm", is_fatal=is_fatal))
    if facts.on_bus > len(facts.gpus):
        said = f"{facts.on_bus} NVIDIA GPUs are on the bus, the driver shows {len(facts.gpus)}"
        remedy = "see why: sudo dmesg | grep -i -e NVRM -e Xid; a lost one comes back by a reboot"
        found.append(_DRIVER.bad(said, remedy, is_fatal=is_fatal and not facts.gpus))
    cuda = f", CUDA up to {_dotted(facts.cuda)}" if facts.cuda else ""
    return or_ok(found, _DRIVER.ok(f"NVIDIA driver {facts.library or facts.module}{cuda}"))


def _no_gpu(build: EngineBuild) -> Finding:
    if build.is_cpu:
        return _DRIVER.ok("no NVIDIA GPU on this host")
    said = "no NVIDIA GPU is on this host's bus, and the engine is built for one"
    return _DRIVER.fail(
        said, "check that the card is seated and powered (lspci), or install the CPU engine"
    )


def _why_no_answer(facts: DriverFacts) -> tuple[str, str]:
    """Return what is wrong with the driver, and what helps."""
    name = (facts.nvml_error or "").removeprefix("NVMLError_")
    if facts.is_nouveau and facts.module is None:
        return (
            "nouveau drives the GPU, which runs no CUDA",
            "install NVIDIA's driver, which keeps nouveau away, and reboot",
        )
    match name:
        case "LibRmVersionMismatch":
            return (
                f"the driver was updated under the loaded kernel module ({facts.module or '?'})",
                "reboot",
            )
        case "NoPermission":
            return "this user may not use the GPU", "see ls -l /dev/nvidia*"
        case _ if facts.module is None:
            return (
                "an NVIDIA GPU is there, its driver is not loaded",
                "install it, or build it for this kernel (dkms status), then sudo modprobe nvidia",
            )
        case "LibraryNotFound":
            return (
                f"the kernel module {facts.module} is loaded, libnvidia-ml.so.1 is not installed",
                "install the driver's user-space libraries of the same version",
            )
        case _:
            return (
                f"the driver {facts.module} does not answer ({name})",
                "see sudo dmesg | grep -i -e NVRM -e Xid",
            )


def judge_gpus(facts: DriverFacts, build: EngineBuild, quantization: str | None) -> Findings:
    """Say whether the engine runs on these GPUs, by compute capability."""
    found = []
    for gpu in facts.gpus if not build.is_cpu else ():
        problem = _unfit(gpu, build, quantization)
        if problem:
            found.append(_GPU.fail(f"GPU {gpu.index} ({gpu.name}) {problem[0]}", problem[1]))
    if found or not facts.gpus:
        return tuple(found)
    return (_GPU.ok(", ".join(map(_named, facts.gpus))),)


def _named(gpu: GpuFacts) -> str:
    capability = f", compute capability {_dotted(gpu.capability)}" if gpu.capability else ""
    return f"GPU {gpu.index}: {gpu.name}{capability}"


def _unfit(gpu: GpuFacts, build: EngineBuild, quantization: str | None) -> tuple[str, str] | None:
    """Return what is wrong with a GPU and what helps, None where nothing is or is known."""
    capability, cuda = gpu.capability, build.cuda
    if capability is None:
        return None
    has, problem = f"has compute capability {_dotted(capability)}", None
    if capability < _OLDEST:
        problem = f"{has}, vLLM needs 7.0", "use a GPU of Volta's generation or newer"
    elif quantization == "awq" and capability < _OLDEST_CUDA_13:
        problem = f"{has}, AWQ needs 7.5", "use a model without AWQ, or a newer GPU"
    elif cuda is not None and cuda >= (13, 0) and capability < _OLDEST_CUDA_13:
        begins = f"{has}, and the engine's CUDA {_dotted(cuda)} begins at 7.5"
        problem = begins, "install an engine built for CUDA 12"
    elif cuda is not None and cuda < _BLACKWELL_CUDA and capability >= _BLACKWELL:
        unknown = f"{has}, which the engine's CUDA {_dotted(cuda)} does not know"
        problem = unknown, "install an engine built for CUDA 12.8 or newer"
    return problem


def judge_cuda(facts: DriverFacts, build: EngineBuild) -> Findings:
    """Compare the CUDA of the engine's torch with the newest the driver can run.

    Within a major version an older driver works, but compiles no kernel shipped as PTX
    (docs.nvidia.com/deploy/cuda-compatibility, "minor version compatibility").
    """
    if build.is_cpu or facts.cuda is None or build.cuda is None:
        return ()
    has, needs = _dotted(facts.cuda), _dotted(build.cuda)
    said = f"the engine is built for CUDA {needs}, driver {facts.library} runs up to {has}"
    if facts.cuda[0] < build.cuda[0]:
        least = _DRIVERS.get(build.cuda[0])
        newer = f"install driver {least} or newer" if least else "install a newer driver"
        return (_CUDA.fail(said, f"{newer}, or an engine built for CUDA {facts.cuda[0]}"),)
    if facts.cuda < build.cuda:
        remedy = "update the driver where a start says 'unsupported toolchain' or 'PTX'"
        return (_CUDA.warn(said, remedy),)
    return (_CUDA.ok(said),)


def judge_vram(
    facts: DriverFacts, build: EngineBuild, expected: Expectation | None, *, is_ready: bool
) -> Findings:
    """Say how much memory the GPUs have and who uses it; `is_ready`: our worker has its share."""
    if not facts.gpus or build.is_cpu:
        return ()
    found = [finding for gpu in facts.gpus for finding in _foreign(gpu, is_ready=is_ready)]
    total = sum(gpu.memory_total for gpu in facts.gpus)
    if expected is not None and total < expected.vram:
        said = f"the GPUs have {size_text(total)}; the guide wants 24 GB for a 32B model"
        found.append(_VRAM.warn(said, "set LOCAL_LLM_MODEL to a smaller model"))
    return or_ok(found, _VRAM.ok("; ".join(map(_memory, facts.gpus))))


def _memory(gpu: GpuFacts) -> str:
    free = size_text(max(0, gpu.memory_total - gpu.memory_used))
    return f"GPU {gpu.index}: {free} of {size_text(gpu.memory_total)} free"


def _foreign(gpu: GpuFacts, *, is_ready: bool) -> Iterator[Finding]:
    strangers = [h for h in gpu.holders if not h.is_ours]
    held = sum(h.memory_bytes or 0 for h in strangers)
    if held < _DESKTOP_BYTES:
        return
    largest = sorted(strangers, key=lambda h: -(h.memory_bytes or 0))[:3]
    said = f"GPU {gpu.index}: {size_text(held)} of {size_text(gpu.memory_total)} are held by "
    said += ", ".join(map(str, largest))
    if any(_is_vllm(h.command) for h in largest):
        yield _VRAM.warn(
            f"{said}: a vLLM that this daemon does not own", f"end it: {_kill(largest)}"
        )
        return
    less = "the next start gets" if is_ready else "the model gets"
    yield _VRAM.warn(f"{said}; {less} what is left", f"if it is not needed: {_kill(largest)}")


def _kill(holders: list[GpuHolder]) -> str:
    return f"kill {' '.join(str(h.pid) for h in holders)}"


def _is_vllm(command: str) -> bool:
    return "vllm" in command.lower()


def _dotted(version: tuple[int, int] | None) -> str:
    return ".".join(map(str, version)) if version else "?"
