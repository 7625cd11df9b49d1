"""NVIDIA's GPUs and driver as the kernel shows them, whether NVML loads or not. Blocking, short."""

import os
from dataclasses import dataclass
from pathlib import Path

_NVIDIA = "0x10de"
_DISPLAY = "0x03"  # PCI class: VGA, 3D and other display controllers
_ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class GpuBus:
    """`on_bus`: how many; `module`: the loaded NVIDIA module's version, None without one.

    `closed`: device nodes that this process may not open for reading and writing.
    """

    on_bus: int
    module: str | None
    is_nouveau: bool
    closed: tuple[str, ...]
    has_uvm: bool


def read_gpu_bus(root: Path = _ROOT) -> GpuBus:
    """Look at /sys and /dev. WSL has GPUs that are on no bus."""
    nodes = sorted(node for node in (root / "dev").glob("nvidia*") if _is_device(node))
    closed = [node for node in nodes if not os.access(node, os.R_OK | os.W_OK)]
    return GpuBus(
        on_bus=sum(map(_is_gpu, (root / "sys/bus/pci/devices").glob("*"))),
        module=_read(root / "sys/module/nvidia/version") or None,
        is_nouveau=(root / "sys/module/nouveau").is_dir(),
        closed=tuple(f"/dev/{node.name}" for node in closed),
        # Without any node the driver itself is missing, or this is WSL (/dev/dxg).
        has_uvm=not nodes or any(node.name == "nvidia-uvm" for node in nodes),
    )


def _is_device(node: Path) -> bool:
    rest = node.name.removeprefix("nvidia")
    return rest.isdecimal() or rest in ("ctl", "-uvm")


def _is_gpu(device: Path) -> bool:
    return _read(device / "vendor") == _NVIDIA and _read(device / "class").startswith(_DISPLAY)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
