"""What Ollama's listings say of a model."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.ollama.answer import Line
from cahoots_vllm.core.ollama.times import rfc3339

# Several clients fail without this member (Ollama's own comment in routes.go), and look in it for
# the context length, under the name of the architecture.
_UNKNOWN_ARCHITECTURE: Final = "vllm"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model's directory tells; sizes in bytes, lengths in tokens, "" and None: nothing."""

    architecture: str = ""
    quantization: str = ""
    context_length: int | None = None
    has_vision: bool = False
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be asked for. `name`: what clients call it."""

    name: str
    spec: LaunchSpec
    card: ModelCard
    modified_at: datetime
    # As it is served now, where it is.
    context_length: int | None = None

    @property
    def digest(self) -> str:
        """Something that is another for another model; Ollama's clients show 12 digits of it."""
        return hashlib.sha256(f"{self.spec.source}@{self.spec.revision}".encode()).hexdigest()

    @property
    def capabilities(self) -> list[str]:
        """What it can do, in Ollama's words (types/model/capability.go)."""
        option = self.spec.option
        if option("runner") == "pooling" or option("convert") == "embed":
            return ["embedding"]
        found = ["completion"]
        if option("enable-auto-tool-choice") and option("tool-call-parser"):
            found.append("tools")
        if option("reasoning-parser"):
            found.append("thinking")
        if self.card.has_vision:
            found.append("vision")
        return found


def tags_view(models: Sequence[Model]) -> Line:
    """Return the answer of /api/tags."""
    return {
        "models": [_entry(model) | {"modified_at": rfc3339(model.modified_at)} for model in models]
    }


def ps_view(models: Sequence[Model], expires_at: datetime, *, is_on_cpu: bool) -> Line:
    """Return the answer of /api/ps."""
    return {
        "models": [
            _entry(model)
            | {
                "expires_at": rfc3339(expires_at),
                "size_vram": 0 if is_on_cpu else model.card.size_bytes,
                "context_length": _length(model) or 0,
            }
            for model in models
        ]
    }


def show_view(model: Model) -> Line:
    """Return the answer of /api/show. The template is the engine's own business."""
    architecture = model.card.architecture or _UNKNOWN_ARCHITECTURE
    info: Line = {"general.architecture": architecture, "general.basename": model.name}
    if (length := _length(model)) is not None:
        info[f"{architecture}.context_length"] = length
    return {
        "license": "",
        "modelfile": f"FROM {model.spec.source}\n",
        "parameters": "",
        "template": "",
        "details": _details(model),
        "model_info": info,
        "capabilities": model.capabilities,
        "modified_at": rfc3339(model.modified_at),
    }


def _entry(model: Model) -> Line:
    return {
        "name": model.name,
        "model": model.name,
        "size": model.card.size_bytes,
        "digest": model.digest,
        "details": _details(model),
    }


def _details(model: Model) -> Line:
    family = model.card.architecture
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": "",
        "quantization_level": model.card.quantization,
    }


def _length(model: Model) -> int | None:
    if model.context_length is not None:
        return model.context_length
    limit = model.spec.option("max-model-len")
    return limit if isinstance(limit, int) and limit > 0 else model.card.context_length
