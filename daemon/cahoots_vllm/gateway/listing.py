"""The list of models where asking the engine for it would start one just to be listed."""

import time
from collections.abc import Iterable

from aiohttp import web


def model_list(names: Iterable[str]) -> dict[str, object]:
    """Return OpenAI's list of models, as vLLM gives it (vllm/entrypoints/openai/models).

    How much context a model has is known to a running engine only, so it is left out.
    """
    created = int(time.time())
    return {
        "object": "list",
        "data": [
            {
                "id": name, "object": "model", "created": created, "owned_by": "vllm",
                "root": name, "parent": None,
            }
            for name in names
        ],
    }  # fmt: skip


def list_response(names: Iterable[str]) -> web.Response:
    """Answer `GET /v1/models`."""
    return web.json_response(model_list(names))
