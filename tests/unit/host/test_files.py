"""Small files: what cannot be read says why, and a write is whole or not there."""

import stat
from pathlib import Path

import pytest

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.host.files import read_text, write_atomically


def reason(path: Path) -> str:
    with pytest.raises(CahootsError) as raised:
        read_text(path, what="the file")
    assert raised.value.kind is Kind.BAD_SETTINGS
    assert raised.value.remedy
    return raised.value.message


def test_reasons_for_not_reading(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert reason(file) == f"cannot read the file {file}: no such file"
    assert reason(tmp_path).endswith("it is a directory")
    file.write_bytes(b"fine\nnot \xff\n")
    assert reason(file).endswith("line 2: not UTF-8")
    file.write_bytes(b"x" * (4 * 1024 * 1024 + 1))
    assert reason(file).endswith("larger than 4 MiB")


def test_write_replaces_and_is_private(tmp_path: Path) -> None:
    file = tmp_path / "new" / "state.json"
    for text in ("one", "two"):
        write_atomically(file, text)
        assert file.read_text() == text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert list(file.parent.iterdir()) == [file]


def test_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "state.json"
    write_atomically(file, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, "new")
    assert (file.read_text(), list(tmp_path.iterdir())) == ("old", [file])
