"""Models on disk: a directory, or a snapshot in the hub's cache. Blocking; no network.

Layout of the cache: huggingface_hub's `hub/models--ORG--NAME/{refs,snapshots,blobs}`.
"""

import json
from pathlib import Path

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
    try:
        files = sorted({str(f) for f in json.loads(index.read_text())["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"readable {index.name}"
    return next((name for name in files if not (index.parent / name).is_file()), None)


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
