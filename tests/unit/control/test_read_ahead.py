"""The next model's weights are read while the last one is there, and no longer than wanted."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cahoots_vllm.control import read_ahead as module
from cahoots_vllm.control.read_ahead import ReadAhead
from cahoots_vllm.core.events import Checked, Drained, Event, Gone, Measured, Ready, Restart, Want
from cahoots_vllm.core.lifecycle import step
from cahoots_vllm.core.state import State
from unit.core.environment import A, B, fitted

SWAP = (Want(A), Checked(A, fitted(A)), Measured(fitted(A), ()), Ready(1), Want(B))
CHECKED_B = Checked(B, replace(fitted(B), source="/models/b", is_local=True))
# What was begun, and whether it was told to end.
Seen = tuple[list[str], bool]
NOTHING: Seen = ([], False)
BEGUN: Seen = (["/models/b"], False)
ENDED: Seen = (["/models/b"], True)
Part = tuple[Sequence[Event], Seen]


class Disk:
    """A disk that is slow: each reading goes on until it is stopped."""

    def __init__(self) -> None:
        self.reading: list[str] = []
        self._stops: list[threading.Event] = []
        self._changed = threading.Condition()

    def read(self, directory: Path, _cgroup: Path | None, stop: threading.Event) -> int:
        with self._changed:
            self.reading.append(str(directory))
            self._stops.append(stop)
            self._changed.notify_all()
        stop.wait()
        return 5

    def shows(self, seen: Seen) -> bool:
        """Wait until so much has been begun; return whether it ends as expected, too."""
        with self._changed:
            has_begun = self._changed.wait_for(lambda: self.reading == seen[0], 5)
        return has_begun and any(stop.is_set() for stop in self._stops) == seen[1]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(module, "_work", disk.read)
    return disk


async def _play(disk: Disk, *parts: Part) -> None:
    """Play groups of events; after each wait until so much has been begun, and has ended."""
    state, reader = State(), ReadAhead(None)
    async with asyncio.TaskGroup() as tasks:
        for events, seen in parts:
            for event in events:
                state, _ = step(state, event, 0.0)
                reader.update(state, tasks)
            assert await asyncio.to_thread(disk.shows, seen), (events, disk.reading)
        reader.update(State(), tasks)


def test_weights_of_the_next_model_are_read_once_preflight_passed(disk: Disk) -> None:
    asyncio.run(_play(disk, (SWAP, NOTHING), ([CHECKED_B], BEGUN)))


def test_abort_ends_the_reading(disk: Disk) -> None:
    asyncio.run(_play(disk, (SWAP, NOTHING), ([CHECKED_B], BEGUN), ([Want(A)], ENDED)))


def test_reading_goes_on_while_the_old_one_goes_and_ends_when_the_new_one_is_ready(
    disk: Disk,
) -> None:
    gone: list[Event] = [Drained(1), Gone(1), Measured(CHECKED_B.launch, ())]
    swap: tuple[Part, Part] = ((SWAP, NOTHING), ([CHECKED_B], BEGUN))
    asyncio.run(_play(disk, *swap, (gone, BEGUN), ([Ready(2)], ENDED)))


def test_first_start_and_restart_read_nothing_ahead(disk: Disk) -> None:
    local = replace(fitted(A), source="/models/a", is_local=True)
    first: list[Event] = [Want(A), Checked(A, local), Measured(local, ()), Ready(1)]
    again: list[Event] = [
        Restart(),
        Checked(A, local),
        Drained(1),
        Gone(1),
        Measured(local, ()),
        Ready(2),
    ]
    asyncio.run(_play(disk, (first, NOTHING), (again, NOTHING)))
    assert disk.reading == []
