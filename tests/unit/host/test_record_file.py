"""Records are not lost: by a torn line, by a full file, by a damaged neighbour."""

from pathlib import Path

import pytest

from cahoots_vllm.host.record_file import RecordFile


def whole(line: str) -> bool:
    return line.startswith("{")


def test_records_come_back_in_order_and_nobody_else_may_read(tmp_path: Path) -> None:
    path = tmp_path / "state" / "bench.jsonl"
    file = RecordFile(path, 10)
    assert file.read() == []
    for number in range(3):
        file.append(f"{{{number}}}", whole)
    assert RecordFile(path, 10).read() == ["{0}", "{1}", "{2}"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_torn_line_takes_no_later_one_with_it(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    path.write_bytes(b'{0}\n{"half": ')
    file = RecordFile(path, 10)
    file.append("{1}", whole)
    assert file.read() == ["{0}", '{"half": ', "{1}"]


def test_file_is_bounded_and_damaged_lines_go_first(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    file = RecordFile(path, 5)
    for number in range(9):
        file.append(f"{{{number}}}" if number != 8 else "damage \x00\udc00".strip("\udc00"), whole)
    assert len(path.read_bytes().splitlines()) <= 10
    for number in range(10, 40):
        file.append(f"{{{number}}}", whole)
        assert len(path.read_bytes().splitlines()) <= 10
    assert file.read() == [f"{{{number}}}" for number in range(35, 40)]
    assert b"damage" not in path.read_bytes()


def test_directory_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bench.jsonl").mkdir()
    with pytest.raises(OSError, match="directory"):
        RecordFile(tmp_path / "bench.jsonl", 5).append("{}", whole)
