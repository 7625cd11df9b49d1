"""What the supervisor and its effects work with."""

from dataclasses import dataclass

from cahoots_vllm.control.fit_check import FitCheck
from cahoots_vllm.control.gate import Gate
from cahoots_vllm.control.gpu_release import GpuRelease
from cahoots_vllm.control.handover import Handover
from cahoots_vllm.control.last_used import LastUsed
from cahoots_vllm.control.learned import Learned
from cahoots_vllm.control.load_times import LoadTimes
from cahoots_vllm.control.log_buffer import LogBuffer
from cahoots_vllm.control.option_check import OptionCheck
from cahoots_vllm.control.preflight import Preflight
from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.control.sleepers import Sleepers
from cahoots_vllm.control.standby import StandbyKeeper
from cahoots_vllm.control.state_file import StateFile
from cahoots_vllm.control.worker_log import WorkerLog
from cahoots_vllm.worker.context import WorkerContext


@dataclass(frozen=True, slots=True)
class Parts:
    """The seams to files, devices, workers and the gateway."""

    context: WorkerContext
    standby: StandbyKeeper
    sleepers: Sleepers
    preflight: Preflight
    options: OptionCheck
    fit: FitCheck
    rotation: Rotation
    release: GpuRelease
    gate: Gate
    learned: Learned
    load_times: LoadTimes
    last_used: LastUsed
    state_file: StateFile
    handover: Handover
    logs: LogBuffer
    worker_log: WorkerLog
