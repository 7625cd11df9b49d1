"""What else a log tells: how far the start came, whether serving began, who began the end."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cahoots_vllm.core.diagnosis.transcript import NumberedLine
from cahoots_vllm.core.log_line import Depth

BANNER = re.compile(r"vLLM (?:API )?server version \S+|[\s▄█▀]+version \d")
_ARGUMENTS = re.compile(r"(?:non-default )?args: (?:\{|Namespace\()")
_MODEL_TAG = re.compile(r"'?model(?:_tag)?'?[:=] ?'([^']+)'")
_RESOLVED = re.compile(r"Resolved architecture|Using max model len|This model supports multiple")
_ENGINE_UP = re.compile(
    r"Initializing an? (?:V\d )?LLM engine|world_size[= ]\d|rank \d+ in world size"
    r"|Starting to load model|vLLM is using nccl"
)
_LOADED = re.compile(r"Loading (?:model )?weights took|Model loading took|model weights take")
_KV_SIZED = re.compile(
    r"(?:GPU|CPU|XPU|TPU|HPU)(?: \+ host)? KV cache size|# (?:GPU|cuda|CUDA) blocks"
    r"|Available KV cache memory: \d|the rest of the memory reserved for KV Cache is \d"
    r"|Capturing (?:CUDA|cuda) ?graphs?|Capturing the model for CUDA|Graph capturing finished"
)
_READY = re.compile(r"Application startup complete|Uvicorn running on")
_STOPPED = re.compile(
    r"\[shutdown\] API server: shutdown triggered|\[shutdown\] \w+: trigger received signal"
    r"|Gracefully stopping http server|Received (?:signal|SIG)"
    r"|Shutting down(?: FastAPI HTTP server\.?)?$"
    r"|Received exit signal|Stopping \S+\.service|Exiting due to SIG"
)
# vLLM's own word that its engine is dead; never one request's error.
DEATH = re.compile(
    r"EngineCore (?:encountered|hit|failed)|(?:\w+\.)*\w*EngineDeadError|Engine (?:loop|background)"
    r"|.*(?:LLMEngine|engine) (?:has failed|is already dead|process died)"
    r"|.*engine core exited unexpectedly"
    r"|Worker proc \S+ died|Engine core proc\S* .*died|Worker \S+ pid \d+ died|Worker failed"
    r"|Got fatal signal|Executor failed|AsyncLLM output_handler failed|!+ Segfault|Fatal Python"
    r"|Worker process died|.*(?:worker|engine) (?:died|is dead|dead)\b|RPC call to|NVRM: Xid"
    r"|.*[Oo]ut of memory: Kill|terminate called|.*terminating server process"
)
_KV_LEFT = re.compile(r"Available KV cache memory: (-?[\d.]+) GiB")
_OVERRIDE = re.compile(r"num_gpu_blocks_override'?[:=] ?[1-9]|Overriding num_gpu_blocks=")
_KV_BYTES = re.compile(r"kv_cache_memory_bytes'?[:=] ?'?[1-9]")
_LEAKED_SEMAPHORE = re.compile(r"leaked semaphore")


@dataclass(frozen=True, slots=True)
class Marks:
    """Line numbers of what happened, None for what did not; the rest is said by the arguments."""

    banner: int | None = None
    resolved: int | None = None
    engine_up: int | None = None
    loaded: int | None = None
    kv_sized: int | None = None
    ready: int | None = None
    stopped: int | None = None
    death: int | None = None
    model: str | None = None
    kv_left_gib: float | None = None
    has_block_override: bool = False
    has_kv_bytes: bool = False
    has_leaked_semaphore: bool = False
    # The processes that spoke while it started: who speaks later under another pid is a quotation.
    pids: frozenset[str] = frozenset()

    @property
    def is_asked_to_stop(self) -> bool:
        """Whether somebody ended it before anything died."""
        return self.stopped is not None and (self.death is None or self.stopped <= self.death)


_FIRSTS = (
    ("banner", BANNER),
    ("resolved", _RESOLVED),
    ("engine_up", _ENGINE_UP),
    ("loaded", _LOADED),
    ("kv_sized", _KV_SIZED),
    ("ready", _READY),
)


def read_marks(lines: Sequence[NumberedLine]) -> Marks:
    """Return the marks of one start."""
    at: dict[str, int] = {}
    has_override = has_bytes = has_semaphore = False
    model: str | None = None
    kv_left: float | None = None
    pids: set[str] = set()
    for each in lines:
        if each.line.pid is not None and "ready" not in at:
            pids.add(each.line.pid)
        message, number = each.line.message, each.number
        for name, pattern in _FIRSTS:
            if name not in at and pattern.match(message):
                at[name] = number
        if _ARGUMENTS.match(message) or "ngine" in message[:40]:
            model = model or _model(message)
            has_override |= _OVERRIDE.search(message) is not None
            has_bytes |= _KV_BYTES.search(message) is not None
        has_override |= message.startswith("Overriding num_gpu_blocks=")
        has_semaphore |= _LEAKED_SEMAPHORE.search(message) is not None
        if left := _KV_LEFT.match(message):
            kv_left = min(float(left[1]), kv_left) if kv_left is not None else float(left[1])
        if "ready" in at or "engine_up" in at:
            _mark_end(each, at, pids)
    return Marks(
        banner=at.get("banner"),
        resolved=at.get("resolved"),
        engine_up=at.get("engine_up"),
        loaded=at.get("loaded"),
        kv_sized=at.get("kv_sized"),
        ready=at.get("ready"),
        stopped=at.get("stopped"),
        death=at.get("death"),
        model=model,
        kv_left_gib=kv_left,
        has_block_override=has_override,
        has_kv_bytes=has_bytes,
        has_leaked_semaphore=has_semaphore,
        pids=frozenset(pids),
    )


def is_quoted(pid: str | None, level: str | None, pids: Collection[str]) -> bool:
    """Whether a line is not of this start: users paste whole logs into prompts.

    Where a server names its processes (since 0.10.2), each record does, and by a pid known from
    the start.
    """
    return bool(pids) and pid not in pids and (pid is not None or level is not None)


def _mark_end(each: NumberedLine, at: dict[str, int], pids: set[str]) -> None:
    message, line = each.line.message, each.line
    if is_quoted(line.pid, line.level, pids):
        return
    if "stopped" not in at and line.level in {"INFO", "WARNING", None} and _STOPPED.match(message):
        at["stopped"] = each.number
    # A bare line may be a user's, be it a whole crash dump: only vLLM's own prefix is believed.
    is_vllms = line.level in {"ERROR", "CRITICAL"} or line.depth is not Depth.OUTER
    if "death" not in at and is_vllms and DEATH.match(message):
        at["death"] = each.number


def _model(message: str) -> str | None:
    found = _MODEL_TAG.search(message)
    return found[1] if found else None
