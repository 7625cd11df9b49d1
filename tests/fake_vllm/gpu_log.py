"""The logs of a GPU engine: one start-up, and each way to fail in it, wrapped as the engine does.

`logs/gpu/startup.log` is a whole start; the other files are the innermost traceback of a failure
with its figures left open (vLLM 0.32's source; tests/failures/written). The same traceback stands
twice in a real log, under EngineCore's prefix and bare, and the API server's own below it.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fake_vllm.script import LOGS, Behaviour, Phase

PREFIX = "gpu/"
_CORE = "(EngineCore pid=${engine}) ERROR ${now} "
_FAILED, _FATAL = "[core.py:1510] ", "[core.py:1512] "
# gpu_model_runner.py:5140: said before the traceback, and wrong: the fraction bounds no weights.
_LOADING = (
    f"{_CORE}[gpu_model_runner.py:5140] Failed to load model - not enough GPU memory. Try lowering "
    "--gpu-memory-utilization to free memory for weights, increasing --tensor-parallel-size, or "
    "using --quantization. See https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for "
    "more tips. (original error: ${oom})\n"
)
_BOOTSTRAP = """\
Process EngineCore:
Traceback (most recent call last):
  File "/usr/lib/python3.12/multiprocessing/process.py", line 314, in _bootstrap
    self.run()
  File "/usr/lib/python3.12/multiprocessing/process.py", line 108, in run
    self._target(*self._args, **self._kwargs)
  File "/opt/venv/lib/python3.12/site-packages/vllm/v1/engine/core.py", line 1514, in \
run_engine_core
    raise e
"""


@dataclass(frozen=True, slots=True)
class GpuFailure:
    """Where a start fails: before which line, and in which phase the process ends.

    Without both: while serving.
    """

    before: str | None = None
    die_at: Phase | None = None


GPU_FAILURES: Mapping[str, GpuFailure] = {
    "free_too_small": GpuFailure("Starting to load model", "load"),
    "loading": GpuFailure("Loading safetensors", "kv_cache"),
    "profiling": GpuFailure("Available KV cache memory", "kv_cache"),
    "profile_disturbed": GpuFailure("Available KV cache memory", "kv_cache"),
    "kv_none": GpuFailure("GPU KV cache size", "warm_up"),
    "kv_too_small": GpuFailure("GPU KV cache size", "warm_up"),
    "after_kv": GpuFailure("Graph capturing finished", "warm_up"),
    "illegal_start": GpuFailure("Graph capturing finished", "warm_up"),
    "sampler": GpuFailure("init engine (", "warm_up"),
    "serving": GpuFailure(),
    "illegal_serving": GpuFailure(),
}


def gpu_failure(name: str, **changes: Any) -> Behaviour:  # noqa: ANN401  # Behaviour checks them
    """Return the start that dies as `logs/gpu/<name>.log` says, with the figures of its options."""
    die_at = GPU_FAILURES[name].die_at
    dies_after_s = 0.3 if die_at is None else None
    behaviour = Behaviour(log=PREFIX + name, die_at=die_at, exit0_after_s=dies_after_s)
    return dataclasses.replace(behaviour, **changes)


def start_lines(name: str) -> list[str]:
    """Return the template of a start: whole, or up to its failure and with it."""
    lines = _read("startup")
    failure = GPU_FAILURES.get(name, GpuFailure())
    if failure.before is None:
        return lines
    end = next(index for index, line in enumerate(lines) if failure.before in line)
    return [*lines[:end], *_failed_start(name)]


def death_lines(name: str) -> list[str]:
    """Return what EngineCore says first when it dies while serving; nothing if it does not."""
    if name not in GPU_FAILURES or GPU_FAILURES[name].before is not None:
        return []
    said = [f"{_CORE}{_FATAL}EngineCore encountered a fatal error.\n"]
    return [*said, *(f"{_CORE}{_FATAL}{line}" for line in _read(name))]


def _failed_start(name: str) -> Iterator[str]:
    traceback = _read(name)
    if name == "loading":
        yield _LOADING
    yield f"{_CORE}{_FAILED}EngineCore failed to start.\n"
    yield from (f"{_CORE}{_FAILED}{line}" for line in traceback)
    yield from _split(_BOOTSTRAP)
    yield from traceback[1:]
    yield from _read("api_server")


def _read(name: str) -> list[str]:
    return _split((LOGS / PREFIX / f"{name}.log").read_bytes().decode())


def _split(text: str) -> list[str]:
    return [line + "\n" for line in text.split("\n")[:-1]]
