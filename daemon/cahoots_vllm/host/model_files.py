"""What a model directory's files say of its size: config.json, safetensors headers. Blocking.

Bounded in every direction: a hostile file costs a little memory, and says nothing.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cahoots_vllm.core.fit.weights import Tensor

_LENGTH_BYTES = 8
# Safetensors allows 100 MB; a model's largest has some hundred bytes for each tensor.
_MAX_HEADER_BYTES = 16 << 20
_MAX_TENSORS = 500_000  # of all files
_MAX_CONFIG_BYTES = 16 << 20
_MAX_FILES = 2000
_MAX_RANK = 8
_MAX_COUNT = 1 << 48
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.gguf")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """`tensors` is empty where not every file has a header; `stored_bytes` is of all weights."""

    config: dict[str, object]
    tensors: tuple[Tensor, ...]
    stored_bytes: int


def read_model_files(directory: Path) -> ModelFiles:
    """Return what the files say; what cannot be read says nothing. Raises OSError for none."""
    config = read_config(directory / "config.json")
    if "quantization_config" not in config:
        # NVIDIA's ModelOpt writes a file of its own (vllm/config/model.py).
        quantization = read_config(directory / "hf_quant_config.json").get("quantization")
        if isinstance(quantization, dict):
            config = {**config, "quantization_config": quantization}
    files = _regular(directory, "*.safetensors")
    # Mistral's own format beside the hub's: the engine takes one of them.
    if len(files) > 1:
        files = [f for f in files if not f.name.startswith("consolidated")] or files
    if not files:
        others = (path for kind in _OTHER_WEIGHTS for path in _regular(directory, kind))
        return ModelFiles(config, (), sum(path.stat().st_size for path in others))
    stored = sum(path.stat().st_size for path in files)
    tensors: list[Tensor] = []
    for path in files:
        found = read_header(path)
        if found is None:
            return ModelFiles(config, (), stored)
        tensors += found
        if len(tensors) > _MAX_TENSORS:
            return ModelFiles(config, (), stored)
    return ModelFiles(config, tuple(tensors), stored)


def _regular(directory: Path, pattern: str) -> list[Path]:
    """Return files, and nothing that would keep its reader waiting (a pipe)."""
    found = islice(directory.glob(pattern), _MAX_FILES)
    return sorted(path for path in found if path.is_file())


def read_config(path: Path) -> dict[str, object]:
    """Return a JSON object, empty where there is none that can be read."""
    try:
        size = path.stat().st_size
        if not path.is_file() or size > _MAX_CONFIG_BYTES:
            return {}
        with path.open("rb") as file:
            found = json.loads(file.read(size))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_header(path: Path) -> list[Tensor] | None:
    """Return the tensors of a safetensors file (its format's README), None where it has none."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if not 0 < length <= min(_MAX_HEADER_BYTES, path.stat().st_size):
                return None
            header = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(header, dict):
        return None
    found = list(_tensors(header))
    return found if len(found) == len(header) - ("__metadata__" in header) else None


def _tensors(header: dict[str, Any]) -> Iterator[Tensor]:
    for name, entry in header.items():
        match entry:
            case {"dtype": str(dtype), "shape": list(shape)} if _is_shape(shape):
                yield Tensor(name, dtype, tuple(shape))


def _is_shape(shape: list[object]) -> bool:
    return len(shape) <= _MAX_RANK and all(
        isinstance(size, int) and 0 <= size < _MAX_COUNT for size in shape
    )
