"""One download of a model at a time, however many wait for it: a pull, and a swap to the same."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing

from cahoots_vllm.core.diagnosis import Diagnosis
from cahoots_vllm.host.hub import Fetched, FetchReport, Hub

_Key = tuple[str, str | None]


class SharedHub:
    """Who asks first downloads; the others are told what comes.

    When the first one leaves (aborted), the next one goes on from what is on disk.
    """

    def __init__(self, hub: Hub) -> None:
        """`hub` downloads."""
        self._hub = hub
        self._running: dict[_Key, _Told] = {}

    @property
    def repos(self) -> frozenset[str]:
        """The repos that are being downloaded."""
        return frozenset(repo for repo, _ in self._running)

    async def fetch(
        self, repo: str, revision: str | None, env: Mapping[str, str]
    ) -> AsyncIterator[FetchReport]:
        """Yield progress, and last Fetched or the Diagnosis."""
        key = (repo, revision)
        while (told := self._running.get(key)) is not None:
            async with aclosing(told.follow()) as reports:
                async for report in reports:
                    yield report
                    if isinstance(report, Fetched | Diagnosis):
                        return
        told = self._running[key] = _Told()
        try:
            async for report in self._hub.fetch(repo, revision, env):
                told.tell(report)
                yield report
        finally:
            del self._running[key]
            told.tell(None)


class _Told:
    """The last report of a download; None once it has ended."""

    def __init__(self) -> None:
        self._last: FetchReport | None = None
        self._is_over = False
        self._changed = asyncio.Event()

    def tell(self, report: FetchReport | None) -> None:
        if report is None:
            self._is_over = True
        else:
            self._last = report
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self) -> AsyncGenerator[FetchReport, None]:
        """Yield what comes until it is over."""
        while True:
            changed = self._changed
            if self._last is not None:
                yield self._last
            if self._is_over:
                return
            await changed.wait()
