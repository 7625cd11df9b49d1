"""What else a log tells: how far the start came, whether serving began, who began the end."""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cahoots_vllm.core.diagnosis.speakers import ANSWERED, MANY, is_quoted, is_start_lost, own_pids
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
# Only the API server is asked to stop: an engine that is signalled alone was ended by somebody, or
# by its own API server, which failed.
_STOPPED = re.compile(
    r"\[shutdown\] API server: shutdown triggered|Gracefully stopping http server"
    r"|Received (?:signal|SIG)|Shutting down(?: FastAPI HTTP server\.?)?$"
    r"|Received exit signal|Stopping \S+\.service|Exiting due to SIG"
)
_SIGNALLED = re.compile(r"\[shutdown\] EngineCore\S*: trigger received signal")
_ENDS_ENGINE = re.compile(r"\[shutdown\] (?:Process manager|MPClient): ")
# vLLM's own word that its engine is dead; never one request's error.
DEATH = re.compile(
    r"EngineCore (?:encountered|hit|failed)|(?:\w+\.)*\w*EngineDeadError|Engine (?:loop|background)"
    r"|.*(?:LLMEngine|engine) (?:has failed|is already dead|process died)"
    r"|.*engine core exited unexpectedly"
    r"|Worker proc \S+ died|Engine core proc\S* .*died|Worker \S+ pid \d+ died|Worker failed"
    r"|Got fatal signal|Executor failed|AsyncLLM output_handler failed|!+ Segfault|Fatal Python"
    r"|Process \S+ \(PID: \d+\) died|Worker process died|RPC call to|NVRM: Xid"
    r"|.*(?:worker|engine) (?:died|is dead|dead)\b"
    r"|.*[Oo]ut of memory: Kill|terminate called|.*terminating server process"
)
_KV_LEFT = re.compile(r"Available KV cache memory: (-?[\d.]+) GiB")
_OVERRIDE = re.compile(r"num_gpu_blocks_override'?[:=] ?[1-9]|Overriding num_gpu_blocks=")
_KV_BYTES = re.compile(r"kv_cache_memory_bytes'?[:=] ?'?[1-9]")
_LAST_WORDS = 300  # lines; a streamed answer begins even where the engine hangs
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
    # The API server began to end its engine; the engine was told to end.
    ended: int | None = None
    signalled: int | None = None
    death: int | None = None
    # The last of the answers to requests that came before a death, and the one with many after it.
    answered: int | None = None
    answered_on: int | None = None
    model: str | None = None
    kv_left_gib: float | None = None
    has_block_override: bool = False
    has_kv_bytes: bool = False
    has_leaked_semaphore: bool = False
    # The processes that spoke while it started: who speaks later under another pid is a quotation.
    pids: frozenset[str] = frozenset()
    is_start_lost: bool = False

    @property
    def is_asked_to_stop(self) -> bool:
        """Whether somebody ended it before anything died."""
        return self.stopped is not None and (self.death is None or self.stopped <= self.death)

    @property
    def is_engine_signalled(self) -> bool:
        """Whether somebody else than the API server told the engine to end."""
        at = self.signalled
        return at is not None and (self.ended is None or at < self.ended)

    def is_ending(self, number: int) -> bool:
        """Whether a line stands below an end that was asked for: its errors explain nothing."""
        if self.is_asked_to_stop and self.stopped is not None and number > self.stopped:
            return True
        return self.is_engine_signalled and self.signalled is not None and number > self.signalled

    def survived(self, number: int) -> bool:
        """Whether requests were answered long after a line, or many where nothing died."""
        if self.answered is not None and self.answered > number + _LAST_WORDS:
            return True
        is_alive = self.death is None and self.answered_on is not None
        return is_alive and number < (self.answered_on or 0)


_FIRSTS = (
    ("banner", BANNER),
    ("resolved", _RESOLVED),
    ("engine_up", _ENGINE_UP),
    ("loaded", _LOADED),
    ("kv_sized", _KV_SIZED),
    ("ready", _READY),
)


@dataclass(slots=True)
class _Said:
    """What the engine says of its options and its pool."""

    model: str | None = None
    kv_left_gib: float | None = None
    has_block_override: bool = False
    has_kv_bytes: bool = False
    has_leaked_semaphore: bool = False

    def take(self, message: str) -> None:
        if _ARGUMENTS.match(message) or "ngine" in message[:40]:
            self.model = self.model or _model(message)
            self.has_block_override |= _OVERRIDE.search(message) is not None
            self.has_kv_bytes |= _KV_BYTES.search(message) is not None
        self.has_block_override |= message.startswith("Overriding num_gpu_blocks=")
        self.has_leaked_semaphore |= _LEAKED_SEMAPHORE.search(message) is not None
        if left := _KV_LEFT.match(message):
            gib = float(left[1])
            self.kv_left_gib = gib if self.kv_left_gib is None else min(gib, self.kv_left_gib)


def read_marks(lines: Sequence[NumberedLine]) -> Marks:
    """Return the marks of one start."""
    at: dict[str, int] = {}
    said = _Said()
    is_lost = is_start_lost(lines)
    pids: set[str] = own_pids(lines) if is_lost else set()
    answers: deque[int] = deque(maxlen=MANY)
    for each in lines:
        if each.line.pid is not None and "ready" not in at and not is_lost:
            pids.add(each.line.pid)
        _mark_progress(each, at, is_lost=is_lost)
        said.take(each.line.message)
        if is_lost or "ready" in at or "engine_up" in at:
            _mark_end(each, at, pids, answers)
    return replace(
        _progress(at),
        answered_on=answers[0] if len(answers) == MANY else None,
        model=said.model,
        kv_left_gib=said.kv_left_gib,
        has_block_override=said.has_block_override,
        has_kv_bytes=said.has_kv_bytes,
        has_leaked_semaphore=said.has_leaked_semaphore,
        pids=frozenset(pids),
        is_start_lost=is_lost,
    )


def _progress(at: dict[str, int]) -> Marks:
    return Marks(
        banner=at.get("banner"),
        resolved=at.get("resolved"),
        engine_up=at.get("engine_up"),
        loaded=at.get("loaded"),
        kv_sized=at.get("kv_sized"),
        ready=at.get("ready"),
        stopped=at.get("stopped"),
        ended=at.get("ended"),
        signalled=at.get("signalled"),
        answered=at.get("answered"),
        death=at.get("death"),
    )


def _mark_progress(each: NumberedLine, at: dict[str, int], *, is_lost: bool) -> None:
    if is_lost or "ready" in at:
        return  # what looks like a start is a user's paste
    for name, pattern in _FIRSTS:
        if name not in at and pattern.match(each.line.message):
            at[name] = each.number


def _mark_end(each: NumberedLine, at: dict[str, int], pids: set[str], answers: deque[int]) -> None:
    message, line = each.line.message, each.line
    # uvicorn's lines name no process.
    if (line.pid is None or line.pid in pids) and ANSWERED.match(message):
        answers.append(each.number)
        _take_back(at, answers)
        return
    if is_quoted(line.pid, line.level, pids):
        return
    is_said = line.level in {"INFO", "WARNING", None}
    is_servers = line.depth is Depth.OUTER
    if is_said and is_servers and _STOPPED.match(message):
        at.setdefault("stopped", each.number)
    if is_said and is_servers and _ENDS_ENGINE.match(message):
        at.setdefault("ended", each.number)
    if _SIGNALLED.match(message):
        at.setdefault("signalled", each.number)
    # A bare line may be a user's, be it a whole crash dump: only vLLM's own prefix is believed.
    is_vllms = line.level in {"ERROR", "CRITICAL"} or not is_servers
    if is_vllms and DEATH.match(message):
        at.setdefault("death", each.number)


def _take_back(at: dict[str, int], answers: deque[int]) -> None:
    """Forget an end after which many requests were answered: it was a user's text, or survived."""
    for name in ("stopped", "ended", "signalled", "death"):
        if name in at and len(answers) == MANY and answers[0] > at[name]:
            del at[name]
    if "death" not in at:
        at["answered"] = answers[-1]


def _model(message: str) -> str | None:
    found = _MODEL_TAG.search(message)
    return found[1] if found else None
