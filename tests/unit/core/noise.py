"""Lines of healthy servers in which everything that can go wrong is said, by others.

Start-ups, access logs, hints and retries as vLLM prints them, and users who paste whole failure
logs into their prompts, as JSON in one line and raw over many.
"""

import json
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

FAILURES = Path(__file__).parents[2] / "failures"
_HEALTHY = ("154-not_a_failure-neg-requests", "155-not_a_failure-neg-requests-info")
_STAMP = "11-22 23:04:31"
_SAID = (
    "(APIServer pid=1) INFO {t} [loggers.py:335] Engine 000: Avg prompt throughput: 3.9 tokens/s",
    "(EngineCore pid=2) INFO {t} [gpu_worker.py:664] If OOM'ed, check the difference of initial",
    "(EngineCore pid=2) INFO {t} [shm_broadcast.py:109] No available shared memory broadcast block",
    "(APIServer pid=1) ERROR {t} [repo_utils.py:66] Error retrieving weights: timed out, retrying",
    "(APIServer pid=1) WARNING {t} [system_utils.py:255] OSError: [Errno 24] Too many open files",
    "(EngineCore pid=2) INFO {t} [gpu_worker.py:1013] Free memory on device (78.7/79.2 GiB) on ",
    "Capturing CUDA graphs (decode, FULL):  60%|######    | 40/67 [00:12<00:08,  3.31it/s]",
    'INFO:     127.0.0.1:5 - "POST /v1/chat/completions HTTP/1.1" 200 OK',
    'INFO:     127.0.0.1:5 - "POST /v1/chat/completions HTTP/1.1" 400 Bad Request',
    "(APIServer pid=1) ERROR {t} [serving.py:1] ValueError: This model's maximum context length",
    "nanobind: leaked 4 instances!",
)


@cache
def pastes() -> tuple[tuple[str, ...], ...]:
    """Return the failing ends of all labelled logs of memory: what a desperate user pastes."""
    found = []
    for path in sorted(FAILURES.glob("*/*oom*.log")) + sorted(FAILURES.glob("*/*kv_cache*.log")):
        lines = path.read_text(errors="replace").splitlines()
        first = next((i for i, line in enumerate(lines) if "Error" in line), 0)
        found.append(tuple(lines[first : first + 60]))
    return tuple(found)


def healthy_lines(count: int, seed: int) -> list[str]:
    """Return so many lines; the same for the same seed."""
    dice = random.Random(seed)  # noqa: S311 (no secret)
    lines = _start(dice)
    while len(lines) < count:
        lines += _some(dice)
    return lines[:count]


def _start(dice: random.Random) -> list[str]:
    """Return the real start of a server that went on to serve."""
    path = FAILURES / "real" / f"{dice.choice(_HEALTHY)}.log"
    lines = path.read_text(errors="replace").splitlines()
    ready = next(i for i, line in enumerate(lines) if "Application startup complete" in line)
    return lines[: ready + 1]


def _some(dice: random.Random) -> list[str]:
    return list(dice.choice((_said, _prompt, _raw_prompt))(dice))


def _said(dice: random.Random) -> Iterator[str]:
    for _ in range(20):
        yield dice.choice(_SAID).format(t=_STAMP)


def _prompt(dice: random.Random) -> Iterator[str]:
    body = json.dumps({"messages": [{"content": "\n".join(dice.choice(pastes()))}]})
    yield f"(APIServer pid=1) DEBUG {_STAMP} [request_logger.py:74] Request 91 JSON body: {body}"


def _raw_prompt(dice: random.Random) -> Iterator[str]:
    yield f"INFO {_STAMP} [logger.py:39] Received request chatcmpl-1: prompt: 'Why does it fail?"
    yield from dice.choice(pastes())
    yield "', params: SamplingParams(n=1)"
