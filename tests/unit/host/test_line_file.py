"""A worker's lines for a later daemon: the first for good, the last in turns."""

from pathlib import Path

import pytest

from cahoots_vllm.host.line_file import LineFile


def test_lines_are_there_for_the_next_one(tmp_path: Path) -> None:
    one = LineFile(tmp_path / "log", 3, 2)
    for number in range(3):
        one.append(f"line {number} \u00e9\udcff")
    one.close()
    assert LineFile(tmp_path / "log", 3, 2).read() == (
        ["line 0 \u00e9?", "line 1 \u00e9?", "line 2 \u00e9?"],
        [],
    )
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("restarts_every", [1, 2, 5, 100])
def test_middle_goes_when_there_are_too_many(tmp_path: Path, restarts_every: int) -> None:
    one = LineFile(tmp_path / "log", 3, 4)
    for number in range(40):
        if number % restarts_every == 0:
            one.close()
            one = LineFile(tmp_path / "log", 3, 4)
        one.append(str(number))
    one.close()
    first, last = LineFile(tmp_path / "log", 3, 4).read()
    assert (first, last) == (["0", "1", "2"], ["36", "37", "38", "39"])
    assert sum(len(path.read_text().split()) for path in tmp_path.iterdir()) <= 3 + 4 + 4


def test_removed_files_are_gone_and_no_trace_is_left(tmp_path: Path) -> None:
    one = LineFile(tmp_path / "log", 1, 1)
    for number in range(5):
        one.append(str(number))
    one.remove()
    assert list(tmp_path.iterdir()) == []
    assert one.read() == ([], [])


def test_full_disk_costs_only_the_lines(tmp_path: Path) -> None:
    one = LineFile(tmp_path / "gone" / "log", 3, 2)
    one.append("lost")
    (tmp_path / "gone").mkdir()
    one.append("kept")
    one.close()
    assert one.read() == (["kept"], [])
