"""What a directory's files say: the truth where they are whole, and nothing at any price else."""

import json
import os
import struct
import tracemalloc
from pathlib import Path

import pytest

from cahoots_vllm.core.fit.weights import Tensor
from cahoots_vllm.host import model_files
from cahoots_vllm.host.model_files import read_config, read_header, read_model_files

_W = {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}


def safetensors(header: object, length: int | None = None, body: bytes = b"\0" * 12) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def write(directory: Path, name: str, content: bytes) -> Path:
    path = directory / name
    path.write_bytes(content)
    return path


def test_whole_directory_is_read(tmp_path: Path) -> None:
    write(tmp_path, "config.json", b'{"hidden_size": 64}')
    one = write(tmp_path, "model-1.safetensors", safetensors({"a": _W, "__metadata__": {"x": "y"}}))
    two = write(tmp_path, "model-2.safetensors", safetensors({"b": _W}))
    write(tmp_path, "pytorch_model.bin", b"12345")
    found = read_model_files(tmp_path)
    assert found.config == {"hidden_size": 64}
    assert found.tensors == (Tensor("a", "BF16", (2, 3)), Tensor("b", "BF16", (2, 3)))
    assert found.stored_bytes == one.stat().st_size + two.stat().st_size


def test_mistrals_own_copy_is_not_counted_twice(tmp_path: Path) -> None:
    write(tmp_path, "model.safetensors", safetensors({"a": _W}))
    write(tmp_path, "consolidated.safetensors", safetensors({"z": _W}))
    assert [tensor.name for tensor in read_model_files(tmp_path).tensors] == ["a"]
    (tmp_path / "model.safetensors").unlink()
    assert [tensor.name for tensor in read_model_files(tmp_path).tensors] == ["z"]


def test_other_formats_tell_their_size_only(tmp_path: Path) -> None:
    write(tmp_path, "model.gguf", b"123")
    write(tmp_path, "model.bin", b"12345")
    assert read_model_files(tmp_path) == model_files.ModelFiles({}, (), 8)


def test_quantization_in_a_file_of_its_own_is_taken(tmp_path: Path) -> None:
    write(tmp_path, "config.json", b"{}")
    write(tmp_path, "hf_quant_config.json", b'{"quantization": {"quant_algo": "FP8"}}')
    assert read_model_files(tmp_path).config == {"quantization_config": {"quant_algo": "FP8"}}


_HOSTILE = {
    "empty": b"",
    "shorter than a length": b"\x01\x02",
    "length beyond the file": safetensors({"a": _W}, 1 << 40),
    "largest length": struct.pack("<Q", (1 << 64) - 1) + b"{}",
    "zero length": safetensors(b"", 0),
    "truncated": safetensors({"a": _W}, body=b"")[:-5],
    "no JSON": safetensors(b"not json at all"),
    "no UTF-8": safetensors(b"\xff\xfe{}"),
    "deep": safetensors(b"[" * 100_000),
    "deep entry": safetensors(b'{"a":' + b"[" * 100_000),
    "a list": safetensors([_W]),
    "a number": safetensors(b"7"),
    "an entry that is none": safetensors({"a": 7}),
    "no shape": safetensors({"a": {"dtype": "BF16"}}),
    "nested shape": safetensors({"a": _W | {"shape": [[2], 3]}}),
    "negative shape": safetensors({"a": _W | {"shape": [-2, 3]}}),
    "endless shape": safetensors({"a": _W | {"shape": [1] * 100}}),
    "huge shape": safetensors({"a": _W | {"shape": [1 << 60]}}),
    "fractional shape": safetensors({"a": _W | {"shape": [1.5]}}),
    "dtype that is none": safetensors({"a": _W | {"dtype": 7}}),
    "not a number": safetensors(b'{"a": {"dtype": "BF16", "shape": [NaN]}}'),
}


@pytest.mark.parametrize("content", _HOSTILE.values(), ids=_HOSTILE)
def test_hostile_header_says_nothing(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, "model.safetensors", content)
    assert read_header(path) is None
    found = read_model_files(tmp_path)
    assert (found.tensors, found.stored_bytes) == ((), len(content))


def test_offsets_are_not_believed(tmp_path: Path) -> None:
    path = write(tmp_path, "x.safetensors", safetensors({"a": _W | {"data_offsets": [-9, -1]}}))
    assert read_header(path) == [Tensor("a", "BF16", (2, 3))]


def test_one_file_without_a_header_leaves_the_sizes(tmp_path: Path) -> None:
    write(tmp_path, "model-1.safetensors", safetensors({"a": _W}))
    write(tmp_path, "model-2.safetensors", b"weights")
    assert read_model_files(tmp_path).tensors == ()


def test_long_header_costs_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path, "model.safetensors", struct.pack("<Q", 90_000_000))
    with path.open("ab") as file:
        file.truncate(100_000_000)  # sparse
    write(tmp_path, "config.json", b"{}")
    tracemalloc.start()
    try:
        assert read_model_files(tmp_path).stored_bytes == 100_000_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_too_many_tensors_leave_the_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "_MAX_TENSORS", 3)
    for number in range(2):
        write(tmp_path, f"model-{number}.safetensors", safetensors({"a": _W, "b": _W}))
    assert read_model_files(tmp_path).tensors == ()


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"[" * 100_000, b"\xff", b"nul"])
def test_configuration_that_cannot_be_read_is_empty(tmp_path: Path, text: bytes) -> None:
    assert read_config(write(tmp_path, "config.json", text)) == {}


def test_long_configuration_is_not_read_to_its_end(tmp_path: Path) -> None:
    with write(tmp_path, "config.json", b"{").open("ab") as file:
        file.truncate(1 << 40)
    assert read_config(tmp_path / "config.json") == {}


def test_pipes_keep_nobody_waiting(tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json", "hf_quant_config.json", "model.bin"):
        os.mkfifo(tmp_path / name)
    assert read_model_files(tmp_path) == model_files.ModelFiles({}, (), 0)


def test_directory_that_is_gone_says_nothing(tmp_path: Path) -> None:
    assert read_model_files(tmp_path / "gone") == model_files.ModelFiles({}, (), 0)
