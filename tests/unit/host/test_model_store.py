"""What is in the cache and what can go, on a cache as huggingface_hub lays it out."""

import json
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
