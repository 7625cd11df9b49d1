"""Which options an engine's `vllm serve` knows: it is asked once and the answer is kept on disk."""

import asyncio
import json
import re
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.core.settings import EngineInfo
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.children import Child, Children, Command
from cahoots_vllm.host.files import read_text, write_atomically
from cahoots_vllm.host.process_tree import kill, read_process, session_processes

_DEADLINE_S = 120.0  # 6 s are usual; a cold disk has gigabytes of libraries to read
_DISK_DEADLINE_S = 10.0
_FEWEST = 50  # vLLM 0.32 has 318: with fewer it was no such help
_MAX_BYTES = 4 * 1024 * 1024
# argparse indents an option by two blanks, and the text about it by more:
#   --enforce-eager, --no-enforce-eager
#   --max-model-len MAX_MODEL_LEN
_OPTION_LINE = re.compile(r"^  (-.*)$", re.MULTILINE)
_NAME = re.compile(r"(?:^|, )--([A-Za-z0-9][A-Za-z0-9._-]*)")


class EngineOptions:
    """The long names of each engine's options, without dashes; of `--no-x` only `x`."""

    def __init__(self, cache_dir: Path, children: Children) -> None:
        """Answers are kept below `cache_dir`."""
        self._directory = cache_dir / "engine-options"
        self._children = children
        self._turn = asyncio.Lock()

    def cached(self, engine: EngineInfo) -> frozenset[str] | None:
        """Return what is known without asking, None if nothing is. Blocking, one small file."""
        path = self._path(engine)
        return None if path is None else _load(path)

    async def ask(
        self, engine: EngineInfo, env: Mapping[str, str], *, is_anew: bool = False
    ) -> frozenset[str] | None:
        """Return the names, asking the engine for them if need be (up to 120 s).

        `is_anew`: whatever was kept, e.g. of an engine whose source was changed in place. None when
        it gave no answer; nothing is kept then, and the next call asks again.
        """
        async with self._turn:  # whoever comes meanwhile gets the answer of the first
            try:
                return await self._find(engine, env, is_anew=is_anew)
            except TimeoutError:
                return None  # the disk hangs

    async def _find(
        self, engine: EngineInfo, env: Mapping[str, str], *, is_anew: bool
    ) -> frozenset[str] | None:
        # Before it is asked: an engine installed anew meanwhile must not get the old one's answer.
        path = await run_blocking(lambda: self._path(engine), deadline_s=_DISK_DEADLINE_S)
        if path is None:
            return None
        known = await run_blocking(lambda: _load(path), deadline_s=_DISK_DEADLINE_S)
        if known is not None and not is_anew:
            return known
        names = option_names(await self._run(engine, env))
        if len(names) < _FEWEST:
            return None
        await run_blocking(lambda: _keep(path, names), deadline_s=_DISK_DEADLINE_S)
        return names

    def _path(self, engine: EngineInfo) -> Path | None:
        """Return the answer's file: another version or another installation has another one."""
        try:
            installed = (Path(engine.path) / "bin" / "vllm").stat().st_mtime_ns
        except OSError:
            return None
        return self._directory / f"{engine.version}-{installed}.json"

    async def _run(self, engine: EngineInfo, env: Mapping[str, str]) -> str:
        """Return what `vllm serve --help=all` prints, "" when it fails or takes too long."""
        # A file, not a pipe: nobody has to read while it writes, and a helper cannot hold it open.
        output = await run_blocking(tempfile.TemporaryFile, deadline_s=_DISK_DEADLINE_S)
        with output:
            argv = [f"{engine.path}/bin/vllm", "serve", "--help=all"]
            try:
                child = self._children.start(Command(argv, env, stdout=output.fileno()))
            except (CahootsError, OSError):
                return ""  # the start of a worker will say so
            if await _end(child) != 0:
                return ""
            return await run_blocking(lambda: _read(output), deadline_s=_DISK_DEADLINE_S)


async def _end(child: Child) -> int | None:
    """Return the exit status, None after the deadline; no process of its session is left."""
    row = read_process(child.pid)
    try:
        # Not awaited itself: a cancelled wait would cancel the status, which others need.
        done, _ = await asyncio.wait({child.exit_status}, timeout=_DEADLINE_S)
        return child.exit_status.result() if done else None
    finally:
        child.send_signal(signal.SIGKILL)
        if row is not None:
            kill(session_processes(child.pid, row.started), signal.SIGKILL)


def option_names(text: str) -> frozenset[str]:
    """Return the long option names of an argparse help, without dashes and negations."""
    found = {name for line in _OPTION_LINE.findall(text) for name in _NAME.findall(line)}
    return frozenset(n for n in found if not (n.startswith("no-") and n[len("no-") :] in found))


def _read(output: BinaryIO) -> str:
    output.seek(0)
    return output.read(_MAX_BYTES).decode(errors="replace")


def _load(path: Path) -> frozenset[str] | None:
    """Return a kept answer, None when there is none or it is damaged."""
    try:
        names = json.loads(read_text(path, what="the engine's options"))["options"]
    except (CahootsError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(names, list) or len(names) < _FEWEST:
        return None
    return frozenset(names) if all(isinstance(name, str) for name in names) else None


def _keep(path: Path, names: frozenset[str]) -> None:
    text = json.dumps({"options": sorted(names)}, indent=0)
    try:
        write_atomically(path, text, mode=0o644)
    except OSError:
        return  # a full disk costs the next start six seconds, and this one nothing
