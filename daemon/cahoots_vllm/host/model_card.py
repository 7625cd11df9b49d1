"""What a model's directory tells of the model. Blocking; no network."""

import json
from pathlib import Path
from typing import Final

from cahoots_vllm.core.ollama.views import ModelCard

_WEIGHTS: Final = ("*.safetensors", "*.bin", "*.gguf", "*.pt")


def read_card(directory: Path) -> ModelCard:
    """Return what can be read; a directory that is not there tells nothing."""
    config = _config(directory)
    text = config.get("text_config")
    text = text if isinstance(text, dict) else {}
    quantization = config.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    length = config.get("max_position_embeddings") or text.get("max_position_embeddings")
    return ModelCard(
        architecture=_string(config.get("model_type")),
        quantization=_string(method or config.get("torch_dtype") or config.get("dtype")),
        context_length=length if isinstance(length, int) and length > 0 else None,
        has_vision="vision_config" in config,
        size_bytes=_size_bytes(directory),
    )


def _config(directory: Path) -> dict[str, object]:
    try:
        config = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _size_bytes(directory: Path) -> int:
    try:
        files = {path for pattern in _WEIGHTS for path in directory.glob(pattern)}
        return sum(path.stat().st_size for path in files)
    except OSError:
        return 0


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""
