"""The launch spec: everything a worker is started with, and the argv it becomes.

Option names are `vllm serve`'s own long names without the dashes
(vllm/entrypoints/openai/cli_args.py, vllm/engine/arg_utils.py).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

OptionValue = bool | int | float | str | tuple[str, ...]
Options = tuple[tuple[str, OptionValue], ...]

# What the Cahoots guide's command says, option for option.
DEFAULT_OPTIONS: Options = (
    ("dtype", "auto"),
    ("max-model-len", 32768),
    ("gpu-memory-utilization", 0.9),
    ("enable-prefix-caching", True),
)
# On the CPU engine the fraction is one of host memory, and all of it is zero-filled at start
# (0.4 GiB/s seen): the guide's 0.9 would take the host's memory and a minute.
CPU_DEFAULT_UTILIZATION = 0.4

# Ours alone: a profile that sets one of these would cut the worker off from the daemon.
RESERVED_OPTIONS = frozenset(
    {
        "uds",
        "host",
        "port",
        "served-model-name",
        "model",
        "revision",
        "api-key",
        "root-path",
        "ssl-keyfile",
        "ssl-certfile",
        "config",
        "disable-access-log-for-endpoints",
    }
)


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """Immutable and comparable: a different launch spec means a different worker.

    `model` is the configured name; `source` the repo id or directory vLLM loads; `served`
    every name the worker answers to, the configured one first. `env` holds what `.env` passes
    through, without secrets: those are added at spawn, since a rotated token is no new spec.
    """

    model: str
    source: str
    engine: str
    revision: str | None = None
    served: tuple[str, ...] = ()
    options: Options = ()
    env: tuple[tuple[str, str], ...] = ()
    profile: str | None = None
    # Options nobody asked for: preflight may fit them to the model.
    fitted: frozenset[str] = frozenset()
    # The source is a complete local directory: the hub is not asked.
    is_local: bool = False

    @property
    def is_repo(self) -> bool:
        """Whether the source can be a repo of the hub: ORG/NAME, and no path."""
        return self.source.count("/") == 1 and not self.source.startswith(("/", ".", "~"))

    def option(self, name: str) -> OptionValue | None:
        """Return the value of an option, None where it is not set."""
        return dict(self.options).get(name)

    def with_option(self, name: str, value: OptionValue) -> "LaunchSpec":
        """Return the same spec with one option changed or added."""
        merged = {**dict(self.options), name: value}
        return replace(self, options=tuple(merged.items()))

    def without_option(self, name: str) -> "LaunchSpec":
        """Return the same spec with an option left to vLLM's default."""
        return replace(self, options=tuple(o for o in self.options if o[0] != name))


def merge_options(*layers: Options) -> Options:
    """Merge option layers, weakest first; order follows the first mention."""
    merged: dict[str, OptionValue] = {}
    for layer in layers:
        merged.update(layer)
    return tuple(merged.items())


def option_args(options: Options) -> list[str]:
    """Turn options into arguments: true is the bare flag, false its `--no-` form."""
    args: list[str] = []
    for name, value in options:
        if value is True:
            args.append(f"--{name}")
        elif value is False:
            args.append(f"--no-{name}")
        elif isinstance(value, tuple):
            args += [f"--{name}", *value]
        else:
            args += [f"--{name}", str(value)]
    return args


def build_argv(spec: LaunchSpec, uds: str) -> list[str]:
    """Return the worker's argv; it holds no secret."""
    argv = [f"{spec.engine}/bin/vllm", "serve", spec.source, "--uds", uds]
    argv += ["--served-model-name", *(spec.served or (spec.model,))]
    if spec.revision is not None and not spec.is_local:
        argv += ["--revision", spec.revision]
    # Probes would otherwise fill the log with access lines.
    argv += ["--disable-access-log-for-endpoints", "/health,/metrics,/ping"]
    return argv + option_args(spec.options)


# What vllm needs to have routes that put its engine to sleep and wake it (routers.py): the routes
# ask for no key, so they are on the worker's private socket alone.
SLEEP_OPTION = "enable-sleep-mode"
DEV_MODE = "VLLM_SERVER_DEV_MODE"


def can_sleep(spec: LaunchSpec) -> bool:
    """Whether a worker of this spec can be put to sleep."""
    return spec.option(SLEEP_OPTION) is True and dict(spec.env).get(DEV_MODE) == "1"


# In every process of a worker, whatever session it is in: "RUNTIME_DIR#GENERATION".
WORKER_MARK = "CAHOOTS_VLLM_WORKER"

# Set for the daemon or its host, wrong or dangerous in a worker: systemd's own protocol, and
# Python settings of the daemon's environment. VLLM_* and HF_* come from `.env` alone: Kubernetes,
# for one, injects a VLLM_PORT that kills the worker. What differs from one start of the daemon to
# the next would also make each standby one of another environment. The dynamic linker copies
# its tunables elsewhere (glibc 2.36): where they come first, setproctitle finds no title to change.
_NOT_INHERITED = (
    "NOTIFY_SOCKET",
    "WATCHDOG_",
    "LISTEN_",
    "CREDENTIALS_DIRECTORY",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "SYSTEMD_EXEC_PID",
    "TRIGGER_",
    "FDSTORE",
    "GLIBC_TUNABLES",
    "MEMORY_PRESSURE_",
    "PYTHON",
    "VIRTUAL_ENV",
    "VLLM_",
    "HF_",
    "HUGGING",
    "CAHOOTS_",
)


def inherited_env(environ: Mapping[str, str], secret_names: Iterable[str]) -> dict[str, str]:
    """Return what a worker may see of the daemon's own environment: no secret, nothing of ours."""
    hidden = frozenset(secret_names)
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(_NOT_INHERITED) and name not in hidden
    }


def engine_cache(cache_dir: str, version: str) -> str:
    """Return the directory of what an engine of this version compiles and inspects.

    One for each version: a new engine never reads what an old one wrote.
    """
    return f"{cache_dir}/vllm/{version}"


def build_env(
    spec: LaunchSpec, inherited: Mapping[str, str], cache_dir: str, version: str
) -> dict[str, str]:
    """Return the worker's environment without secrets; the spec's own variables win.

    `version` is the engine's. Inductor and Triton write to /tmp and the home directory where
    nobody says otherwise; vLLM moves most of it below its own root (compilation/decorators.py).
    Privacy: vLLM's usage statistics and the hub's telemetry are off (vllm/usage/usage_lib.py).
    """
    cache = engine_cache(cache_dir, version)
    env = {
        **inherited,
        "PATH": f"{spec.engine}/bin:{inherited.get('PATH', '/usr/bin:/bin')}",
        "VIRTUAL_ENV": spec.engine,
        "HF_HOME": f"{cache_dir}/huggingface",
        "VLLM_CACHE_ROOT": cache,
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
        "TRITON_CACHE_DIR": f"{cache}/triton",
        "VLLM_DISABLE_LOG_LOGO": "1",
        "PYTHONUNBUFFERED": "1",
        # Else setproctitle overwrites the environment that an orphan is known by.
        "SPT_NOENV": "1",
        # GPUs are numbered as NVML does, not by speed.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        **dict(spec.env),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    if spec.is_local:
        # vLLM asks the hub again at each start, from APIServer, EngineCore and Worker.
        env["HF_HUB_OFFLINE"] = "1"
    return env
