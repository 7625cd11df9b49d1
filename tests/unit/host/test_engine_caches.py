from datetime import UTC, datetime, timedelta
from pathlib import Path

from cahoots_vllm.host.engine_caches import find_unused, move_aside
from cahoots_vllm.host.model_store import discard

NOW = datetime(2026, 11, 27, 11, 50, 7, tzinfo=UTC)


def _filled(directory: Path, text: str) -> Path:
    directory.mkdir(parents=True)
    (directory / "kernel.so").write_text(text)
    return directory


def test_directory_is_moved_and_not_deleted(tmp_path: Path) -> None:
    cache = _filled(tmp_path / "0.33.0", "damaged")
    aside = move_aside(cache, NOW)
    assert aside == tmp_path / "0.33.0.quarantined-20261127T115007Z"
    assert not cache.exists()
    assert (aside / "kernel.so").read_text() == "damaged"


def test_what_is_not_there_is_not_moved(tmp_path: Path) -> None:
    assert move_aside(tmp_path / "0.33.0", NOW) is None
    assert list(tmp_path.iterdir()) == []


def test_newest_two_are_kept_whatever_their_version_and_nothing_else_goes(tmp_path: Path) -> None:
    for day, version in enumerate(("0.9.0", "0.33.0", "0.33.0", "0.10.2")):
        move_aside(_filled(tmp_path / version, str(day)), NOW + timedelta(days=day))
    other = _filled(tmp_path / "0.32.0", "in use")
    kept = sorted(path.name for path in tmp_path.iterdir() if path != other)
    assert kept == ["0.10.2.quarantined-20261130T115007Z", "0.33.0.quarantined-20261129T115007Z"]
    assert (other / "kernel.so").exists()


def test_caches_of_other_versions_can_go_and_those_in_use_stay(tmp_path: Path) -> None:
    caches = tmp_path / "vllm"
    mine = _filled(caches / "0.33.0", "in use")
    old = _filled(caches / "0.32.0", "12345")
    aside = move_aside(_filled(caches / "0.31.0", "damaged"), NOW)
    (caches / "elsewhere").symlink_to(tmp_path)
    found = find_unused(mine)
    assert {waste.paths for waste in found} == {(old,), (aside,)}
    assert [waste.size_bytes for waste in found if waste.repo == "vLLM 0.32.0"] == [5]
    for waste in found:
        discard(waste)
    assert {path.name for path in caches.iterdir()} == {"0.33.0", "elsewhere"}
    assert find_unused(mine) == []


def test_removal_that_was_broken_off_is_found(tmp_path: Path) -> None:
    rest = _filled(tmp_path / "gone-0a", "rest")
    (waste,) = find_unused(tmp_path / "vllm" / "0.33.0")
    discard(waste)
    assert not rest.exists()
