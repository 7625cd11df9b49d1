"""Fetches a model from the hub through `hub_fetch`, a process of its own."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Protocol

from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.host.children import Children, Command

_MAX_LINE_BYTES = 1024 * 1024
_ATTEMPTS = 3


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


class _StalledError(Exception):
    """Nothing moved for too long."""


class ProcessHub:
    """Runs the downloader as a child; leaving the iteration ends it.

    An attempt in which nothing moves is ended; the next ones do without the accelerated transfer.
    """

    def __init__(self, children: Children, stall_s: float = 60.0) -> None:
        """Children are started through the one table, so that orphans can be told apart."""
        self._children = children
        self._stall_s = stall_s

    async def fetch(
        self, repo: str, revision: str | None, env: Mapping[str, str]
    ) -> AsyncIterator[FetchReport]:
        """Yield progress, and last Fetched or the Diagnosis. A partial download is resumed."""
        for attempt in range(_ATTEMPTS):
            plain = {"HF_HUB_DISABLE_XET": "1"} if attempt else {}
            with suppress(_StalledError):
                async with aclosing(self._attempt(repo, revision, {**env, **plain})) as reports:
                    async for report in reports:
                        yield report
                return
        yield Diagnosis(
            Cause.HUB_NETWORK,
            f"the download of {repo} stood still for {self._stall_s:.0f} s, {_ATTEMPTS} times",
            "check the network; what has come is kept, and the next attempt goes on from there",
            is_retryable=True,
        )

    async def _attempt(
        self, repo: str, revision: str | None, env: Mapping[str, str]
    ) -> AsyncGenerator[FetchReport, None]:
        read_end, write_end = os.pipe()
        argv = [sys.executable, "-m", "cahoots_vllm.host.hub_fetch", repo]
        argv += [revision] if revision else []
        try:
            child = self._children.start(Command(argv, env, stdout=write_end))
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        reader = asyncio.StreamReader(limit=_MAX_LINE_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", 0)
        )
        try:
            last_words = ""
            async with aclosing(self._moving_lines(reader)) as lines:
                async for line in lines:
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

    async def _moving_lines(self, reader: asyncio.StreamReader) -> AsyncGenerator[bytes, None]:
        """Yield lines. Raises _StalledError when none says anything new for too long."""
        loop, last = asyncio.get_running_loop(), b""
        moved_at = loop.time()
        while True:
            try:
                async with asyncio.timeout_at(moved_at + self._stall_s):
                    line = await _read_line(reader)
            except TimeoutError as error:
                raise _StalledError from error
            if not line:
                return
            # To be told to wait is to be told something.
            if line != last or b'"waiting"' in line:
                moved_at, last = loop.time(), line
            yield line


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
