"""Lines of healthy servers in which everything that can go wrong is said, by others.

Start-ups, access logs, hints and retries as vLLM prints them, and users who paste whole failure
logs, banners and all, into their prompts, as JSON in one line and raw over many.
"""

import json
import random
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

FAILURES = Path(__file__).parents[2] / "failures"
_HEALTHY = ("154-not_a_failure-neg-requests", "155-not_a_failure-neg-requests-info")
_STAMP = "11-22 23:04:31"
_SAID = (
    "{api} INFO {t} [loggers.py:335] Engine 000: Avg prompt throughput: 3.9 tokens/s",
    "{engine} INFO {t} [gpu_worker.py:664] If OOM'ed, check the difference of initial",
    "{engine} INFO {t} [shm_broadcast.py:109] No available shared memory broadcast block",
    "{api} ERROR {t} [repo_utils.py:66] Error retrieving weights: timed out, retrying",
    "{api} WARNING {t} [system_utils.py:255] OSError: [Errno 24] Too many open files",
    "{engine} INFO {t} [gpu_worker.py:1013] Free memory on device (78.7/79.2 GiB) on ",
    "Capturing CUDA graphs (decode, FULL):  60%|######    | 40/67 [00:12<00:08,  3.31it/s]",
    'INFO:     127.0.0.1:5 - "POST /v1/chat/completions HTTP/1.1" 200 OK',
    'INFO:     127.0.0.1:5 - "POST /v1/chat/completions HTTP/1.1" 400 Bad Request',
    "{api} ERROR {t} [serving.py:1] ValueError: This model's maximum context length",
    "nanobind: leaked 4 instances!",
)


@cache
def pastes() -> tuple[tuple[str, ...], ...]:
    """Return all labelled logs of memory, whole and from their error on: what users paste."""
    found = []
    for path in sorted(FAILURES.glob("*/*oom*.log")) + sorted(FAILURES.glob("*/*kv_cache*.log")):
        lines = path.read_text(errors="replace").splitlines()
        first = next((i for i, line in enumerate(lines) if "Error" in line), 0)
        found += [tuple(lines[first : first + 60]), tuple(lines)]
    return tuple(found)


def healthy_lines(count: int, seed: int) -> list[str]:
    """Return so many lines; the same for the same seed."""
    dice = random.Random(seed)  # noqa: S311 (no secret)
    lines = _start(dice)
    names = {"api": name_of("APIServer", lines), "engine": name_of("EngineCore", lines)}
    while len(lines) < count:
        lines += dice.choice((_said, _prompt, _raw_prompt))(dice, names)
    return lines[:count]


def name_of(process: str, lines: list[str]) -> str:
    """Return the name with the pid under which a process speaks."""
    return next(m[0] for line in lines if (m := re.match(rf"\({process} pid=\d+\)", line)))


def _start(dice: random.Random) -> list[str]:
    """Return the real start of a server that went on to serve."""
    path = FAILURES / "real" / f"{dice.choice(_HEALTHY)}.log"
    lines = path.read_text(errors="replace").splitlines()
    ready = next(i for i, line in enumerate(lines) if "Application startup complete" in line)
    return lines[: ready + 1]


def _said(dice: random.Random, names: dict[str, str]) -> Iterator[str]:
    for _ in range(20):
        yield dice.choice(_SAID).format(t=_STAMP, **names)


def _prompt(dice: random.Random, names: dict[str, str]) -> Iterator[str]:
    body = json.dumps({"messages": [{"content": "\n".join(dice.choice(pastes()))}]})
    api = names["api"]
    yield f"{api} DEBUG {_STAMP} [request_logger.py:74] Request 91 JSON body: {body}"


def _raw_prompt(dice: random.Random, names: dict[str, str]) -> Iterator[str]:
    api = names["api"]
    yield f"{api} INFO {_STAMP} [logger.py:39] Received request 1: prompt: 'Why?"
    yield from dice.choice(pastes())
    yield "', params: SamplingParams(n=1)"
