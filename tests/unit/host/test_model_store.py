"""What is in the cache and what can go, on a cache as huggingface_hub lays it out."""

import json
import shutil
from pathlib import Path

import pytest

from cahoots_vllm.host import model_store
from cahoots_vllm.host.model_store import PART_MARK


def add_revision(cache: Path, repo: str, commit: str, ref: str | None, **blobs: bytes) -> Path:
    folder = model_store.repo_folder(cache, repo)
    snapshot = folder / "snapshots" / commit
    for part in (folder / "blobs", folder / "refs", snapshot):
        part.mkdir(parents=True, exist_ok=True)
    for name, content in blobs.items():
        (folder / "blobs" / name).write_bytes(content)
        (snapshot / f"{name}.json").symlink_to(folder / "blobs" / name)
    if ref is not None:
        (folder / "refs" / ref).write_text(commit)
    return snapshot


def blobs(cache: Path, repo: str) -> set[str]:
    return {path.name for path in (model_store.repo_folder(cache, repo) / "blobs").glob("*")}


def test_revisions_are_listed_with_names_and_sizes(tmp_path: Path) -> None:
    add_revision(tmp_path, "org/x", "a" * 40, None, one=b"123")
    add_revision(tmp_path, "org/x", "b" * 40, "main", two=b"12345")
    found = model_store.list_cached(tmp_path)
    assert [(c.repo, c.revision[0], c.refs, c.size_bytes) for c in found] == [
        ("org/x", "a", (), 3),
        ("org/x", "b", ("main",), 5),
    ]


def test_cache_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert model_store.list_cached(tmp_path / "none") == []
    assert model_store.list_partial(tmp_path / "none") == []


@pytest.mark.parametrize("mark", ["", "[]", '{"total": "x"}'])
def test_part_without_a_readable_note_has_no_total(tmp_path: Path, mark: str) -> None:
    add_revision(tmp_path, "org/x", "a" * 40, None)
    folder = model_store.repo_folder(tmp_path, "org/x")
    (folder / "blobs" / "w.incomplete").write_bytes(b"12")
    (folder / PART_MARK).write_text(mark)
    (part,) = model_store.list_partial(tmp_path)
    assert (part.size_bytes, part.total_bytes) == (2, 0)
    (folder / PART_MARK).write_text(json.dumps({"total": 9}))
    assert model_store.list_partial(tmp_path)[0].total_bytes == 9


def test_old_revision_goes_with_what_is_its_alone(tmp_path: Path) -> None:
    old = add_revision(tmp_path, "org/x", "a" * 40, None, own=b"12", both=b"1")
    add_revision(tmp_path, "org/x", "b" * 40, "main", new=b"123")
    both = model_store.repo_folder(tmp_path, "org/x") / "blobs" / "both"
    (model_store.repo_folder(tmp_path, "org/x") / "snapshots" / ("b" * 40) / "x").symlink_to(both)
    (waste,) = model_store.find_waste(tmp_path, frozenset(), frozenset())
    assert waste.size_bytes == 2
    model_store.discard(waste)
    assert not old.exists()
    assert blobs(tmp_path, "org/x") == {"both", "new"}


def test_what_is_kept_or_busy_is_no_waste(tmp_path: Path) -> None:
    old = add_revision(tmp_path, "org/x", "a" * 40, None, own=b"12")
    add_revision(tmp_path, "org/y", "c" * 40, None, own=b"12")
    found = model_store.find_waste(tmp_path, frozenset({old}), frozenset({"org/y"}))
    assert found == []


def test_detached_blob_and_part_are_waste(tmp_path: Path) -> None:
    add_revision(tmp_path, "org/x", "a" * 40, "main", own=b"12")
    folder = model_store.repo_folder(tmp_path, "org/x") / "blobs"
    (folder / "lost").write_bytes(b"1234")
    (folder / "w.incomplete").write_bytes(b"12345")
    found = model_store.find_waste(tmp_path, frozenset(), frozenset())
    assert {(w.what, w.size_bytes) for w in found} == {
        ("file of no revision", 4),
        ("partial download", 5),
    }


def test_removed_revision_takes_its_names_along(tmp_path: Path) -> None:
    add_revision(tmp_path, "org/x", "a" * 40, "v1", own=b"12")
    add_revision(tmp_path, "org/x", "b" * 40, "main", new=b"123")
    first = model_store.list_cached(tmp_path)[0]
    assert model_store.remove_revision(tmp_path, first) == 2
    (left,) = model_store.list_cached(tmp_path)
    assert (left.refs, blobs(tmp_path, "org/x")) == (("main",), {"new"})
    assert model_store.remove_repo(tmp_path, "org/x") == 3
    assert list(model_store.hub_folder(tmp_path).iterdir()) == []


def test_cache_behind_a_link_has_no_waste_of_its_own(tmp_path: Path) -> None:
    add_revision(tmp_path / "disk", "org/x", "a" * 40, "main", own=b"12")
    old = add_revision(tmp_path / "disk", "org/x", "b" * 40, None, old=b"123")
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    cache = tmp_path / "cache"
    (waste,) = model_store.find_waste(cache, frozenset(), frozenset())
    assert waste.size_bytes == 3
    model_store.discard(waste)
    assert not old.exists()
    assert blobs(cache, "org/x") == {"own"}
    assert model_store.remove_revision(cache, model_store.list_cached(cache)[0]) == 2


@pytest.mark.parametrize("how", ["prune", "one revision", "all"])
def test_file_that_a_snapshot_links_to_elsewhere_is_somebodys(tmp_path: Path, how: str) -> None:
    cache, theirs = tmp_path / "cache", tmp_path / "theirs.safetensors"
    theirs.write_bytes(b"12345")
    snapshot = add_revision(cache, "org/x", "a" * 40, None, own=b"12")
    (snapshot / "model.safetensors").symlink_to(theirs)
    match how:
        case "prune":
            for waste in model_store.find_waste(cache, frozenset(), frozenset()):
                model_store.discard(waste)
        case "one revision":
            model_store.remove_revision(cache, model_store.list_cached(cache)[0])
        case _:
            model_store.remove_repo(cache, "org/x")
    assert theirs.read_bytes() == b"12345"
    assert not snapshot.exists()


def test_repo_that_is_a_link_loses_the_link_only(tmp_path: Path) -> None:
    theirs = add_revision(tmp_path / "theirs", "org/x", "a" * 40, "main", own=b"12")
    cache = tmp_path / "cache"
    model_store.hub_folder(cache).mkdir(parents=True)
    target = model_store.repo_folder(tmp_path / "theirs", "org/x")
    model_store.repo_folder(cache, "org/x").symlink_to(target)
    assert model_store.list_repos(cache) == ["org/x"]
    assert model_store.remove_repo(cache, "org/x") == 0
    assert model_store.list_repos(cache) == []
    assert (theirs / "own.json").read_bytes() == b"12"


def test_rest_of_a_removal_that_was_broken_off_is_waste(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_revision(tmp_path, "org/x", "a" * 40, "main", own=b"12")
    add_revision(tmp_path, "org/y", "b" * 40, "main", own=b"1234")
    add_revision(tmp_path, "org/y", "c" * 40, "v1", other=b"123")

    def die(_path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            model_store.remove_repo(tmp_path, "org/x")
        with pytest.raises(KeyboardInterrupt):
            model_store.remove_revision(tmp_path, model_store.list_cached(tmp_path)[1])
    assert model_store.list_repos(tmp_path) == ["org/y"]
    found = model_store.find_waste(tmp_path, frozenset(), frozenset())
    assert [waste.what for waste in found].count("rest of a removal that was broken off") == 2
    for waste in found:
        model_store.discard(waste)
    assert model_store.find_waste(tmp_path, frozenset(), frozenset()) == []
    assert [c.refs for c in model_store.list_cached(tmp_path)] == [("main",)]
    assert not list(tmp_path.rglob("gone-*"))
