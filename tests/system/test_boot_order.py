"""The service enabled, the GPU's driver late: it is there when the driver is."""

import pytest

from integration.scripted_gpus import Gpu
from system.machine import wait_for
from system.service import UNIT
from system.stand_in import StandIn

_GROUP = "/sys/fs/cgroup/system.slice/cahoots-vllm.service"
# In the real unit these are groups of /proc/devices, which no test can add to: a node that is not
# there yet is left out in the same way. 10:229 and 10:200 (fuse, tun) are on any kernel.
_DROP_IN = "[Service]\nDeviceAllow=/dev/nvidia-uvm rw\n"


@pytest.fixture
def booted_without_gpu(stand_in: StandIn) -> StandIn:
    """The service after a boot without a driver."""
    machine = stand_in.machine
    machine.write(f"/etc/systemd/system/{UNIT}.d/device.conf", _DROP_IN)
    machine.systemctl("enable", UNIT)
    stand_in.show_gpus()
    machine.reboot()
    return stand_in


def may_open(stand_in: StandIn, node: str) -> bool:
    """Whether a process in the daemon's own cgroup may open a device."""
    script = f"echo $$ >{_GROUP}/daemon/cgroup.procs && exec 3<>{node}"
    done = stand_in.machine.run(["sh", "-c", script], check=False)
    assert done.returncode == 0 or "not permitted" in done.stderr, done.stderr
    return done.returncode == 0


def test_driver_that_comes_after_the_boot_is_used_by_itself(booted_without_gpu: StandIn) -> None:
    service, machine = booted_without_gpu, booted_without_gpu.machine
    wait_for(lambda: (service.status().get("last_failure") or {}).get("cause") == "cuda_driver")
    assert machine.show(UNIT, "ActiveState") == "active"
    assert machine.show("cahoots-vllm-gpu.path", "ActiveState") == "active"
    assert machine.show("cahoots-vllm-gpu.service", "ActiveState") == "inactive"

    service.show_gpus(Gpu())
    machine.run(["mknod", "-m", "666", "/dev/other", "c", "10", "200"])
    machine.run(["mknod", "-m", "666", "/dev/nvidia-uvm", "c", "10", "229"])

    wait_for(lambda: may_open(service, "/dev/nvidia-uvm"), 10)
    assert not may_open(service, "/dev/other")
    service.wait_ready(timeout_s=60)
    assert service.says("hello") == "fake: hello"
    found = machine.journal("--boot", "CAHOOTS_CAUSE=cuda_driver")
    assert {entry["_SYSTEMD_UNIT"] for entry in found} == {UNIT}
