"""What a model's directory tells."""

import json
from pathlib import Path

import pytest

from cahoots_vllm.core.ollama.views import ModelCard
from cahoots_vllm.host.model_card import read_card


def made(directory: Path, config: object) -> ModelCard:
    text = config if isinstance(config, str) else json.dumps(config)
    (directory / "config.json").write_text(text)
    return read_card(directory)


def test_plain_model(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"12345")
    (tmp_path / "b.safetensors").write_bytes(b"678")
    (tmp_path / "README.md").write_text("not a weight")
    config = {"model_type": "llama", "max_position_embeddings": 8192, "torch_dtype": "bfloat16"}
    assert made(tmp_path, config) == ModelCard("llama", "bfloat16", 8192, size_bytes=8)


def test_quantized_model_with_vision(tmp_path: Path) -> None:
    config = {
        "model_type": "qwen2_5_vl", "dtype": "float16", "vision_config": {},
        "quantization_config": {"quant_method": "awq"},
        "text_config": {"max_position_embeddings": 128000},
    }  # fmt: skip
    assert made(tmp_path, config) == ModelCard("qwen2_5_vl", "awq", 128000, has_vision=True)


@pytest.mark.parametrize(
    "config",
    [
        "{", "[]", "null", "\ud800".encode("utf-8", "replace").decode(), {"model_type": 5},
        {"quantization_config": "x", "text_config": 5, "max_position_embeddings": "9"},
    ],
)  # fmt: skip
def test_garbled_configuration_tells_nothing(tmp_path: Path, config: object) -> None:
    assert made(tmp_path, config) == ModelCard()


def test_directory_that_is_not_there_tells_nothing(tmp_path: Path) -> None:
    assert read_card(tmp_path / "gone") == ModelCard()
