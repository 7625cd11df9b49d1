"""Engines side by side: which is in use, which may go, which version can be had."""

import json
from pathlib import Path

import pytest

from setup import engines, venvs
from setup.console import SetupError
from setup.service_engines import Shelf, choose, is_finished, main, user_of


def put(shelf: Shelf, name: str, *, is_whole: bool = True) -> Path:
    """Make an engine's directory as an installation leaves it."""
    directory = shelf.directory(name)
    (directory / "bin").mkdir(parents=True)
    file = directory / (venvs.STAMP if is_whole else venvs.DRAFT)
    file.write_text(json.dumps({"requirements": "x"}))
    return directory


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_engine_in_use_is_behind_the_link(shelf: Shelf) -> None:
    put(shelf, "cpu-1")
    put(shelf, "cuda-2")
    assert shelf.in_use() is None
    shelf.use("cpu-1")
    assert (shelf.in_use(), shelf.link.resolve()) == ("cpu-1", shelf.directory("cpu-1"))
    shelf.use("cuda-2")
    assert shelf.in_use() == "cuda-2"
    assert shelf.names() == ["cpu-1", "cuda-2"]
    # Relative: the whole tree may be moved, or mounted elsewhere.
    assert not shelf.link.readlink().is_absolute()


def test_half_finished_engine_is_not_used(shelf: Shelf) -> None:
    directory = put(shelf, "cpu-1", is_whole=False)
    assert not is_finished(directory)
    with pytest.raises(SetupError) as refused:
        shelf.use("cpu-1")
    assert "install" in refused.value.remedy
    put(shelf, "cpu-2")
    with pytest.raises(SetupError) as refused:
        shelf.use("cpu-1")
    assert "cpu-2" in refused.value.remedy
    assert shelf.in_use() is None


def test_directory_that_is_no_link_is_not_replaced(shelf: Shelf) -> None:
    put(shelf, "cpu-1")
    (shelf.link / "bin").mkdir(parents=True)
    with pytest.raises(SetupError) as refused:
        shelf.use("cpu-1")
    assert "mv " in refused.value.remedy
    assert (shelf.link / "bin").is_dir()


def test_what_is_used_or_unknown_is_not_removed(shelf: Shelf) -> None:
    put(shelf, "cpu-1")
    shelf.use("cpu-1")
    for name in ("cpu-1", "cpu-9"):
        with pytest.raises(SetupError):
            shelf.remove(name)
    put(shelf, "cpu-2")
    shelf.remove("cpu-2")
    put(shelf, "cpu-3", is_whole=False)
    shelf.remove("cpu-3")
    assert shelf.names() == ["cpu-1"]


def test_engine_that_runs_is_not_removed(shelf: Shelf, tmp_path: Path) -> None:
    directory = put(shelf, "cpu-1")
    process = tmp_path / "proc" / "42"
    process.mkdir(parents=True)
    words = ["/usr/bin/python3", f"{directory}/bin/vllm", "serve"]
    (process / "cmdline").write_bytes(b"\0".join(word.encode() for word in words))
    assert user_of(directory, tmp_path / "proc") == 42
    assert user_of(shelf.directory("cpu-11"), tmp_path / "proc") is None


@pytest.mark.parametrize(
    ("kind", "version", "name", "wanted"),
    [
        ("cpu", None, f"cpu-{engines.CPU_VLLM}", None),
        ("cpu", engines.CPU_VLLM, f"cpu-{engines.CPU_VLLM}", None),
        ("cuda", None, f"cuda-{engines.CUDA_VLLM}", None),
        ("cuda", "0.31.1", "cuda-0.31.1", "0.31.1"),
    ],
)
def test_version_names_the_directory(
    shelf: Shelf, kind: str, version: str | None, name: str, wanted: str | None
) -> None:
    engine = choose(shelf.root, kind, version)
    assert (engine.directory.name, engine.version) == (name, wanted)


def test_pinned_version_is_the_one_in_the_list() -> None:
    assert f"vllm=={engines.CUDA_VLLM}\n" in (engines.LISTS / "cuda.txt").read_text()


def test_cpu_engine_of_another_version_is_refused_with_what_can_be_had(shelf: Shelf) -> None:
    with pytest.raises(SetupError) as refused:
        choose(shelf.root, "cpu", "0.1")
    assert engines.CPU_VLLM in refused.value.message


@pytest.mark.parametrize(
    "words",
    [
        ["use", "../elsewhere"],
        ["remove", ""],
        ["remove", ".hidden"],
        ["install", "--version", "; rm"],
        ["install", "--cpu", "--cuda"],
        [],
    ],
)
def test_names_that_cannot_be_are_usage_errors(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_list_says_what_to_do_when_there_is_nothing(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(shelf.root), "list"]) == 0
    assert "install" in capsys.readouterr().out
    put(shelf, "cpu-1")
    put(shelf, "cuda-2", is_whole=False)
    shelf.use("cpu-1")
    assert main(["--root", str(shelf.root), "list"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].endswith("in use")
    assert "half-finished" in rows[1]
