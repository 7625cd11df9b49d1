"""Ollama's listings."""

from datetime import UTC, datetime
from typing import Any

import pytest

from cahoots_vllm.core.launch import LaunchSpec, Options
from cahoots_vllm.core.ollama.views import Model, ModelCard, ps_view, show_view, tags_view

AT = datetime(2026, 11, 26, 17, 0, 0, 5, tzinfo=UTC)
CARD = ModelCard("qwen3", "awq", 40960, size_bytes=123)


def model(name: str = "m", options: Options = (), **card: object) -> Model:
    made = ModelCard(**card) if card else CARD  # type: ignore[arg-type] # its own fields
    return Model(name, LaunchSpec(name, f"org/{name}", "/engine", options=options), made, AT)


def only(view: dict[str, object]) -> Any:  # noqa: ANN401 (JSON)
    entries = view["models"]
    assert isinstance(entries, list)
    assert len(entries) == 1
    return entries[0]


def test_tags() -> None:
    entry = only(tags_view([model()]))
    assert entry.pop("digest") == model().digest
    assert entry == {
        "name": "m",
        "model": "m",
        "modified_at": "2026-11-26T17:00:00.000005Z",
        "size": 123,
        "details": {
            "parent_model": "",
            "format": "safetensors",
            "family": "qwen3",
            "families": ["qwen3"],
            "parameter_size": "",
            "quantization_level": "awq",
        },
    }


def test_digest_is_as_long_as_clients_cut_it_and_another_for_another_model() -> None:
    assert len(model().digest) == 64
    assert model().digest == model().digest != model("n").digest


def test_ps_tells_where_the_model_is() -> None:
    loaded = only(ps_view([model()], AT, is_on_cpu=False))
    assert (loaded["size"], loaded["size_vram"]) == (123, 123)
    assert loaded["expires_at"] == "2026-11-26T17:00:00.000005Z"
    assert only(ps_view([model()], AT, is_on_cpu=True))["size_vram"] == 0


@pytest.mark.parametrize(
    ("options", "served", "length"),
    [((), None, 40960), ((("max-model-len", 8192),), None, 8192),
     ((("max-model-len", 8192),), 4096, 4096), ((("max-model-len", -1),), None, 40960)],
)  # fmt: skip
def test_context_length_is_what_is_served_else_asked_for_else_the_models_own(
    options: Options, served: int | None, length: int
) -> None:
    one = model(options=options)
    one = Model(one.name, one.spec, one.card, one.modified_at, served)
    assert show_view(one)["model_info"] == {
        "general.architecture": "qwen3",
        "general.basename": "m",
        "qwen3.context_length": length,
    }
    assert only(ps_view([one], AT, is_on_cpu=True))["context_length"] == length


def test_show_of_an_unknown_model_has_what_clients_need_all_the_same() -> None:
    shown = show_view(model(architecture=""))
    assert shown["model_info"] == {"general.architecture": "vllm", "general.basename": "m"}
    assert (shown["template"], shown["parameters"], shown["license"]) == ("", "", "")


@pytest.mark.parametrize(
    ("options", "capabilities"),
    [
        ((), ["completion"]),
        ((("enable-auto-tool-choice", True),), ["completion"]),
        (
            (("enable-auto-tool-choice", True), ("tool-call-parser", "hermes")),
            ["completion", "tools"],
        ),
        ((("reasoning-parser", "qwen3"),), ["completion", "thinking"]),
        ((("runner", "pooling"),), ["embedding"]),
    ],
)
def test_capabilities_follow_the_options(options: Options, capabilities: list[str]) -> None:
    assert show_view(model(options=options))["capabilities"] == capabilities


def test_model_that_sees() -> None:
    assert model(has_vision=True).capabilities == ["completion", "vision"]
