"""Forks the engine's processes from the standby, each as a spawned one would be.

Part of launcher.py, run by the engine's own Python: the standard library and vLLM only.
"""

import importlib
import multiprocessing.context
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

# Where vLLM asks how to start EngineCore and the workers. Its other uses keep their spawn.
_ASKED_IN = ("vllm.v1.engine.utils", "vllm.v1.executor.multiproc_executor")
_METHOD = "VLLM_WORKER_MULTIPROC_METHOD"
# Set for a worker by vllm/utils/ompmultiprocessing.py. A forked one's OpenMP has read its
# environment long ago: what it would have read has to be done, or be left to a spawned one.
_OMP_UNKNOWN = ("OMP_PLACES", "OMP_PROC_BIND", "KMP_AFFINITY")
# Open once a driver is initialised, which no forked process can use; NVML does not open them.
_DRIVERS = ("/dev/nvidia-uvm", "/dev/kfd", "/dev/dri/")


class Process(multiprocessing.context.ForkProcess):
    """A forked process that has forgotten what only its parent should have."""

    def start(self) -> None:
        """Start the tracker of shared memory first: as with spawn, it is the API server's child."""
        resource_tracker.ensure_running()
        super().start()

    def _bootstrap(self, *args: Any, **kwargs: Any) -> int:  # noqa: ANN401 (whatever Process takes)
        _become_child()
        return int(super()._bootstrap(*args, **kwargs))  # type: ignore[misc]  # typeshed lacks it


class Context(multiprocessing.context.ForkContext):
    """The start method vLLM gets."""

    Process = Process


class _Chooser:
    """Stands for vLLM's get_mp_context: fork where it is safe just then, else what vLLM says."""

    def __init__(
        self, original: Callable[[], BaseContext], preload: str, environ: dict[str, str]
    ) -> None:
        self._original, self._preload, self._environ = original, preload, environ

    def __call__(self) -> BaseContext:
        chosen = self._original()  # it makes the environment right, too
        why_not = why_not_fork(self._environ) or self._why_not_openmp()
        if why_not is None:
            return Context()
        sys.stderr.write(f"cahoots-vllm: this start is slower: processes are spawned: {why_not}\n")
        return chosen

    def _why_not_openmp(self) -> str | None:
        # The CPU platform wants libraries loaded before all others in the processes to come.
        if os.environ.get("LD_PRELOAD", "") not in ("", self._preload):
            return "LD_PRELOAD is another one for the engine's processes"
        for name in _OMP_UNKNOWN:
            if os.environ.get(name) != self._environ.get(name):
                return f"{name} is set for the worker"
        return None


def arrange(preload: str) -> str | None:
    """Let vLLM fork; return why it will not. Raises ImportError in an engine that is not known.

    `preload`: the LD_PRELOAD this process was started with.
    """
    environ = dict(os.environ)
    for module in map(importlib.import_module, _ASKED_IN):
        if not hasattr(module, "get_mp_context"):
            why = f"{module.__name__} has no get_mp_context"
            raise ImportError(why)
        chooser = _Chooser(module.get_mp_context, preload, environ)
        setattr(module, "get_mp_context", chooser)  # noqa: B010 (the module's type has no such name)
    return why_not_fork(environ)


def why_not_fork(environ: dict[str, str]) -> str | None:
    """Return why a process forked now would not work, None if it would."""
    platform = importlib.import_module("vllm.platforms").current_platform
    in_wsl = importlib.import_module("vllm.platforms.interface").in_wsl
    is_cuda_used = importlib.import_module("vllm.utils.platform_utils").cuda_is_initialized
    reasons = {
        "nobody has tried it on this platform": not (platform.is_cpu() or platform.is_cuda()),
        f"{_METHOD} says spawn": environ.get(_METHOD) == "spawn",
        "--numa-bind needs new processes": "--numa-bind" in sys.argv,
        "NVML does not survive it in WSL": in_wsl(),
        "CUDA is initialised": is_cuda_used(),
        "a GPU driver is initialised": any(
            target.startswith(_DRIVERS) for _, target in _open_files()
        ),
    }
    return next((why for why, holds in reasons.items() if holds), None)


def _open_files() -> list[tuple[int, str]]:
    links = list(Path("/proc/self/fd").iterdir())
    # The listing's own descriptor is closed by now.
    return [(int(link.name), str(link.readlink())) for link in links if link.is_symlink()]


def _become_child() -> None:
    """Undo what the parent has that a spawned process would not: handlers, sockets, binding."""
    # A signal to this process would else be told to the parent's event loop.
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The listening socket would outlive the API server. Its number stays taken: closed behind
    # the back of the objects that own it, it could become another file's.
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd, target in _open_files():
        if fd > 2 and target.startswith(("socket:", "anon_inode:")):  # noqa: PLR2004 (stderr)
            os.dup2(null, fd, inheritable=False)
    os.close(null)
    _bind_threads()
    _read_again()
    importlib.import_module("launcher_warm").forget_said_once()


def _bind_threads() -> None:
    """Bind the threads to come as GNU OpenMP does when it starts with these variables."""
    places = os.environ.get("GOMP_CPU_AFFINITY", "")
    if places:
        os.sched_setaffinity(0, [int(cpu) for cpu in places.split()])
        torch = importlib.import_module("torch")
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def _read_again() -> None:
    """Let torch have what it reads when it is imported, and vLLM sets later (platforms/cpu.py).

    Inductor's configuration is in the key of the compile cache: another one compiles all anew.
    """
    config = sys.modules.get("torch._inductor.config")
    if config is not None:
        is_dynamic = os.environ.get("TORCHINDUCTOR_CPP_DYNAMIC_THREADS", "0") == "1"
        config.cpp.dynamic_threads = is_dynamic
