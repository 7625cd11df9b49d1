"""Settings: one immutable value made from defaults, configuration, profile, `.env` and override.

Parsing files is `control.settings_files`; this module only decides.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from cahoots_vllm.core.addresses import is_exposed, unix_path
from cahoots_vllm.core.launch import (
    CPU_DEFAULT_UTILIZATION,
    DEFAULT_OPTIONS,
    DEV_MODE,
    SLEEP_OPTION,
    LaunchSpec,
    Options,
    merge_options,
)
from cahoots_vllm.core.memory import DEFAULT_MEMORY_LIMITS, MemoryLimits
from cahoots_vllm.core.secret import Secret
from cahoots_vllm.core.wire import SwapStrategy

GUIDE_MODEL: Final = "Qwen/Qwen3-32B-Instruct"
GUIDE_URL: Final = "http://localhost:8001/v1"
LOCAL_PROVIDER: Final = "local"


# (key as people know it, where its value comes from); a key that is missing has its default.
Origins = tuple[tuple[str, str], ...]


class OnDemand(StrEnum):
    """Which models a request may ask for although another one is served."""

    OFF = "off"
    PROFILES = "profiles"


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Where clients are served and how long they may wait; times in seconds."""

    listen: tuple[str, ...] = ("127.0.0.1", "::1")
    port: int = 8001
    base_path: str = "/v1"
    # The host of LOCAL_LLM_URL.
    host: str = "localhost"
    hold_timeout_s: float = 600.0
    hold_max: int = 1000
    hold_bytes: int = 64 * 1024 * 1024
    drain_timeout_s: float = 120.0
    on_demand: OnDemand = OnDemand.OFF
    # A model that became ready serves so long at least before requests for another one end it.
    min_stay_s: float = 30.0
    # Without requests for so long the worker is stopped until one comes; 0: never.
    idle_stop_s: float = 0.0
    # SHA-256 digests of the keys, wherever they were written; none: no key is asked for.
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    api_keys_file: str | None = None
    # Web pages, beside those of this host, that may use the gateway.
    origins: tuple[str, ...] = ()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where clients on this host find it: a URL for each address, a Unix socket as written."""
        return tuple(self._endpoint(address) for address in self.listen)

    def _endpoint(self, address: str) -> str:
        if unix_path(address) is not None:
            return address
        host = f"[{address}]" if ":" in address else address
        return f"http://{host}:{self.port}{self.base_path}"

    @property
    def exposed(self) -> tuple[str, ...]:
        """The addresses beyond loopback: they ask for a key."""
        return tuple(address for address in self.listen if is_exposed(address))


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How patient the daemon is with a worker; times in seconds."""

    # Failures that never exit (rate limits, a silent hub, a missing compiler): DESIGN §5.
    start_silence_s: float = 300.0
    # SIGTERM is swallowed during engine start and hangs with open streams: the next step follows.
    stop_grace_s: float = 10.0
    health_interval_s: float = 5.0
    # A ready worker with requests in which nothing moves hangs; 0: never say so.
    stall_timeout_s: float = 120.0
    # A worker whose daemon is gone, and does not come back, ends itself after this.
    orphan_timeout_s: float = 300.0


class StandbyMode(StrEnum):
    """Whether an engine process waits, warm, for the next start."""

    AUTO = "auto"  # as far as the host's memory allows
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class SleepSettings:
    """How workers sleep where swaps are done so."""

    # Host memory for all that are asleep; None: half of what is available. 0: none is kept.
    memory_bytes: int | None = None
    # For falling asleep and for waking: weights move at some GB/s, and memory is pinned for them.
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Profile:
    """How a model is to be served (`models.d/*.toml`)."""

    name: str
    file: str
    source: str | None = None
    revision: str | None = None
    options: Options = ()


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """An installed vLLM: a virtual environment with `bin/vllm`."""

    path: str
    version: str

    @property
    def is_cpu(self) -> bool:
        """Whether it is the CPU build (vLLM itself tells by "cpu" in the version)."""
        return "cpu" in self.version


@dataclass(frozen=True, slots=True)
class Settings:
    """What the daemon was told, validated. Comparable, so that a change can be found by a diff."""

    provider: str | None
    configured_model: str
    engine: EngineInfo
    cache_dir: str
    env_file: str
    url: str = GUIDE_URL
    override: str | None = None
    # What requests have asked for in place of it (core.demand); never written into a file.
    demanded: str | None = None
    gateway: GatewaySettings = GatewaySettings()
    worker: WorkerSettings = WorkerSettings()
    standby: StandbyMode = StandbyMode.AUTO
    swap: SwapStrategy = SwapStrategy.AUTO
    sleep: SleepSettings = SleepSettings()
    memory: MemoryLimits = DEFAULT_MEMORY_LIMITS
    profiles: tuple[Profile, ...] = ()
    options: Options = ()
    worker_env: tuple[tuple[str, str], ...] = ()
    secret_env: tuple[tuple[str, Secret], ...] = field(default=(), repr=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)
    origins: Origins = field(default=(), repr=False, compare=False)

    @property
    def is_local(self) -> bool:
        """Whether Cahoots uses the model on this host."""
        return self.provider == LOCAL_PROVIDER

    @property
    def sleeps(self) -> bool:
        """Whether workers are started so that they can sleep: vLLM has that on GPUs only."""
        return self.swap is SwapStrategy.SLEEP and not self.engine.is_cpu

    @property
    def wanted_model(self) -> str:
        """The model to serve: what requests ask for, else what people do."""
        return self.demanded or self.home_model

    @property
    def home_model(self) -> str:
        """The model that people want: the live override, else what `.env` says."""
        return self.override or self.configured_model


def find_profile(settings: Settings, model: str) -> Profile | None:
    """Return the profile a model name means: its name, or the repo it is served from."""
    for profile in settings.profiles:
        if profile.name == model:
            return profile
    return next((p for p in settings.profiles if p.source == model), None)


def make_launch_spec(settings: Settings, model: str) -> LaunchSpec:
    """Return the launch spec for a model: defaults < configuration < profile."""
    profile = find_profile(settings, model) or Profile(name=model, file="")
    source = (profile.source or model).replace("{cache}", settings.cache_dir)
    defaults = DEFAULT_OPTIONS
    if settings.engine.is_cpu:
        defaults = merge_options(defaults, (("gpu-memory-utilization", CPU_DEFAULT_UTILIZATION),))
    explicit = merge_options(settings.options, profile.options)
    sleep: Options = ((SLEEP_OPTION, True),) if settings.sleeps else ()
    options = merge_options(defaults, sleep, explicit)
    served = (model,) if source.startswith("/") else tuple(dict.fromkeys((model, source)))
    return LaunchSpec(
        model=model,
        source=source,
        engine=settings.engine.path,
        revision=profile.revision,
        served=tuple(dict.fromkeys((*served, profile.name))),
        options=options,
        env=_environment(settings, options),
        profile=profile.file or None,
        fitted=frozenset(name for name, _ in defaults) - {name for name, _ in explicit},
    )


def _environment(settings: Settings, options: Options) -> tuple[tuple[str, str], ...]:
    """Return `.env`'s, with the routes for sleep where the worker is to have them."""
    if not settings.sleeps or not dict(options)[SLEEP_OPTION]:
        return settings.worker_env  # a profile may say no for its own model
    return tuple({DEV_MODE: "1", **dict(settings.worker_env)}.items())
