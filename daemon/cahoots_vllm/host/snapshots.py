"""Models on disk: a directory, or a snapshot in the hub's cache. Blocking; no network.

Layout of the cache: huggingface_hub's `hub/models--ORG--NAME/{refs,snapshots,blobs}`.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_HASH_CHUNK_BYTES = 1 << 20
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own bound
# A look before a start, or for anybody who asks, reads no more: a larger header says nothing.
_MAX_LOOK_BYTES = 16 << 20
_MAX_FILES = 2000
_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pt")


def find_snapshot(cache_dir: Path, repo: str, revision: str | None) -> Path | None:
    """Return a repo's complete snapshot directory, None when it is not there or not whole."""
    root = cache_dir / "huggingface" / "hub" / f"models--{repo.replace('/', '--')}"
    try:
        commit = (root / "refs" / (revision or "main")).read_text().strip()
    except OSError:
        commit = revision or ""
    snapshot = root / "snapshots" / commit
    return snapshot if commit and find_missing(snapshot) is None else None


def find_missing(directory: Path) -> str | None:
    """Return what a model directory lacks: its configuration, or weights; None: it is whole."""
    if not (directory / "config.json").is_file():
        return "config.json"
    indexes = list(directory.glob("*.index.json"))
    if not indexes:
        has_weights = any(p.is_file() for pattern in _WEIGHTS for p in directory.glob(pattern))
        return None if has_weights else "weights (*.safetensors)"
    missing = (_missing_shard(index) for index in indexes)
    return next((name for name in missing if name is not None), None)


def _missing_shard(index: Path) -> str | None:
    files = _shards(index)
    if files is None:
        return f"readable {index.name}"
    return next((name for name in files if not (index.parent / name).is_file()), None)


def _shards(index: Path) -> list[str] | None:
    """Return the files that an index names, None where it cannot be read."""
    try:
        return sorted({str(f) for f in json.loads(index.read_text())["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def context_limit(directory: Path) -> int | None:
    """Return the model's own context length in tokens from its config.json, None if unsaid."""
    try:
        config = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(config, dict):
        return None
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        limit = part.get("max_position_embeddings")
        if isinstance(limit, int) and limit > 0:
            return limit
    return None


def find_cut(directory: Path) -> dict[Path, str]:
    """Return the weights that are not as long as their headers say, each with both sizes.

    Reads the headers only, of the safetensors files that an engine would load. Raises OSError.
    """
    files = sorted(islice((p for p in directory.glob("*.safetensors") if p.is_file()), _MAX_FILES))
    indexes = directory.glob("*.index.json")
    named = {name for index in indexes for name in _shards(index) or ()}
    # Mistral's own format beside the hub's: the engine takes one of them.
    hubs = [path for path in files if not path.name.startswith("consolidated")] or files
    looked = [path for path in hubs if path.name in named] or hubs
    found = {path: _wrong_length(path, _MAX_LOOK_BYTES) for path in looked}
    return {path: why for path, why in found.items() if why is not None}


def find_damaged(directory: Path) -> dict[Path, str]:
    """Return the damaged files of a model directory, each with what is wrong.

    A safetensors file must be as long as its header says; a file of the hub's cache that came
    through its large file storage is named by its SHA-256. Reads every such byte.
    """
    found = {}
    for path in sorted(directory.iterdir()):
        if not path.is_file():
            continue
        why = _wrong_length(path) if path.suffix == ".safetensors" else None
        why = why or _wrong_hash(path)
        if why is not None:
            found[path] = why
    return found


def discard(paths: Iterable[Path]) -> None:
    """Delete files of a snapshot with the blobs they point at. Raises OSError."""
    for path in paths:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def _wrong_length(path: Path, most_bytes: int = _MAX_HEADER_BYTES) -> str | None:
    """Say why a safetensors file cannot be whole (its format's README), None if it can.

    A header of more than `most_bytes` that the file has room for is not read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or not 0 < length <= min(_MAX_HEADER_BYTES, size):
            return f"{size} bytes that do not begin like a safetensors file"
        if length > most_bytes:
            return None
        try:
            header = json.loads(file.read(length))
            ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
            expected = _LENGTH_BYTES + length + max(ends, default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            return "its header cannot be read"
    return None if size == expected else f"{size} bytes, {expected} by its header"


def _wrong_hash(path: Path) -> str | None:
    name = path.resolve().name
    if not path.is_symlink() or not _SHA256.match(name):
        return None
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return None if digest.hexdigest() == name else "its SHA-256 is another than the hub's"
