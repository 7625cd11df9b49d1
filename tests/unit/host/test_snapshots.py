"""Models on disk: whole or not, and where in the hub's cache."""

import hashlib
import json
from pathlib import Path

import pytest

from cahoots_vllm.host.snapshots import (
    context_limit,
    discard,
    find_cut,
    find_damaged,
    find_missing,
    find_snapshot,
)


def model(directory: Path, **files: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)
    return directory


_INDEX = json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ({}, "config.json"),
        ({"config__json": "{}"}, "weights (*.safetensors)"),
        ({"config__json": "{}", "x__safetensors": ""}, None),
        ({"config__json": "{}", "x__bin": ""}, None),
        ({"config__json": "{}", "m__index__json": _INDEX}, "one.safetensors"),
        ({"config__json": "{}", "m__index__json": _INDEX, "one__safetensors": ""},
         "two.safetensors"),
        ({"config__json": "{}", "m__index__json": _INDEX, "one__safetensors": "",
          "two__safetensors": ""}, None),
        ({"config__json": "{}", "m__index__json": "{"}, "readable m.index.json"),
        ({"config__json": "{}", "m__index__json": "[]"}, "readable m.index.json"),
        ({"config__json": "{}", "m__index__json": "{}"}, "readable m.index.json"),
    ],
)  # fmt: skip
def test_what_a_model_lacks_is_named(
    tmp_path: Path, files: dict[str, str], missing: str | None
) -> None:
    assert find_missing(model(tmp_path / "m", **files)) == missing


def test_dangling_link_is_missing(tmp_path: Path) -> None:
    directory = model(tmp_path / "m", config__json="{}")
    (directory / "model.safetensors").symlink_to(tmp_path / "gone")
    assert find_missing(directory) == "weights (*.safetensors)"


def test_snapshot_is_found_by_name_and_by_commit(tmp_path: Path) -> None:
    root = tmp_path / "huggingface" / "hub" / "models--org--x"
    assert find_snapshot(tmp_path, "org/x", None) is None
    snapshot = model(root / "snapshots" / "abc", config__json="{}", x__safetensors="")
    assert find_snapshot(tmp_path, "org/x", None) is None
    assert find_snapshot(tmp_path, "org/x", "abc") == snapshot
    model(root / "refs", main="abc\n")
    assert find_snapshot(tmp_path, "org/x", None) == snapshot
    (snapshot / "x.safetensors").unlink()
    assert find_snapshot(tmp_path, "org/x", None) is None


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ('{"max_position_embeddings": 4096}', 4096),
        ('{"text_config": {"max_position_embeddings": 8192}}', 8192),
        ("{}", None), ("[]", None), ("{", None),
        ('{"max_position_embeddings": "many"}', None), ('{"max_position_embeddings": 0}', None),
        ('{"text_config": null}', None),
    ],
)  # fmt: skip
def test_context_limit_is_the_models_own(tmp_path: Path, config: str, limit: int | None) -> None:
    assert context_limit(model(tmp_path / "m", config__json=config)) == limit


def _safetensors(path: Path, *, size: int = 8, cut: int = 0) -> bytes:
    """Write a whole file of one tensor, less `cut` bytes; return its bytes."""
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    whole = len(header).to_bytes(8, "little") + header + bytes(size)
    path.write_bytes(whole[: len(whole) - cut])
    return whole


def test_whole_weights_are_not_damaged(tmp_path: Path) -> None:
    _safetensors(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert find_damaged(tmp_path) == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        b"<!DOCTYPE html><html></html>" * 9,
        (4).to_bytes(8, "little") + b"nope",
        (2).to_bytes(8, "little") + b"[]",
        (20).to_bytes(8, "little") + b'{"a":{"x":[0, 1]}}  ',
        (30).to_bytes(8, "little") + b'{"a":{"data_offsets":[0,"1"]}}',
    ],
)
def test_what_is_no_safetensors_file_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert list(find_damaged(tmp_path)) == [tmp_path / "model.safetensors"]
    assert list(find_cut(tmp_path)) == [tmp_path / "model.safetensors"]


def test_only_weights_that_an_engine_would_load_are_looked_at_for_their_length(
    tmp_path: Path,
) -> None:
    _safetensors(tmp_path / "model.safetensors")
    _safetensors(tmp_path / "consolidated.safetensors", cut=1)
    assert find_cut(tmp_path) == {}
    _safetensors(tmp_path / "one.safetensors")
    _safetensors(tmp_path / "two.safetensors")
    _safetensors(tmp_path / "model.safetensors", cut=1)  # an older one, beside the shards
    (tmp_path / "model.safetensors.index.json").write_text(_INDEX)
    assert find_cut(tmp_path) == {}
    _safetensors(tmp_path / "two.safetensors", cut=1)
    assert list(find_cut(tmp_path)) == [tmp_path / "two.safetensors"]


def test_header_too_large_for_a_look_says_nothing(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write((20 << 20).to_bytes(8, "little"))
        file.truncate(21 << 20)  # sparse
    assert find_cut(tmp_path) == {}


@pytest.mark.parametrize("cut", [1, 7])
def test_truncated_weights_are_damaged_and_the_sizes_are_said(tmp_path: Path, cut: int) -> None:
    whole = _safetensors(tmp_path / "model.safetensors", cut=cut)
    (why,) = find_damaged(tmp_path).values()
    assert why == f"{len(whole) - cut} bytes, {len(whole)} by its header"
    assert find_cut(tmp_path) == find_damaged(tmp_path)


def test_flipped_byte_in_the_hubs_cache_is_found_by_its_hash(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots"
    blobs.mkdir()
    snapshot.mkdir()
    whole = _safetensors(tmp_path / "a")
    blob = blobs / hashlib.sha256(whole).hexdigest()
    blob.write_bytes(whole)
    link = snapshot / "model.safetensors"
    link.symlink_to(blob)
    assert find_damaged(snapshot) == {}
    blob.write_bytes(whole[:-1] + b"\x01")
    assert list(find_damaged(snapshot)) == [link]
    discard([link])
    assert not link.is_symlink()
    assert not blob.exists()
