"""An engine is asked for its options once; an answer that is none is not kept."""

import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cahoots_vllm.core.settings import EngineInfo
from cahoots_vllm.host import engine_options as module
from cahoots_vllm.host.children import Children
from cahoots_vllm.host.engine_options import EngineOptions, option_names
from fake_vllm.engine_dir import make_engine

_ENV = {"PATH": "/usr/bin:/bin"}
_HELP = Path(module.__file__).parents[3] / "tests" / "fake_vllm" / "help.txt"
# vLLM 0.32, `vllm serve --help=all`: where a name stands and where it does not.
_REAL = """\
usage: vllm serve [model_tag] [options]

  Use `--help=all` to show all available flags at once.

options:
  --api-server-count API_SERVER_COUNT, -asc API_SERVER_COUNT
                        How many API server processes to run. Defaults to
  --enable-log-requests, --no-enable-log-requests
                        - DEBUG: Prompt inputs (e.g: text, token IDs). You can
                        --port instead of the HTTP OpenAI-compatible server.
  -h, --help            show this help message and exit
  --tool-call-parser {apertus,xlam} or name registered in --tool-parser-plugin
  --gpu-memory-utilization GPU_MEMORY_UTILIZATION, --device-memory-utilization GPU_MEMORY_UTILIZATION
  --tokenizer-mode ['auto', 'cohere', 'deepseek_v32']
  --no-such-positive    (default: False)
"""  # noqa: E501 (byte for byte)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def options(cache: Path) -> EngineOptions:
    return EngineOptions(cache, Children())


def engine_that(directory: Path, script: str) -> EngineInfo:
    """Make an engine of a shell script; each start of it leaves a letter in `starts`."""
    program = directory / "bin" / "vllm"
    program.parent.mkdir(parents=True)
    starts = directory / "starts"
    program.write_text(f"#!/bin/sh\nprintf x >>{starts}\n{script}\n")
    program.chmod(0o755)
    return EngineInfo(str(directory), "1.2.3")


async def cached(options: EngineOptions, engine: EngineInfo) -> frozenset[str] | None:
    return await asyncio.to_thread(options.cached, engine)


def starts(engine: EngineInfo) -> int:
    path = Path(engine.path) / "starts"
    return len(path.read_text()) if path.exists() else 0


def kept(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.json"))


def test_names_of_the_real_help() -> None:
    assert option_names(_REAL) == {
        "api-server-count",
        "enable-log-requests",
        "help",
        "tool-call-parser",
        "gpu-memory-utilization",
        "device-memory-utilization",
        "tokenizer-mode",
        "no-such-positive",
    }


async def test_stand_in_answers_at_once_with_the_real_names(
    tmp_path: Path, options: EngineOptions
) -> None:
    engine = EngineInfo(str(make_engine(tmp_path / "engine")), "0.32.0+cpu")
    start = time.monotonic()
    names = await options.ask(engine, _ENV)
    assert time.monotonic() - start < 2
    assert names is not None
    assert len(names) == 318
    assert {"quantization", "max-model-len", "enable-prefix-caching", "kv-cache-dtype"} <= names


async def test_engine_is_asked_once(tmp_path: Path, cache: Path, options: EngineOptions) -> None:
    engine = engine_that(tmp_path / "engine", f"cat {_HELP}; echo '  --only-warning' >&2")
    assert await cached(options, engine) is None
    names, again = await asyncio.gather(options.ask(engine, _ENV), options.ask(engine, _ENV))
    assert names is not None
    assert names == again == await cached(options, engine) == await options.ask(engine, _ENV)
    assert starts(engine) == 1
    assert await cached(EngineOptions(cache, Children()), engine) == names
    assert [path.parent for path in kept(cache)] == [cache / "engine-options"]
    assert kept(cache)[0].name.startswith("1.2.3-")


async def test_engine_installed_anew_is_asked_anew(tmp_path: Path, options: EngineOptions) -> None:
    engine = engine_that(tmp_path / "engine", f"cat {_HELP}")
    assert await options.ask(engine, _ENV)
    os.utime(f"{engine.path}/bin/vllm", (1, 1))
    assert await cached(options, engine) is None
    assert await options.ask(engine, _ENV)
    assert await cached(options, EngineInfo(engine.path, "1.2.4")) is None
    assert starts(engine) == 2


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"options": 3}',
        '{"options": ["a"]}',
        json.dumps({"options": [1] * 60}),
        json.dumps({"options": [[]] * 60}),
        "[" * 10000,
    ],
)
async def test_damaged_answer_is_asked_anew(
    tmp_path: Path, cache: Path, options: EngineOptions, damage: str
) -> None:
    engine = engine_that(tmp_path / "engine", f"cat {_HELP}")
    names = await options.ask(engine, _ENV)
    await asyncio.to_thread(kept(cache)[0].write_text, damage)
    assert await cached(options, engine) is None
    assert await options.ask(engine, _ENV) == names
    assert starts(engine) == 2
    assert await cached(options, engine) == names


@pytest.mark.parametrize(
    "script", [f"cat {_HELP}; exit 1", "echo '  --few FEW'", "kill -9 $$", f"cat {_HELP}; kill $$"]
)
async def test_no_answer_is_not_kept(
    tmp_path: Path, cache: Path, options: EngineOptions, script: str
) -> None:
    engine = engine_that(tmp_path / "engine", script)
    assert await options.ask(engine, _ENV) is None
    assert kept(cache) == []
    assert await options.ask(engine, _ENV) is None
    assert starts(engine) == 2


async def test_engine_that_is_gone_or_no_program_gives_none(
    tmp_path: Path, options: EngineOptions
) -> None:
    engine = engine_that(tmp_path / "engine", "")
    gone = EngineInfo(str(tmp_path / "nowhere"), "1")
    assert await cached(options, gone) is None
    assert await options.ask(gone, _ENV) is None
    await asyncio.to_thread(Path(engine.path, "bin", "vllm").chmod, 0o644)
    assert await options.ask(engine, _ENV) is None


async def test_cache_that_cannot_be_written_costs_no_answer(
    tmp_path: Path, cache: Path, options: EngineOptions
) -> None:
    engine = engine_that(tmp_path / "engine", f"cat {_HELP}")
    await asyncio.to_thread(cache.write_text, "a file in its place")
    assert await options.ask(engine, _ENV)


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[EngineInfo]:
    """Make an engine that never ends, with a helper in a process group of its own."""
    script = "set -m\nsleep 61 &\necho $! >$0.helper\nwait"
    engine = engine_that(tmp_path / "engine", script)
    yield engine
    assert _helper(engine) is not None


def _helper(engine: EngineInfo) -> int | None:
    path = Path(engine.path, "bin", "vllm.helper")
    text = path.read_text().strip() if path.exists() else ""
    return int(text) if text else None


async def _gone(engine: EngineInfo) -> None:
    pid = _helper(engine)
    assert pid is not None
    async with asyncio.timeout(5):
        while os.path.exists(f"/proc/{pid}") and _state(pid) != "Z":  # noqa: ASYNC110, ASYNC240, PTH110
            await asyncio.sleep(0.02)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return "Z"


async def test_engine_that_never_ends_is_killed_with_its_helpers(
    stuck: EngineInfo, cache: Path, options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DEADLINE_S", 0.5)
    assert await options.ask(stuck, _ENV) is None
    await _gone(stuck)
    assert kept(cache) == []


async def test_cancelling_kills_it_too_and_others_may_ask(
    stuck: EngineInfo, tmp_path: Path, options: EngineOptions
) -> None:
    task = asyncio.create_task(options.ask(stuck, _ENV))
    async with asyncio.timeout(5):
        while _helper(stuck) is None:  # noqa: ASYNC110 (a file that the script writes)
            await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _gone(stuck)
    other = engine_that(tmp_path / "other", f"cat {_HELP}")
    assert await options.ask(other, _ENV)
