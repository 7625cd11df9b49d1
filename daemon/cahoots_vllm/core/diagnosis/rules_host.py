"""The rows for the host: driver, disk, port, missing parts, limits, and engines that just die.

First match wins. A file behind a row is the wording's source in vLLM 0.32.
"""

from cahoots_vllm.core.diagnosis.causes import Cause, Trait
from cahoots_vllm.core.diagnosis.rule import Rule, rule

_DRIVER = "look at nvidia-smi and the kernel's log: the driver, or a GPU, does not work"
_INSTALL = (
    "install what the message names into the engine's environment; for ninja, nvcc or a compiler "
    "look at the PATH of the service first"
)
_AGAIN = "restart it; if it stays, report it with the worker's log (cahootsctl logs)"

HOST_RULES: tuple[Rule, ...] = (
    rule(
        Cause.DISK_FULL,
        r"\[Errno 30\]|Read-only file system",
        "let the service write there (ReadWritePaths= of the unit), or move the cache: nothing is "
        "full, cleaning does not help",
    ),
    rule(
        Cause.DISK_FULL,
        r"\[Errno 28\]|No space left on device|\[Errno 122\]|[Dd]isk quota exceeded",
        "free space in the folder that the message names: weights, compile cache or temporary "
        "files",
    ),
    rule(  # config/device.py:56; torch/cuda/__init__.py
        Cause.CUDA_DRIVER,
        r"Failed to infer device type|driver on your system is too old|Found no NVIDIA driver"
        r"|No CUDA GPUs are available|no CUDA-capable device|unsupported (?:toolchain|PTX)"
        r"|no kernel image|driver version is insufficient|forward compatibility|Error 80\d"
        r"|cudaGetDeviceCount|NVMLError|NVML Shared Library|libcuda\.so|libnvidia-ml"
        r"|not compiled with CUDA|nvidia-container-cli|could not select device driver"
        r"|system not yet initialized|CUDA unknown error|GPU is lost|fallen off the bus"
        r"|No HIP GPUs|libamdhip",
        _DRIVER,
        retry=True,
    ),
    rule(  # a GPU's own fault: once more, then a person
        Cause.CUDA_DRIVER,
        r"illegal memory access|illegal instruction|unspecified launch failure|misaligned address"
        r"|uncorrectable (?:ECC|NVLink)|hardware stack error|an illegal|NVRM: Xid|Xid \(PCI",
        f"{_DRIVER}; it is tried once more",
        trait=Trait.TRANSIENT,
        retry=True,
    ),
    rule(  # pynccl_wrapper.py:448; torch's own
        Cause.CUDA_DRIVER,
        r"NCCL error|ncclUnhandledCudaError|ncclSystemError|CUDA error:|CUDA driver error|HIP error"
        r"|CUBLAS_STATUS_|CUDNN_STATUS_|cuDNN error|CUDA-capable device|Cuda failure|CUDA failure"
        r"|CUDA runtime error|cudaError",
        _DRIVER,
        retry=True,
    ),
    rule(
        Cause.PORT_IN_USE,
        r"\[Errno 98\]|EADDRINUSE|[Aa]ddress already in use|[Pp]ort \d+ is (?:already )?in use",
        "end the other process or wait for it, or choose another port",
        retry=True,
    ),
    rule(  # the linker, torch inductor, triton, flashinfer's and deep_gemm's compilers
        Cause.MISSING_DEPENDENCY,
        r"ModuleNotFoundError|No module named|No working C\+\+ compiler|InvalidCxxCompiler"
        r"|Failed to find C compiler|[Nn]o such file or directory: '?(?:\S*/)?(?:ninja|nvcc|gcc"
        r"|g\+\+|cc|cmake|ptxas|ld)\b|(?:ninja|nvcc|gcc|cmake)\S*: (?:command )?not found"
        r"|Ninja is required"
        r"|Could not find (?:nvcc|CUDA)|CUDA_HOME|undefined symbol|cannot open shared object file"
        r"|GLIBC(?:XX)?_\d|[Pp]lease (?:pip )?install|pip install|PackageNotFoundError|Python\.h"
        r"|is not installed|cannot import name|requires \w+ to be installed|DLL load failed"
        r"|^(?:\w+\.)*ImportError",
        _INSTALL,
    ),
    rule(  # triton compiles its launcher with the host's compiler
        Cause.MISSING_DEPENDENCY,
        r"CalledProcessError.*(?:gcc|cc|g\+\+|nvcc|ninja|cmake)",
        _INSTALL,
    ),
    rule(  # getrlimit(2), the unit's TasksMax= and LimitNOFILE=
        Cause.ENGINE_DEAD_OTHER,
        r"Too many open files|can't start new thread|Resource temporarily unavailable|\[Errno 24\]"
        r"|\[Errno 11\]|libgomp: Thread creation failed",
        "raise the limits of the service (LimitNOFILE=, TasksMax= of the unit)",
        trait=Trait.LIMIT,
        retry=True,
    ),
    rule(  # multiproc_executor.py:442; core_client.py:743; torch, the C library, the interpreter
        Cause.ENGINE_DEAD_OTHER,
        r"RPC call to \S+ timed out|Timed out waiting for engine|Segfault encountered"
        r"|Fatal Python error|[Ss]egmentation fault|core dumped|Watchdog caught collective"
        r"|DistBackendError|DistStoreError|DistNetworkError|CancelledError|deadlock"
        r"|out of resource: shared memory|OutOfResources|^Aborted|double free|free\(\): invalid"
        r"|malloc\(\)|exit code: -(?:4|6|8|11)\b|execute_model timed out|[Ii]teration.* timed out",
        _AGAIN,
        retry=True,
    ),
)
