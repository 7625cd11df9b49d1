"""The rows for the host: driver, disk, port, missing parts, limits, and engines that just die.

First match wins. A file behind a row is the wording's source in vLLM 0.32.
"""

from cahoots_vllm.core.diagnosis.causes import Cause, Trait
from cahoots_vllm.core.diagnosis.rule import Rule, rule
from cahoots_vllm.core.diagnosis.rules_model import INSTALL

_DRIVER = "look at nvidia-smi and the kernel's log: the driver, or a GPU, does not work"
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
        r"\[Errno 28\]|No space left on device|os error 28|\[Errno 122\]|[Dd]isk quota exceeded"
        r"|No usable temporary directory",
        "free space in the folder that the message names: weights, compile cache or temporary "
        "files",
    ),
    rule(  # what the survivors of another rank say
        Cause.ENGINE_DEAD_OTHER,
        r"remote process exited or there was a network error|Connection was likely closed",
        _AGAIN,
        retry=True,
        weak=True,
    ),
    rule(  # a kernel that this engine or its tools cannot make for this GPU
        Cause.CUDA_DRIVER,
        r"no kernel image|ptxas (?:fatal|error)|PTXASError|is not defined for option 'gpu-name'"
        r"|unsupported gpu architecture|Unsupported gpu architecture",
        "this GPU is too new for the CUDA tools of this engine, or too old for its kernels: use an "
        "engine, or a CUDA toolkit, that knows it",
    ),
    rule(  # config/device.py:56; torch/cuda/__init__.py
        Cause.CUDA_DRIVER,
        r"Failed to infer device type|driver on your system is too old|Found no NVIDIA driver"
        r"|No CUDA GPUs are available|no CUDA-capable device|unsupported (?:toolchain|PTX)"
        r"|driver version is insufficient|forward compatibility|Error 80\d"
        r"|cudaGetDeviceCount|NVMLError|NVML Shared Library|libcuda\.so|libnvidia-ml"
        r"|not compiled with CUDA|nvidia-container-cli|could not select device driver"
        r"|system not yet initialized|CUDA unknown error|GPU is lost|fallen off the bus"
        r"|No HIP GPUs|libamdhip|cannot start without GPU",
        _DRIVER,
        retry=True,
    ),
    rule(  # a GPU's own fault: once more, then a person
        Cause.CUDA_DRIVER,
        r"illegal memory access|illegal instruction|unspecified launch failure|misaligned address"
        r"|uncorrectable (?:ECC|NVLink)|hardware stack error|an illegal|NVRM: Xid|Xid \(PCI",
        _DRIVER,
        trait=Trait.TRANSIENT,
        retry=True,
    ),
    rule(  # device_allocator/cumem.py: what torch makes of it, after the allocator's own word
        Cause.CUDA_DRIVER,
        r"CUDA error: invalid argument",
        _DRIVER,
        within=r"cumem\.py:",
        retry=True,
        weak=True,
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
        r"|Ninja is required|fatal error: [\w./+-]+: No such file|exit status 127\b"
        r"|Could not find (?:nvcc|CUDA)|CUDA_HOME|undefined symbol|cannot open shared object file"
        r"|GLIBC(?:XX)?_\d|[Pp]lease (?:pip )?install|pip install|PackageNotFoundError|Python\.h"
        r"|(?:NIXL|LMCache|Mooncake|FlashInfer|DeepGEMM|DeepEP|Triton)\S* is not available"
        r"|is not installed|cannot import name|requires \w+ to be installed|DLL load failed"
        r"|^(?:\w+\.)*ImportError",
        INSTALL,
    ),
    rule(  # triton compiles its launcher with the host's compiler
        Cause.MISSING_DEPENDENCY,
        r"CalledProcessError.*(?:gcc|cc|g\+\+|nvcc|ninja|cmake)",
        INSTALL,
    ),
    rule(  # a shell's word; probes for tools that may be missing say it too
        Cause.MISSING_DEPENDENCY,
        r"^(?:\S*sh: (?:line )?(?:\d+: )?)?\S+: (?:command )?not found",
        INSTALL,
        weak=True,
    ),
    rule(
        Cause.MISSING_DEPENDENCY,
        r"NVCC compilation failed|[Nn]inja build failed|C\+\+ compile error|CppCompileError",
        "a kernel could not be compiled: look at the compiler's words in the worker's log, and "
        "whether compiler and CUDA toolkit fit the engine",
    ),
    rule(  # getrlimit(2), the unit's TasksMax= and LimitNOFILE=
        Cause.ENGINE_DEAD_OTHER,
        r"Too many open files|can't start new thread|Resource temporarily unavailable|\[Errno 24\]"
        r"|\[Errno 11\]|libgomp: Thread creation failed|pthread_create failed",
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
        r"|malloc\(\)|exit code: -(?:6|8|11)\b|died with exit code -\d"
        r"|execute_model timed out|[Ii]teration.* timed out",
        _AGAIN,
        retry=True,
    ),
)
