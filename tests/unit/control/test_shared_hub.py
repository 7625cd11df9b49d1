"""One download for all who wait for it."""

import asyncio
from collections.abc import AsyncIterator, Mapping

from cahoots_vllm.control.shared_hub import SharedHub
from cahoots_vllm.host.hub import Fetched, FetchProgress, FetchReport


class SlowHub:
    """Reports when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.go_on = asyncio.Event()

    async def fetch(
        self, repo: str, revision: str | None, env: Mapping[str, str]  # noqa: ARG002 (the seam)
    ) -> AsyncIterator[FetchReport]:  # fmt: skip
        self.asked += 1
        yield FetchProgress(1, 2)
        await self.go_on.wait()
        yield Fetched(f"/{repo}")


async def collect(hub: SharedHub, repo: str) -> list[FetchReport]:
    return [report async for report in hub.fetch(repo, None, {})]


async def test_second_who_asks_is_told_what_the_first_gets() -> None:
    slow = SlowHub()
    hub = SharedHub(slow)
    async with asyncio.TaskGroup() as tasks:
        both = [tasks.create_task(collect(hub, "org/x")) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert hub.repos == {"org/x"}
        slow.go_on.set()
    assert slow.asked == 1
    assert [task.result()[-1] for task in both] == [Fetched("/org/x")] * 2
    assert hub.repos == frozenset()


async def test_second_goes_on_by_itself_when_the_first_leaves() -> None:
    slow = SlowHub()
    hub = SharedHub(slow)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(collect(hub, "org/x"))
        await asyncio.sleep(0)
        second = tasks.create_task(collect(hub, "org/x"))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0.01)
        slow.go_on.set()
    assert slow.asked == 2
    assert second.result()[-1] == Fetched("/org/x")


async def test_other_models_are_not_waited_for() -> None:
    slow = SlowHub()
    hub = SharedHub(slow)
    async with asyncio.TaskGroup() as tasks:
        for repo in ("org/x", "org/y"):
            tasks.create_task(collect(hub, repo), name=repo)
        await asyncio.sleep(0.01)
        assert slow.asked == 2
        slow.go_on.set()
