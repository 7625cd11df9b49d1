from pathlib import Path

import pytest

from cahoots_vllm.host.engine_models import read_architectures

_NAMES = [f"Model{number}ForCausalLM" for number in range(60)]


def engine(root: Path, text: str) -> Path:
    path = root / "lib/python3.11/site-packages/vllm/model_executor/models/registry.py"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return root


def table(names: list[str], target: str = "_TEXT_GENERATION_MODELS") -> str:
    return f"{target} = {dict.fromkeys(names, ('module', 'Class'))!r}\n"


def test_tables_of_the_registry_are_read(tmp_path: Path) -> None:
    more = table(["OldForCausalLM"], "_PREVIOUSLY_SUPPORTED_MODELS")
    typed = table(["SeeingModel"], "_MULTIMODAL_MODELS: dict[str, tuple[str, str]]")
    text = (
        f"import torch\n{table(_NAMES)}{typed}{more}_ALL_MODELS = {{**_TEXT_GENERATION_MODELS}}\n"
    )
    assert read_architectures(engine(tmp_path, text)) == {*_NAMES, "SeeingModel"}


@pytest.mark.parametrize("text", ["", "def (", table(_NAMES[:3]), "\0"], ids=repr)
def test_registry_that_is_another_than_was_known_tells_nothing(tmp_path: Path, text: str) -> None:
    assert read_architectures(engine(tmp_path, text)) == frozenset()


def test_engine_without_one_tells_nothing(tmp_path: Path) -> None:
    assert read_architectures(tmp_path) == frozenset()


def test_engine_that_was_changed_is_read_again(tmp_path: Path) -> None:
    root = engine(tmp_path, table(_NAMES))
    assert "NewForCausalLM" not in read_architectures(root)
    path = next(root.rglob("registry.py"))
    path.write_text(table([*_NAMES, "NewForCausalLM"]))
    assert "NewForCausalLM" in read_architectures(root)
