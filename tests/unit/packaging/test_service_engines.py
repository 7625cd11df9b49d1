"""Engines side by side: which is in use, which may go, which version can be had."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from setup import engines, service_engines, venvs
from setup.console import SetupError
from setup.service_engines import Shelf, choose, is_finished, main, user_of

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="engines of the service are root's")


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


@contextmanager
def running(directory: Path) -> Iterator[None]:
    """Run a program of an engine."""
    program = directory / "bin" / "vllm"
    program.symlink_to("/usr/bin/sleep")
    with subprocess.Popen([str(program), "60"]) as process:
        try:
            while user_of(directory) is None:  # until the kernel shows its command line
                assert process.poll() is None
            yield
        finally:
            process.kill()


def test_engine_that_runs_is_not_removed(shelf: Shelf) -> None:
    directory = put(shelf, "cpu-1")
    with running(directory), pytest.raises(SetupError) as refused:
        shelf.remove("cpu-1")
    assert "process" in refused.value.message
    assert "cahootsctl stop" in refused.value.remedy
    assert is_finished(directory)


@only_root
def test_engine_that_runs_is_not_made_anew_under_it(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = put(shelf, f"cpu-{engines.CPU_VLLM}")
    monkeypatch.setattr(engines, "ensure", lambda _: pytest.fail("made anew"))
    with running(directory), pytest.raises(SetupError) as refused:
        main(["--root", str(shelf.root), "install", "--cpu"])
    assert "is being run" in refused.value.message


def test_process_with_a_title_of_its_own_is_known_by_its_libraries(
    shelf: Shelf, tmp_path: Path
) -> None:
    directory = put(shelf, "cpu-1")
    process = tmp_path / "proc" / "42"
    process.mkdir(parents=True)
    (process / "cmdline").write_bytes(b"VLLM::EngineCore\0")
    rows = ["7f00-7f01 r-xp 00000000 fe:00 1    /usr/bin/python3.11"]
    rows += [f"7f02-7f03 r-xp 00000000 fe:00 2    {directory}/lib/python3.11/torch.so"]
    (process / "maps").write_text("\n".join(rows))
    assert user_of(directory, tmp_path / "proc") == 42
    assert user_of(shelf.directory("cpu-11"), tmp_path / "proc") is None


def test_removal_that_is_killed_leaves_no_engine(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(shelf, "cpu-1")
    put(shelf, "cpu-2")
    with monkeypatch.context() as patched:

        def die(_: Path) -> None:
            raise SystemExit

        patched.setattr(shutil, "rmtree", die)
        with pytest.raises(SystemExit):
            shelf.remove("cpu-1")
    assert shelf.names() == ["cpu-2"]
    shelf.remove("cpu-2")
    assert list((shelf.root / "engines").iterdir()) == []


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
    put(shelf, "cuda-3", is_whole=False).joinpath(venvs.STAMP).write_text('{"requirements": "x"}')
    shelf.link.unlink()
    shelf.link.symlink_to("engines/cuda-3")
    assert main(["--root", str(shelf.root), "list"]) == 0
    assert "in use; half-finished" in capsys.readouterr().out


@only_root
@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ("exit 0", "has been told"),
        ("exit 4", "enable --now cahoots-vllm"),
        ("echo line 3 is wrong >&2; exit 1", "line 3 is wrong"),
    ],
)
def test_using_an_engine_says_what_the_service_does_about_it(
    shelf: Shelf,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ends: str,
    said: str,
) -> None:
    put(shelf, "cpu-1")
    monkeypatch.setattr(service_engines, "CTL", ("sh", "-c", ends))
    assert main(["--root", str(shelf.root), "use", "cpu-1"]) == 0
    assert said in capsys.readouterr().out
