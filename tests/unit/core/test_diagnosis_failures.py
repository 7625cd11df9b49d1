"""All labelled failure logs (tests/failures), and noise; prints the confusion table (-rP)."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from cahoots_vllm.core.diagnosis import Cause, Diagnosis, Exit, Trait, diagnose
from unit.core.noise import FAILURES, healthy_lines, pastes

MEMORY = frozenset(
    {
        Cause.GPU_OOM_STARTUP_FREE,
        Cause.GPU_OOM_STARTUP_ALLOC,
        Cause.GPU_OOM_SERVING,
        Cause.KV_CACHE_NONE,
        Cause.KV_CACHE_TOO_SMALL,
        Cause.HOST_OOM,
    }
)
# What a labelled direction means as a trait: the right lever, not only the right cause.
DIRECTIONS = {
    "lower utilization": {Trait.FREE_TOO_SMALL, Trait.AFTER_KV, Trait.SERVING},
    "raise utilization": {Trait.KV_NONE, Trait.HELD_OUTSIDE},
    "shorten context": {Trait.KV_TOO_SMALL},
    "lower batch": {Trait.PROFILING, Trait.SAMPLER},
    "lower kv bytes": {Trait.KV_BYTES_TOO_LARGE},
    "retry unchanged": {Trait.PROFILE_DISTURBED},
    "smaller model": {Trait.LOADING},
    "host memory": {Trait.HOST_MEMORY, Trait.SHARED_MEMORY},
    "none": {Trait.KV_OVERRIDE},
}


@dataclass(frozen=True)
class Labelled:
    """One log with what is known about it."""

    path: Path
    cause: Cause
    exit: Exit
    root_line: int | None
    direction: str | None

    def lines(self) -> list[str]:
        text = self.path.read_text(encoding="utf-8", errors="replace")
        return text.split("\n")

    def diagnose(self) -> Diagnosis:
        return diagnose(self.exit, self.lines())


def _read(folder: str) -> list[Labelled]:
    index = FAILURES / folder / "index.jsonl"
    return [_labelled(index.parent, json.loads(line)) for line in index.read_text().splitlines()]


def _labelled(folder: Path, row: dict[str, object]) -> Labelled:
    code, root = row["exit"], row.get("root_line")
    direction = row.get("direction")
    return Labelled(
        folder / str(row["file"]),
        Cause(str(row["class"])),
        Exit(code=code) if isinstance(code, int) else Exit(),
        root if isinstance(root, int) else None,
        direction if isinstance(direction, str) else None,
    )


SETS = {folder.name: _read(folder.name) for folder in sorted(FAILURES.iterdir()) if folder.is_dir()}
ALL = [each for labelled in SETS.values() for each in labelled]


@pytest.mark.parametrize("labelled", ALL, ids=lambda each: each.path.stem)
def test_labelled_failure_is_named(labelled: Labelled) -> None:
    found = labelled.diagnose()
    assert found.cause is labelled.cause, f"line {found.line}: {found.evidence}"
    assert found.remedy
    if found.line is not None:
        shown = found.evidence.split(" (")[0][:40].removeprefix("asked to stop: ")
        said = labelled.lines()[found.line - 1]
        assert shown in said or "stands still" in shown or labelled.cause is Cause.CORRUPT_WEIGHTS


@pytest.mark.parametrize("name", SETS)
def test_confusion_table_has_its_diagonal_only(name: str) -> None:
    labelled = SETS[name]
    table = Counter((each.cause, each.diagnose().cause) for each in labelled)
    for cause in Cause:
        of_cause = {found: n for (label, found), n in table.items() if label is cause}
        if of_cause:
            cells = ", ".join(f"{found} {n}" for found, n in of_cause.items())
            print(f"{name:8} {cause:24} {sum(of_cause.values()):3}: {cells}")  # noqa: T201 (a figure)
    assert sum(n for (label, found), n in table.items() if label is found) == len(labelled)


@pytest.mark.parametrize(
    "labelled", [each for each in ALL if each.direction], ids=lambda each: each.path.stem
)
def test_memory_failure_is_answered_in_the_right_direction(labelled: Labelled) -> None:
    assert labelled.direction is not None
    assert labelled.diagnose().trait in DIRECTIONS[labelled.direction]


def test_evidence_stands_at_the_labelled_root_or_names_the_same_failure_nearby() -> None:
    near = [
        abs(line - each.root_line) <= 6
        for each in ALL
        if each.root_line is not None and (line := each.diagnose().line) is not None
    ]
    print(f"evidence at the labelled root line: {sum(near)} of {len(near)}")  # noqa: T201 (a figure)
    assert sum(near) > 0.8 * len(near)


@pytest.mark.parametrize("exit_", [Exit(), Exit(code=0)])
@pytest.mark.parametrize("seed", range(3))
def test_noise_is_no_failure(seed: int, exit_: Exit) -> None:
    lines = healthy_lines(20_000, seed)
    assert len(pastes()) > 50
    found = diagnose(exit_, lines)
    expected = {Cause.NOT_A_FAILURE} if exit_.code is None else {Cause.ENGINE_DEAD_OTHER}
    assert found.cause in expected, f"line {found.line}: {found.evidence}"
    assert found.line is None


@pytest.mark.parametrize("seed", range(3))
def test_noise_before_a_death_does_not_name_it(seed: int) -> None:
    lines = healthy_lines(3_000, seed)
    found = diagnose(Exit(signal=11), lines, was_ready=True, seen="EngineCore (pid 2) ended")
    assert found.cause not in MEMORY, f"line {found.line}: {found.evidence}"
