"""A stand-in for the module `pynvml` that plays the file named by `FAKE_NVML`.

Put the directory of this file before all others on PYTHONPATH. Only what host/gpu.py and
host/gpu_health.py ask is here, by the real names (nvidia-ml-py 13); README.md beside it describes
the file. It is read at each nvmlInit. A process that is gone holds nothing: the driver frees what
it had.
"""
# ruff: noqa: N801, N802, N818 (NVML's own names)

import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLE = "FAKE_NVML"
NVML_TEMPERATURE_GPU = 0
NVML_ERROR_UNINITIALIZED = 1
NVML_ERROR_INVALID_ARGUMENT = 2
NVML_ERROR_NOT_SUPPORTED = 3
NVML_ERROR_DRIVER_NOT_LOADED = 9
NVML_ERROR_GPU_IS_LOST = 15
NVML_ERROR_UNKNOWN = 999
_MIB = 1 << 20


class NVMLLibraryMismatchError(Exception):
    """The driver's library is older than this module; no NVMLError."""


class NVMLError(Exception):
    """What NVML answers in place of a value."""

    value = NVML_ERROR_UNKNOWN


class NVMLError_Uninitialized(NVMLError):
    """nvmlInit was not called."""

    value = NVML_ERROR_UNINITIALIZED


class NVMLError_InvalidArgument(NVMLError):
    """No such GPU or sensor."""

    value = NVML_ERROR_INVALID_ARGUMENT


class NVMLError_NotSupported(NVMLError):
    """This GPU cannot tell."""

    value = NVML_ERROR_NOT_SUPPORTED


class NVMLError_DriverNotLoaded(NVMLError):
    """There is no driver."""

    value = NVML_ERROR_DRIVER_NOT_LOADED


class NVMLError_GpuIsLost(NVMLError):
    """It fell off the bus."""

    value = NVML_ERROR_GPU_IS_LOST


@dataclass(frozen=True)
class _Memory:
    total: int
    free: int
    used: int


@dataclass(frozen=True)
class _Utilization:
    gpu: int
    memory: int


@dataclass(frozen=True)
class _Process:
    pid: int
    usedGpuMemory: int | None  # noqa: N815 (the real field)


_gpus: list[dict[str, Any]] | None = None
_driver: dict[str, Any] = {}
# Each nvmlInit is undone by one nvmlShutdown, as in NVML: several threads may be in it.
_inits: list[None] = []
_turn = threading.Lock()


def nvmlInit() -> None:
    global _gpus  # noqa: PLW0603 (the real module holds a library as well)
    content = read_file()
    if not content.get("driver", True):
        raise NVMLError_DriverNotLoaded
    with _turn:
        _gpus = content["gpus"]
        _driver.update(content)
        _inits.append(None)


def nvmlShutdown() -> None:
    global _gpus  # noqa: PLW0603 (as above)
    with _turn:
        _inits[-1:] = []
        if not _inits:
            _gpus = None


def nvmlSystemGetDriverVersion() -> str:
    _all()
    return str(_driver.get("driver_version", "580.65.06"))


def nvmlSystemGetCudaDriverVersion_v2() -> int:
    _all()
    return int(_driver.get("cuda", 13000))


def nvmlDeviceGetCount() -> int:
    return len(_all())


def nvmlDeviceGetHandleByIndex(index: int) -> dict[str, Any]:
    if not 0 <= index < len(_all()):
        raise NVMLError_InvalidArgument
    return _asked("nvmlDeviceGetHandleByIndex", _all()[index])


def nvmlDeviceGetName(handle: dict[str, Any]) -> str:
    return str(_asked("nvmlDeviceGetName", handle)["name"])


def nvmlDeviceGetUUID(handle: dict[str, Any]) -> str:
    return str(_asked("nvmlDeviceGetUUID", handle)["uuid"])


def nvmlDeviceGetMemoryInfo(handle: dict[str, Any]) -> _Memory:
    total = int(_asked("nvmlDeviceGetMemoryInfo", handle)["total_mib"])
    used = used_mib(handle)
    return _Memory(total * _MIB, (total - used) * _MIB, used * _MIB)


def nvmlDeviceGetCudaComputeCapability(handle: dict[str, Any]) -> list[int]:
    return list(_asked("nvmlDeviceGetCudaComputeCapability", handle).get("capability", (8, 9)))


def nvmlDeviceGetCurrentClocksThrottleReasons(handle: dict[str, Any]) -> int:
    asked = _asked("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    return int(asked.get("clock_reasons", 0))


def nvmlDeviceGetEnforcedPowerLimit(handle: dict[str, Any]) -> int:
    asked = _asked("nvmlDeviceGetEnforcedPowerLimit", handle)
    return int(asked.get("power_limit_w", 450) * 1000)


def nvmlDeviceGetPowerManagementDefaultLimit(handle: dict[str, Any]) -> int:
    asked = _asked("nvmlDeviceGetPowerManagementDefaultLimit", handle)
    return int(asked.get("power_default_w", 450) * 1000)


def nvmlDeviceGetUtilizationRates(handle: dict[str, Any]) -> _Utilization:
    _asked("nvmlDeviceGetUtilizationRates", handle)
    return _Utilization(gpu=7, memory=3)


def nvmlDeviceGetTemperature(handle: dict[str, Any], sensor: int) -> int:
    if sensor != NVML_TEMPERATURE_GPU:
        raise NVMLError_InvalidArgument
    _asked("nvmlDeviceGetTemperature", handle)
    return 41


def nvmlDeviceGetComputeRunningProcesses(handle: dict[str, Any]) -> list[_Process]:
    rows = living(_asked("nvmlDeviceGetComputeRunningProcesses", handle))
    return [
        _Process(row["pid"], None if row["used_mib"] is None else row["used_mib"] * _MIB)
        for row in rows
    ]


def nvmlDeviceGetGraphicsRunningProcesses(handle: dict[str, Any]) -> list[_Process]:
    _asked("nvmlDeviceGetGraphicsRunningProcesses", handle)
    return []


def read_file() -> dict[str, Any]:
    """Return the file with the stand-in engines' own use put to the processes."""
    path = Path(os.environ[VARIABLE])
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    holders = path.with_name(path.name + ".holders")
    lines = holders.read_text("utf-8").splitlines() if holders.exists() else []
    # The last word of each process counts: one that sleeps has given most of it back.
    rows = {(row["uuid"], row["pid"]): row for row in map(json.loads, lines)}
    for row in rows.values():
        for gpu in content["gpus"]:
            if gpu["uuid"] == row["uuid"]:
                gpu["processes"].append(row)
    return content


def hold(uuid: str, pid: int, mib: int) -> None:
    """Let a process hold so much for as long as it lives, or until it says otherwise."""
    path = Path(os.environ[VARIABLE] + ".holders")
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"uuid": uuid, "pid": pid, "used_mib": mib}) + "\n")


def used_mib(gpu: dict[str, Any]) -> int:
    """Return what is used: by nobody in particular, and by the processes that live."""
    return int(gpu["used_mib"]) + sum(row["used_mib"] or 0 for row in living(gpu))


def living(gpu: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in gpu["processes"] if _is_alive(row["pid"])]


def _is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def _all() -> list[dict[str, Any]]:
    if _gpus is None:
        raise NVMLError_Uninitialized
    return _gpus


def _asked(question: str, handle: dict[str, Any]) -> dict[str, Any]:
    """Return the GPU, unless the file has an error or a hang for this question."""
    time.sleep(handle.get("hangs_s", {}).get(question, 0))
    error = handle.get("errors", {}).get(question)
    if error is not None:
        raise globals()[error]
    return handle
