"""The bytes of a model as it was loaded: an extension of the engine's worker, imported there.

Counted before the CPU backend packs its linear layers (process_weights_after_loading): what is
packed is no tensor's storage any more, and the same on no GPU.
"""

from typing import Any

from vllm.model_executor.model_loader import base_loader

_pack = base_loader.process_weights_after_loading
_loaded = 0


def _count_and_pack(model: Any, *rest: Any) -> None:  # noqa: ANN401 (a torch module, vLLM's own)
    global _loaded  # noqa: PLW0603 (one model in this process)
    held = [*model.parameters(), *model.buffers()]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}
    _loaded = sum(storages.values())
    _pack(model, *rest)


base_loader.process_weights_after_loading = _count_and_pack


class Weights:
    """What the engine can ask of its worker."""

    def loaded_bytes(self) -> int:
        """Return the bytes of all parameters and buffers, each storage once."""
        return _loaded
