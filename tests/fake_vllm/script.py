"""What the stand-in is told to do, read from the file named by `VLLM_FAKE_SCRIPT`.

Plain dataclasses and json, not pydantic: each start of the stand-in pays for its imports.
"""

import dataclasses
import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

VARIABLE = "VLLM_FAKE_SCRIPT"
LOGS = Path(__file__).parent / "logs"

Phase = Literal[
    "imports",
    "arguments",
    "config",
    "engine",
    "worker",
    "load",
    "kv_cache",
    "warm_up",
    "api",
    "ready",
]
SleepFault = Literal["error", "hang", "keeps_memory"]
WakeFault = Literal["error", "hang", "other_weights"]
StreamEnd = Literal["error_event", "abort", "hang"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """One start of the engine. The defaults are the real engine's ways, only faster."""

    # Start-up. Delays come before a phase's lines; `load` spreads its over the shards.
    delays_s: Mapping[Phase, float] = field(default_factory=dict)
    die_at: Phase | None = None
    exit_code: int = 1  # negative: the main process is gone by that signal, its children stay
    hang_at: Phase | None = None
    # A name in logs/, played byte for byte instead of our own lines; "gpu/..." is a template.
    log: str | None = None
    max_model_len: int = 2048  # the model's own, and what `auto` finds
    # The fields of gpu_memory.Needs that differ: what a start does then follows from them, from its
    # options and from the GPUs of tests/fake_nvml.
    memory: Mapping[str, float] | None = None
    # Signals.
    swallow_sigterm: bool = True
    ignore_sigterm: bool = False
    second_term_exit_s: float = 0.2  # 7 s in the real one
    engine_term_s: float = 0.2  # 5.5 s in the real one
    term_with_streams: StreamEnd = "hang"
    # Serving.
    tokens_per_s: float = 0  # 0: as fast as it goes
    warm_up_tokens: int = 0  # steps the first request of all waits for in vain
    frozen_after_requests: int | None = None
    ready_but_no_token: bool = False
    health_200_but_completions_500: bool = False
    preempts: int = 0  # how often each request was preempted, for want of KV cache
    # Death while serving, always with exit status 0.
    crash_on_prompt: str | None = None
    exit0_after_s: float | None = None
    exit0_after_requests: int | None = None
    exit0_after_tokens: int | None = None
    engine_death_exit_s: float = 0.5  # 3.6 to 5 s in the real one
    health_notice_s: float = 0.25
    engine_death_streams: StreamEnd = "error_event"
    # Sleep (VLLM_SERVER_DEV_MODE=1 and --enable-sleep-mode). What stays on the GPU, in GiB; what is
    # held of host memory meanwhile, in MiB.
    sleep: SleepFault | None = None
    wake: WakeFault | None = None
    asleep_gib: float = 0.6
    asleep_host_mib: int = 0
    # Processes out of reach of killpg.
    setsid_grandchildren: int = 0
    hold_pipe: bool = False
    # By a name in /dev/shm, which stays when its processes are killed.
    shares_memory: bool = False
    # Nothing outlives a failed test for ever.
    life_s: int = 900
    orphan_life_s: int = 120


@dataclass(frozen=True, slots=True)
class Start:
    """One start as the stand-in wrote it down."""

    pid: int
    argv: list[str]


# Where each log in logs/ ends: the phase it died in (None: while serving) and the exit status.
_FAILURES: Mapping[str, tuple[Phase | None, int]] = {
    "bad_arguments": ("imports", 2),
    "cache_damaged": ("kv_cache", 1),
    "corrupt_weights": ("kv_cache", 1),
    "cuda_driver": ("imports", 1),
    "disk_full": ("kv_cache", 1),
    "engine_dead_other": (None, 0),
    "gpu_oom_startup_free": ("worker", 1),
    "host_oom_serving": (None, 0),
    "host_oom_startup": ("warm_up", 1),
    "hub_auth": ("config", 1),
    "kv_cache_none": ("kv_cache", 1),
    "kv_cache_too_small": ("warm_up", 1),
    "missing_dependency": ("kv_cache", 1),
}
FAILURES = tuple(_FAILURES)


def failure(log: str, **changes: Any) -> Behaviour:  # noqa: ANN401  # Behaviour checks them
    """Return the start that dies as the real engine did in `logs/<log>.log`."""
    die_at, exit_code = _FAILURES[log]
    behaviour = Behaviour(log=log, die_at=die_at, exit_code=exit_code)
    if die_at is None:
        behaviour = dataclasses.replace(behaviour, exit0_after_s=0.3)
    return dataclasses.replace(behaviour, **changes)


def write_script(
    path: Path, *starts: Behaviour, by_model: Mapping[str, Mapping[str, Any]] | None = None
) -> Path:
    """Write the script: one behaviour a start, the last one repeats; `by_model` overrides fields.

    The keys of `by_model` are served names or the MODEL argument.
    """
    overrides = dict(by_model or {})
    for changes in overrides.values():
        dataclasses.replace(Behaviour(), **changes)  # a misspelt field fails here, in the test
    content = {"starts": [dataclasses.asdict(start) for start in starts], "by_model": overrides}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def next_behaviour(argv: Sequence[str], names: Sequence[str]) -> Behaviour:
    """Write this start down beside the script and return what the script has for it."""
    if VARIABLE not in os.environ:
        return Behaviour()
    path = Path(os.environ[VARIABLE])
    content = json.loads(path.read_text(encoding="utf-8"))
    chosen: dict[str, Any] = {}
    if content["starts"]:
        index = _record(path, argv)
        chosen |= content["starts"][min(index, len(content["starts"]) - 1)]
    for name in names:
        chosen |= content["by_model"].get(name, {})
    return Behaviour(**chosen)


def starts(script: Path) -> list[Start]:
    """Return every start made with this script, oldest first."""
    return [Start(**json.loads(line)) for line in _lines(_starts_file(script))]


def strays(script: Path) -> list[int]:
    """Return the process ids of the grandchildren that left the session."""
    return [int(line) for line in _lines(strays_file(script))]


def kill_strays(script: Path) -> None:
    """End the grandchildren that left the session; those already gone are fine."""
    for pid in strays(script):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def strays_file(script: Path) -> Path:
    return script.with_name(script.name + ".strays")


def _starts_file(script: Path) -> Path:
    return script.with_name(script.name + ".starts")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _record(script: Path, argv: Sequence[str]) -> int:
    """Append this start and return its index. Two may start at once: O_APPEND keeps them apart."""
    line = json.dumps({"pid": os.getpid(), "argv": list(argv)}) + "\n"
    path = _starts_file(script)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, line.encode())
    end = os.lseek(handle, 0, os.SEEK_CUR)
    os.close(handle)
    return path.read_bytes()[:end].count(b"\n") - 1
