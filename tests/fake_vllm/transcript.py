"""Plays logs: our own templates with pids and times filled in, or a real failure as it was."""

import os
import string
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import get_args

from fake_vllm import gpu_log
from fake_vllm.script import LOGS, Phase

PHASES: tuple[Phase, ...] = get_args(Phase)
# The first line of each phase. Lines of a process that has not named itself yet ("Triton is
# installed") stay with the phase before.
_MARKS: Mapping[Phase, tuple[str, ...]] = {
    "arguments": ("[api_utils.py:",),
    "config": ("Resolved architecture",),
    "engine": ("Initializing a V1 LLM engine",),
    "worker": ("world_size=1 rank=",),
    "load": ("Starting to load model",),
    "kv_cache": ("[cpu_worker.py:260]", "[gpu_worker.py:759]"),
    "warm_up": ("init engine (",),
    "api": ("Supported tasks",),
    "ready": ("Started server process",),
}
_STARTED = "Application startup complete."
_STDOUT, _STDERR = 1, 2


class Transcript:
    """The log of one life. Whatever was played is not played again."""

    def __init__(self, log: str | None, values: dict[str, object]) -> None:
        gpu = (log or "").removeprefix(gpu_log.PREFIX) if _is_gpu(log) else None
        self.is_verbatim = log is not None and gpu is None
        self.values = values
        lines = _read(log or "startup") if gpu is None else _gpu_start(gpu)
        self._chunks, self._serving = _split(lines)
        self._last_words = [] if gpu is None else gpu_log.death_lines(gpu)

    def play(self, phase: Phase, delay_s: float, pause: Callable[[float], None]) -> None:
        """Write the lines of a phase, spreading the delay over its progress bar if it has one."""
        lines = self._chunks.pop(phase, [])
        bars = sum(line.startswith("\r") for line in lines)
        if not bars:
            pause(delay_s)
        for line in lines:
            self._write(line)
            if line.startswith("\r"):
                pause(delay_s / bars)

    def play_rest(self) -> None:
        """Write what is left of the start-up: how the real one died in it."""
        for lines in self._chunks.values():
            for line in lines:
                self._write(line)
        self._chunks = {}

    def play_death(self) -> None:
        """Write how a serving engine died: the real log's end, or our own."""
        own = [*self._last_words, *_read("engine_death")]
        lines = self._serving if self.is_verbatim else own
        self._serving, self._last_words = [], []
        for line in lines:
            self._write(line)

    def play_end(self, part: int) -> None:
        """Write an orderly shutdown: part 0 up to the open connections, part 1 after them."""
        parts = "".join(_read("sigterm")).partition("INFO:     Waiting for application shutdown.\n")
        for line in _lines(parts[1] + parts[2] if part else parts[0]):
            self._write(line, is_template=True)

    def access(self, line: str) -> None:
        os.write(_STDOUT, f"{line}\n".encode())

    def _write(self, line: str, *, is_template: bool = False) -> None:
        if is_template or not self.is_verbatim:
            line = fill(line, self.values)
        # vLLM's logger writes to stdout; uvicorn, tqdm, warnings and tracebacks to stderr.
        os.write(_STDOUT if " pid=" in line[:32] else _STDERR, line.encode())


def fill(line: str, values: Mapping[str, object]) -> str:
    """Return a template's line with this life's values, and the time as vLLM writes it: no year."""
    now = datetime.fromtimestamp(time.time()).astimezone().strftime("%m-%d %H:%M:%S")
    return string.Template(line).safe_substitute(values, now=now)


def _read(name: str) -> list[str]:
    # Continuation lines of one record are parted by "\r\n": no newline translation here.
    text = (LOGS / f"{name}.log").read_bytes().decode()
    if name == "startup" and _has_no_logo():
        return _without_logo(text)
    return _lines(text)


def _is_gpu(log: str | None) -> bool:
    return log is not None and log.startswith(gpu_log.PREFIX)


def _gpu_start(name: str) -> list[str]:
    lines = gpu_log.start_lines(name)
    return _without_logo("".join(lines)) if _has_no_logo() else lines


def _has_no_logo() -> bool:
    return os.environ.get("VLLM_DISABLE_LOG_LOGO") == "1"


def _lines(text: str) -> list[str]:
    return [line + "\n" for line in text.split("\n")[:-1]]


def _without_logo(text: str) -> list[str]:
    prefix = "(APIServer pid=${main}) INFO ${now} [api_utils.py:347] "
    lines = _lines(text)
    first = next(index for index, line in enumerate(lines) if line.startswith(prefix))
    rest = [line for line in lines if not line.startswith(prefix)]
    banner = f"{prefix}vLLM server version ${{version}}, serving model ${{model}}\n"
    return [*rest[:first], banner, *rest[first:]]


def _split(lines: list[str]) -> tuple[dict[Phase, list[str]], list[str]]:
    """Part a log by phases; second, what came after the start-up was complete."""
    chunks: dict[Phase, list[str]] = {phase: [] for phase in PHASES}
    phase: Phase = "imports"
    for index, line in enumerate(lines):
        for later in PHASES[PHASES.index(phase) + 1 :]:
            if any(mark in line for mark in _MARKS[later]):
                phase = later
                break
        chunks[phase].append(line)
        if _STARTED in line:
            return chunks, lines[index + 1 :]
    return chunks, []
