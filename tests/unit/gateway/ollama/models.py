"""A catalog of one model, for tests of the Ollama API."""

from dataclasses import dataclass
from datetime import UTC, datetime

from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.ollama.request import Served
from cahoots_vllm.core.ollama.views import Model, ModelCard

NOW = datetime(2026, 11, 26, tzinfo=UTC)


@dataclass
class Models:
    """One model, `m`."""

    is_on_cpu: bool = True
    context_length: int | None = 100

    def served(self, name: str) -> Served | None:
        return Served("m", self.context_length) if name in ("m", "m:latest") else None

    async def models(self) -> list[Model]:
        return [Model("m", LaunchSpec("m", "m", "/engine"), ModelCard(), NOW)]

    async def loaded(self) -> list[Model]:
        return await self.models()

    async def find(self, name: str) -> Model | None:
        return (await self.models())[0] if name == "m" else None

    def expires_at(self) -> datetime:
        return NOW
