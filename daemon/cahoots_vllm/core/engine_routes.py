"""Which of the engine's routes clients reach: those that answer requests, none that steer it.

Pure. vLLM 0.32 to 0.33, `vllm/entrypoints/**/api_router.py`: with VLLM_SERVER_DEV_MODE it serves
`/sleep`, `/collective_rpc` and others without asking for a key; those are for this host alone.
"""

import re
from typing import Final
from urllib.parse import unquote

# What vLLM itself keeps behind its API key (authenticate.py), and where new routes for clients go.
_FAMILIES: Final = ("/v1/", "/v2/", "/cohere/", "/inference/")
_ROOT_ROUTES: Final = frozenset(
    {
        "/classify", "/detokenize", "/docs", "/docs/oauth2-redirect", "/generative_scoring",
        "/invocations", "/load", "/openapi.json", "/ping", "/pooling", "/redoc", "/rerank",
        "/score", "/tokenize", "/tokenizer_info", "/version",
    }
)  # fmt: skip
_MAX_PATH: Final = 2048
MODELS: Final = "/v1/models"
# A backslash, a control character, an escape within an escape, a fragment.
_ODD: Final = re.compile(r"[\\\x00-\x1f\x7f%#]")
# The part of a path that is one answer's or model's own.
_ID: Final = re.compile(r"^(/v1/(?:responses|models))/[^/]+")
# What is below the families in 0.33; others are served too, and are labelled by their family.
_KNOWN: Final = _ROOT_ROUTES | frozenset(
    {
        "/cohere/v2/chat", "/cohere/v2/chat/render", "/inference/v1/generate",
        "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/chat/completions",
        "/v1/chat/completions/batch", "/v1/chat/completions/derender",
        "/v1/chat/completions/render", "/v1/completions", "/v1/completions/derender",
        "/v1/completions/render", "/v1/embeddings", "/v1/load_lora_adapter", "/v1/messages",
        "/v1/messages/count_tokens", "/v1/messages/render", "/v1/models", "/v1/models/{id}",
        "/v1/realtime", "/v1/rerank", "/v1/responses", "/v1/responses/render",
        "/v1/responses/{id}", "/v1/responses/{id}/cancel", "/v1/score", "/v1/systemone",
        "/v1/unload_lora_adapter", "/v2/embed", "/v2/rerank",
    }
)  # fmt: skip


def find_route(target: str) -> str | None:
    """Return the route that a request target (RFC 9112, 3.2.1) asks for, as the engine reads it.

    None where clients have no business, or where the path could be read in two ways: an escaped
    or empty segment, `..`, an absolute URL, bytes that are no ASCII.
    """
    raw, _, _ = target.partition("?")
    if not raw.startswith("/") or len(raw) > _MAX_PATH or not target.isascii():
        return None
    path = unquote(raw, errors="replace")  # once, as uvicorn does
    if _ODD.search(path) or "//" in path or any(p in (".", "..") for p in path.split("/")):
        return None
    if path in _ROOT_ROUTES:
        return path
    if path.startswith(_FAMILIES) and not path.endswith("/"):
        return path
    return None


def route_label(route: str) -> str:
    """Return what a served route is called in logs and metrics: one of few, nothing of a client's.

    A path may be anything, somebody's token too.
    """
    label = route if route in _KNOWN else _ID.sub(r"\1/{id}", route)
    return label if label in _KNOWN else f"/{route.split('/')[1]}/..."


def below_base(target: str, base_path: str) -> str:
    """Return a target as the engine knows it where LOCAL_LLM_URL has a path of its own.

    `base_path` is what stands for the engine's `/v1`: `/llm/v1/models` becomes `/v1/models`.
    """
    if base_path in ("", "/v1") or not target.startswith(f"{base_path}/"):
        return target
    return "/v1" + target.removeprefix(base_path)
