"""Stand-ins for what a keeper of standbys works with: no process, no host, no file."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cahoots_vllm.control.standby import StandbyKeeper
from cahoots_vllm.core.amounts import GIB
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.settings import EngineInfo, Settings
from cahoots_vllm.core.standby import MemoryFacts
from cahoots_vllm.host.gpu import Gpu

LAUNCH = LaunchSpec(model="a", source="/a", engine="/engine")
SETTINGS = Settings(
    provider="local",
    configured_model="a",
    engine=EngineInfo("/engine", "1"),
    cache_dir="/cache",
    env_file="/.env",
)
PLENTY, SCARCE = MemoryFacts(64 * GIB, 32 * GIB), MemoryFacts(64 * GIB, GIB)


class Fake:
    """A standby without a process."""

    made: list["Fake"]

    def __init__(self, *_: object, on_news: Callable[[], None] = lambda: None) -> None:
        self.on_news = on_news
        self.pid = 1
        self.problem: str | None = None
        self.warmth: Any = None
        self.is_discarded = self.is_left = False
        self.made.append(self)

    def get_warm(self) -> None:
        self.warmth = SimpleNamespace(why_not_fork=None)
        self.on_news()

    def fail(self, problem: str) -> None:
        self.problem = problem
        self.on_news()

    def discard(self) -> None:
        self.is_discarded = True

    def leave(self) -> None:
        self.is_left = True

    async def end(self) -> None:
        self.discard()


class Notes:
    """What is written down for the next daemon."""

    def __init__(self, standby: object = None) -> None:
        self.standby: Any = standby

    def stand_by(self, mark: object) -> None:
        self.standby = mark


class Gpus:
    """A host with these."""

    def __init__(self, *gpus: object) -> None:
        self._gpus: Any = gpus

    async def read(self) -> tuple[Gpu, ...]:
        found: tuple[Gpu, ...] = self._gpus
        return found


def mark(number: int, standby: Fake, made_for: str) -> Any:  # noqa: ANN401 (a stand-in for StandbyMark)
    return SimpleNamespace(number=number, made_for=made_for, warmth=standby.warmth)


def state(*, is_served: bool = True, goal: LaunchSpec | None = LAUNCH) -> Any:  # noqa: ANN401 (a stand-in for State)
    return SimpleNamespace(is_served=is_served, goal=goal, live=None, generation=1)


def keeper(notes: Any = None) -> StandbyKeeper:  # noqa: ANN401 (a stand-in for Handover)
    context: Any = SimpleNamespace(cgroup_parent=None, uds=lambda _: Path("/uds"))
    notes = Notes() if notes is None else notes
    kept = StandbyKeeper(context, Gpus(), notes)
    kept._is_tidy.set()  # noqa: SLF001 (nothing was left behind)
    return kept


async def look(kept: StandbyKeeper, seen: Any) -> str | None:  # noqa: ANN401 (see `state`)
    """Let it look once at this state; return what it says."""
    kept.update(seen, SETTINGS)
    await kept._look()  # noqa: SLF001 (its turns are what is tested)
    return kept.status.why
