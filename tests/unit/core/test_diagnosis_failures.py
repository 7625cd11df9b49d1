"""All labelled failure logs (tests/failures), and noise; prints the confusion table (-rP)."""

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from cahoots_vllm.core.diagnosis import Cause, Diagnosis, Exit, Trait, diagnose
from unit.core.noise import FAILURES, healthy_lines, name_of, pastes

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
    # Its log is that of another cause too: the label says what was done, not what can be read.
    is_ambiguous: bool = False

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
        is_ambiguous=bool(row.get("is_ambiguous")),
    )


FOLDERS = {
    folder.name: _read(folder.name) for folder in sorted(FAILURES.iterdir()) if folder.is_dir()
}
SETS = {name: [each for each in logs if not each.is_ambiguous] for name, logs in FOLDERS.items()}
ALL = [each for labelled in SETS.values() for each in labelled]
AMBIGUOUS = [each for logs in FOLDERS.values() for each in logs if each.is_ambiguous]


@pytest.mark.parametrize("labelled", ALL, ids=lambda each: each.path.stem)
def test_labelled_failure_is_named(labelled: Labelled) -> None:
    found = labelled.diagnose()
    assert found.cause is labelled.cause, f"line {found.line}: {found.evidence}"
    assert found.remedy
    if found.line is not None:
        shown = found.evidence.split(" (")[0][:40].removeprefix("asked to stop: ")
        said = labelled.lines()[found.line - 1]
        assert shown in said or "stands still" in shown or labelled.cause is Cause.CORRUPT_WEIGHTS


@pytest.mark.parametrize("labelled", AMBIGUOUS, ids=lambda each: each.path.stem)
def test_death_without_a_word_never_changes_the_gpus_settings(labelled: Labelled) -> None:
    found = labelled.diagnose()
    assert found.cause not in MEMORY - {Cause.HOST_OOM}, f"line {found.line}: {found.evidence}"


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
@pytest.mark.parametrize("has_start", [True, False])
def test_noise_before_a_death_does_not_name_it(seed: int, *, has_start: bool) -> None:
    lines = healthy_lines(6_000, seed)
    if not has_start:  # a log is bounded: whose processes it has is not said any more
        lines = lines[-4_000:]
    ended = "EngineCore (pid 2) ended"
    for was_ready, seen in ((True, ended), (None, None)):
        found = diagnose(Exit(signal=11), lines, was_ready=was_ready, seen=seen)
        assert found.cause is Cause.ENGINE_DEAD_OTHER, f"line {found.line}: {found.evidence}"


def test_pasted_failure_of_another_server_is_no_start_of_this_one() -> None:
    start = healthy_lines(300, 1)
    api = name_of("APIServer", start)
    asked = f"{api} INFO 11-22 23:04:31 [logger.py:39] Received request 1: prompt: 'Why?"
    answered = ['INFO:     127.0.0.1:5 - "POST /v1/chat/completions HTTP/1.1" 200 OK'] * 20
    for labelled in ALL:
        lines = [*start, asked, *labelled.lines(), "', params: SamplingParams(n=1)", *answered]
        for exit_ in (Exit(), Exit(code=0)):
            found = diagnose(exit_, lines)
            assert found.cause in {Cause.NOT_A_FAILURE, Cause.ENGINE_DEAD_OTHER}, labelled.path


def test_200_000_lines_are_judged_and_the_time_is_printed() -> None:
    start = healthy_lines(300, 1)
    api = name_of("APIServer", start)
    error = f"{api} ERROR 11-22 23:04:31 [serving.py:1] ValueError: This model's maximum context"
    answer = f'{api} INFO:     127.0.0.1:5 - "POST /v1/chat/completions HTTP/1.1" 200 OK'
    lines = [*start, *[error, answer, answer, answer] * 50_000]
    began = time.process_time()
    assert diagnose(Exit(signal=11), lines).cause is Cause.ENGINE_DEAD_OTHER
    took_s = time.process_time() - began
    # The aim is two seconds; what a busy machine takes is no failure of the code.
    print(f"{len(lines)} lines: {took_s:.2f} s")  # noqa: T201 (a figure)
