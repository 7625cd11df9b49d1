"""Models on disk: whole or not, and where in the hub's cache."""

import json
from pathlib import Path

import pytest

from cahoots_vllm.host.snapshots import context_limit, find_missing, find_snapshot


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
