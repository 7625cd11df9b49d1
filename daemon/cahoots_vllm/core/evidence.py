"""What the host says beside the log: who holds memory, whom the kernel killed, what the GPU did.

Plain values, read by the shell, judged by core.diagnosis and core.memory. Bytes throughout.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds memory of a device; `memory_bytes` is None where the driver hides it.

    `is_ours`: it belongs to an earlier worker of this daemon, so it may be ended.
    """

    pid: int
    user: str
    command: str
    memory_bytes: int | None = None
    is_ours: bool = False


@dataclass(frozen=True, slots=True)
class Device:
    """Memory that `gpu-memory-utilization` is a share of: a GPU's, or on the CPU engine the host's.

    `key` is stable over restarts (a GPU's UUID, "host"); `name` is for people.
    `capability` is CUDA's compute capability, None where there is none or nobody says.
    """

    key: str
    name: str
    total_bytes: int
    free_bytes: int
    holders: tuple[Holder, ...] = ()
    capability: tuple[int, int] | None = None

    @property
    def free_share(self) -> float:
        """The free memory as a share of the whole, 0..1."""
        return self.free_bytes / self.total_bytes if self.total_bytes > 0 else 0.0


@dataclass(frozen=True, slots=True)
class HostEvidence:
    """What was seen on the host when a worker ended; empty where nothing could be read."""

    # A sentence of the kernel or its counters: one of the worker's processes was killed for memory.
    oom_kill: str | None = None
    # The driver's report of a GPU error, from the kernel's log ("NVRM: Xid (PCI:...): 79, ...").
    xid: str | None = None
    # Host memory that a new process could get without swapping (proc(5), MemAvailable).
    host_available_bytes: int | None = None
    # The kernel was asked: no `oom_kill` then means that it killed nobody for memory.
    has_kernels_word: bool = False


NO_EVIDENCE = HostEvidence()
