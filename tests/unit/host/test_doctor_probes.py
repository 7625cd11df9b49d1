"""The doctor's looks at the host, each on files or sockets made for it."""

import os
import socket
from pathlib import Path

from cahoots_vllm.core.doctor.hub import Reach
from cahoots_vllm.core.secret import Secret
from cahoots_vllm.core.settings import EngineInfo
from cahoots_vllm.host.bridges import read_docker
from cahoots_vllm.host.disk_room import read_disk
from cahoots_vllm.host.disk_speed import measure_read, weights_of
from cahoots_vllm.host.engine_probe import torch_build
from cahoots_vllm.host.gpu_bus import read_gpu_bus
from cahoots_vllm.host.host_limits import is_clock_synchronised, read_limits
from cahoots_vllm.host.host_memory import read_ram, swapped_bytes
from cahoots_vllm.host.hub_probe import probe_hub
from cahoots_vllm.host.tcp_ports import port_holders


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_listener_is_found_with_its_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            [holder] = port_holders(port)  # the connection is nobody who listens
        assert (holder.pid, holder.address) == (os.getpid(), f"127.0.0.1:{port}")
    assert port_holders(port) == ()
    if socket.has_ipv6:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
            port = listener.getsockname()[1]
            assert port_holders(port)[0].address == f"[::1]:{port}"


def test_gpus_on_the_bus_without_a_driver(tmp_path: Path) -> None:
    devices = tmp_path / "sys/bus/pci/devices"
    for name, vendor, kind in (
        ("0", "0x10de", "0x030000"),
        ("1", "0x10de", "0x040300"),  # its sound
        ("2", "0x10de", "0x030200"),
        ("3", "0x1002", "0x030000"),
    ):
        write(devices / name / "vendor", f"{vendor}\n")
        write(devices / name / "class", f"{kind}\n")
    (tmp_path / "sys/module/nouveau").mkdir(parents=True)
    bus = read_gpu_bus(tmp_path)
    assert (bus.on_bus, bus.is_nouveau, bus.module, bus.has_uvm) == (2, True, None, True)
    write(tmp_path / "dev/nvidia0", "")
    write(tmp_path / "dev/nvidiactl", "")
    write(tmp_path / "sys/module/nvidia/version", "580.65.06\n")
    bus = read_gpu_bus(tmp_path)
    assert (bus.has_uvm, bus.module, bus.closed) == (False, "580.65.06", ())


def test_bridges_of_containers_and_no_others(tmp_path: Path) -> None:
    for name, carrier in (("docker0", "0"), ("br-0123456789ab", "1"), ("br0", "1"), ("lo", "1")):
        write(tmp_path / name / "carrier", f"{carrier}\n")
    facts = read_docker(tmp_path, tmp_path / "desktop")
    assert [(b.name, b.is_up) for b in facts.bridges] == [
        ("br-0123456789ab", True),
        ("docker0", False),
    ]
    assert not facts.is_desktop
    (tmp_path / "desktop").mkdir()
    assert read_docker(tmp_path, tmp_path / "desktop").is_desktop


def test_disk_of_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    facts = read_disk("the cache", tmp_path / "a" / "b")
    assert facts.total > facts.free > 0
    assert facts.device == tmp_path.stat().st_dev
    assert facts.why_not_writable == ""


def test_weights_are_measured(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(9 << 20))
    assert weights_of(tmp_path) == {tmp_path / "model.safetensors": 9 << 20}
    facts = measure_read(tmp_path, for_s=1.0)
    if facts is not None:  # where the disk has O_DIRECT
        assert facts.read_bytes == 8 << 20
        assert facts.weights_bytes == 9 << 20
        assert facts.seconds > 0


def test_torch_of_an_engine(tmp_path: Path) -> None:
    text = "__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\nhip = None\n"
    write(tmp_path / "lib/python3.12/site-packages/torch/version.py", text)
    assert torch_build(EngineInfo(str(tmp_path), "0.33")) == ("2.13.0+cu130", (13, 0))
    assert torch_build(EngineInfo("/nowhere", "0.33")) == (None, None)


def test_memory_with_the_least_limit_of_its_cgroups(tmp_path: Path) -> None:
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    meminfo = "MemTotal: 4096 kB\nMemAvailable: 1024 kB\nSwapTotal: 8 kB\nSwapFree: 4 kB\n"
    write(proc / "meminfo", meminfo)
    write(proc / "self/cgroup", "0::/a/b\n")
    write(proc / "sys/vm/swappiness", "60\n")
    write(cgroups / "a/memory.max", "2097152\n")
    write(cgroups / "a/b/memory.max", "max\n")
    ram = read_ram(proc, cgroups)
    assert (ram.total, ram.limit, ram.swap_total, ram.swap_free) == (4 << 20, 2 << 20, 8192, 4096)
    assert ram.swappiness == 60
    write(proc / "7/status", "Name: x\nVmSwap:\t  12 kB\n")
    assert swapped_bytes([7, 8], proc) == 12 << 10


def test_limits_and_governor(tmp_path: Path) -> None:
    write(tmp_path / "cpu0/cpufreq/scaling_governor", "powersave\n")
    assert read_limits(tmp_path).governor == "powersave"
    assert read_limits(tmp_path / "none").governor is None
    assert is_clock_synchronised() in (True, False)


async def test_hub_that_is_no_url_and_one_that_is_not_there() -> None:
    assert (await probe_hub("huggingface", None)).reach is Reach.BAD_URL
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    found = await probe_hub(f"http://user:word@127.0.0.1:{port}", None)
    assert found.reach is Reach.REFUSED
    assert "word" not in repr(found)
    for url in (f"http://user:word@127.0.0.1:{port}x", "http://user:word@"):
        found = await probe_hub(url, Secret("hf_x"))
        assert found.reach is Reach.BAD_URL
        assert "word" not in repr(found)
        assert "hf_x" not in repr(found)
