"""What the Ollama API has to know of the models; control.catalog knows it."""

from datetime import datetime
from typing import Protocol

from cahoots_vllm.core.ollama.request import Served
from cahoots_vllm.core.ollama.views import Model


class Catalog(Protocol):
    """The models that can be asked for, and the one that is loaded."""

    @property
    def is_on_cpu(self) -> bool:
        """Whether models are loaded into the host's memory."""
        ...

    def served(self, name: str) -> Served | None:
        """Return how the engine knows a model that a client names, None: nobody serves it."""
        ...

    async def models(self) -> list[Model]:
        """Return every model that can be asked for, the one that is served now first."""
        ...

    async def loaded(self) -> list[Model]:
        """Return what answers now."""
        ...

    async def find(self, name: str) -> Model | None:
        """Return a model by the name that a client has for it."""
        ...

    def expires_at(self) -> datetime:
        """Return until when what is loaded stays so without a request."""
        ...
