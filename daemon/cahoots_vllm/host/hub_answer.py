"""Asks the hub about a repo through `hub_look`, a process of its own."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.host.children import Children, Command

DEADLINE_S = 45.0
_MAX_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class HubSight:
    """What a repo has: its files with their bytes, and its config.json."""

    files: dict[str, int]
    config: dict[str, object]
    is_gated: bool


class HubLook(Protocol):
    """The seam to the hub."""

    async def look(
        self, repo: str, revision: str | None, env: Mapping[str, str]
    ) -> HubSight | Diagnosis:
        """Return what is there, at latest after 45 s."""
        ...


class ProcessHubLook:
    """Runs the program as a child."""

    def __init__(self, children: Children) -> None:
        """Children are started through the one table."""
        self._children = children

    async def look(
        self, repo: str, revision: str | None, env: Mapping[str, str]
    ) -> HubSight | Diagnosis:
        """Return what is there, at latest after 45 s. Raises CahootsError, OSError: no start."""
        read_end, write_end = os.pipe()
        argv = [sys.executable, "-m", "cahoots_vllm.host.hub_look", repo]
        argv += [revision] if revision else []
        try:
            child = self._children.start(Command(argv, env, stdout=write_end))
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        reader = asyncio.StreamReader(limit=_MAX_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", 0)
        )
        try:
            async with asyncio.timeout(DEADLINE_S):
                return _parse(await reader.readline())
        except TimeoutError:
            return _silent(f"the hub did not answer in {DEADLINE_S:.0f} s")
        except ValueError:
            return _silent("the hub's answer is too long")
        finally:
            transport.close()
            child.send_signal(signal.SIGKILL)


def _parse(line: bytes) -> HubSight | Diagnosis:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):  # a configuration of many levels
        said = None
    match said:
        case {"files": dict(files), "config": dict(config), "gated": bool(gated)}:
            sizes = {str(name): size for name, size in files.items() if isinstance(size, int)}
            return HubSight(sizes, config, gated)
        case {"cause": str(cause), "evidence": str(evidence), "remedy": str(remedy)}:
            return Diagnosis(Cause(cause), evidence, remedy, is_retryable=said.get("retry") is True)
        case _:
            return _silent("the look at the hub ended without an answer")


def _silent(evidence: str) -> Diagnosis:
    remedy = "check the network and the proxy, or give a directory that holds the model"
    return Diagnosis(Cause.HUB_NETWORK, evidence, remedy, is_retryable=True)
