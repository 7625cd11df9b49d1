"""Fetches a model from the hub through `hub_fetch`, a process of its own."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.host.children import Children, Command

_MAX_LINE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Fetched:
    """The snapshot is complete in this directory."""

    path: str


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """Bytes on disk of bytes in all."""

    done: int
    total: int


FetchReport = Fetched | FetchProgress | Diagnosis


class Hub(Protocol):
    """The seam to the hub."""

    def fetch(
        self, repo: str, revision: str | None, env: Mapping[str, str]
    ) -> AsyncIterator[FetchReport]:
        """Yield progress, and last Fetched or the Diagnosis."""
        ...


class ProcessHub:
    """Runs the downloader as a child; leaving the iteration ends it."""

    def __init__(self, children: Children) -> None:
        """Children are started through the one table, so that orphans can be told apart."""
        self._children = children

    async def fetch(
        self, repo: str, revision: str | None, env: Mapping[str, str]
    ) -> AsyncIterator[FetchReport]:
        """Yield progress, and last Fetched or the Diagnosis. A partial download is resumed."""
        read_end, write_end = os.pipe()
        argv = [sys.executable, "-m", "cahoots_vllm.host.hub_fetch", repo]
        argv += [revision] if revision else []
        try:
            child = self._children.start(Command(argv, env, stdout=write_end))
        finally:
            os.close(write_end)
        reader = asyncio.StreamReader(limit=_MAX_LINE_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", 0)
        )
        try:
            last_words = ""
            while line := await _read_line(reader):
                report = _parse(line)
                if report is not None:
                    yield report
                else:
                    last_words = line.decode(errors="replace").strip() or last_words
                if isinstance(report, Fetched | Diagnosis):
                    return
            status = await child.exit_status
            yield Diagnosis(
                Cause.UNKNOWN,
                f"the downloader ended with status {status}: {last_words}",
                "try again; if it stays, report it as a bug of cahoots-vllm",
                is_retryable=True,
            )
        finally:
            transport.close()
            child.send_signal(signal.SIGKILL)


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    """Return the next line, empty at the end; one that is too long (no report of ours) is cut."""
    try:
        return await reader.readline()
    except ValueError:
        return b"(a line too long)\n"


def _parse(line: bytes) -> FetchReport | None:
    """Return a report, None for a line that is none (a library's warning)."""
    try:
        said = json.loads(line)
    except ValueError:
        return None
    match said:
        case {"path": str(path)}:
            return Fetched(path)
        case {"done": int(done), "total": int(total)}:
            return FetchProgress(done, total)
        case {"cause": str(cause), "evidence": str(evidence), "remedy": str(remedy)}:
            return Diagnosis(Cause(cause), evidence, remedy, is_retryable=said.get("retry") is True)
        case _:
            return None
