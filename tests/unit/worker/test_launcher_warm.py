"""What a standby says of its imports, and notes of the modules that a start looks for."""

import importlib
import os
from pathlib import Path

import pytest

from cahoots_vllm.worker.launcher_warm import Notebook, warm_up


def test_whole_reason_of_a_failed_import_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "x" * 1000

    def fail(_: str) -> None:
        raise ValueError(words)

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ImportError) as told:
        warm_up(None)
    assert str(told.value) == f"cannot import vLLM: ValueError: {words}"


def test_each_module_is_noted_once_and_not_again_by_the_next_standby(tmp_path: Path) -> None:
    path = tmp_path / "standby-0.33.0.modules"
    for _ in range(2):
        notebook = Notebook(path)
        for name in ("json", "vllm.a", "json"):
            notebook.find_spec(name)
    assert path.read_text() == "json\nvllm.a\n"


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe\x00" * 1000, bytes(3000), os.urandom(3000), b"vllm.a\n\x1b[31m\n"],
    ids=["no text", "zeros", "noise", "control characters"],
)
def test_damaged_notes_are_emptied_and_made_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "standby-0.33.0.modules"
    path.write_bytes(content)
    Notebook(path).find_spec("vllm.a")
    assert path.read_bytes() == b"vllm.a\n"
