"""Requests for text and embeddings, as the engine's OpenAI API takes them."""

import json
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from cahoots_vllm.core.ollama.fields import Json, flag, items, objects, text, texts, wrong
from cahoots_vllm.core.ollama.messages import to_openai, with_images
from cahoots_vllm.core.ollama.options import sampling

CHAT_TARGET: Final = "/v1/chat/completions"
_COMPLETE_TARGET: Final = "/v1/completions"
EMBED_TARGET: Final = "/v1/embeddings"
_LEVELS: Final = ("low", "medium", "high", "max")
_MAX_LOGPROBS: Final = 20


class Route(Enum):
    """Which of Ollama's routes is asked, and with that the shape of its answer."""

    CHAT = auto()
    GENERATE = auto()
    EMBED = auto()
    EMBEDDINGS = auto()


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks for. `model`: in its own words.

    `target` and `body` are the engine's; None: nothing to generate, the model is to be loaded, or
    with `is_unload` to be unloaded.
    """

    route: Route
    model: str
    is_stream: bool
    is_unload: bool = False
    target: str | None = None
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Served:
    """A model as the engine knows it; its context length in tokens, None: it is not served yet."""

    name: str
    context_length: int | None


def needs_length(route: Route, body: Json) -> bool:
    """Whether a request can be translated only once the model's context length is known.

    The engine ends a completion that sets no limit after 16 tokens (vLLM 0.32, completion/
    protocol.py), and refuses one that is above the context length.
    """
    return route is Route.GENERATE and body.get("raw") is True and bool(body.get("prompt"))


def read_request(route: Route, body: Json, served: Served) -> Asked:
    """Return what is asked for, of a model that the engine serves.

    Raises CahootsError (BAD_REQUEST).
    """
    is_generating = route in (Route.CHAT, Route.GENERATE)
    is_stream = is_generating and flag(body, "stream", default=True)
    made = _MAKERS[route](body)
    model = text(body, "model")
    if made is None:
        is_unload = is_generating and _is_zero(body.get("keep_alive"))
        return Asked(route, model, is_stream, is_unload)
    target, fields = made
    fields = {"model": served.name, **fields}
    if is_generating:
        fields |= sampling(body.get("options")) | _format(body.get("format"))
        fields |= _limit(fields.get("max_tokens"), target, served.context_length)
    if is_stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    return Asked(route, model, is_stream, target=target, body=json.dumps(fields).encode())


_Made = tuple[str, dict[str, object]] | None


def _chat(body: Json) -> _Made:
    messages = objects(body, "messages")
    if not messages:
        return None
    fields: dict[str, object] = {"messages": to_openai(messages)}
    if tools := items(body, "tools"):
        fields["tools"] = tools
    return CHAT_TARGET, fields | _think(body.get("think")) | _logprobs(body)


def _generate(body: Json) -> _Made:
    prompt = text(body, "prompt")
    if not prompt:
        return None
    if text(body, "suffix"):
        raise wrong(what="the engine does not support insert", remedy="leave suffix out")
    if flag(body, "raw", default=False):
        return _raw(body, prompt)
    if text(body, "template"):
        remedy = "leave it out, or send the whole prompt with raw"
        raise wrong(what="the engine takes no template of a request", remedy=remedy)
    messages: list[dict[str, object]] = []
    if system := text(body, "system"):
        messages.append({"role": "system", "content": system})
    messages.append({"role": "user", "content": with_images(prompt, texts(body, "images"))})
    return CHAT_TARGET, {"messages": messages} | _think(body.get("think")) | _logprobs(body)


def _raw(body: Json, prompt: str) -> _Made:
    if text(body, "system") or text(body, "template") or items(body, "context"):
        raise wrong(what="raw mode does not support template, system, or context")
    if items(body, "images"):
        raise wrong(what="raw mode does not support images")
    return _COMPLETE_TARGET, {"prompt": prompt}


def _embed(body: Json) -> _Made:
    given = body.get("input")
    inputs = [given] if isinstance(given, str) else texts(body, "input")
    if not any(inputs):
        return None
    fields: dict[str, object] = {"input": inputs}
    if body.get("dimensions") is not None:
        fields["dimensions"] = body["dimensions"]
    if flag(body, "truncate", default=True):
        fields["truncate_prompt_tokens"] = -1  # to what the model takes
    return EMBED_TARGET, fields


def _embeddings(body: Json) -> _Made:
    prompt = text(body, "prompt")
    return (EMBED_TARGET, {"input": [prompt]}) if prompt else None


_MAKERS: Final = {
    Route.CHAT: _chat,
    Route.GENERATE: _generate,
    Route.EMBED: _embed,
    Route.EMBEDDINGS: _embeddings,
}


def _think(think: object) -> dict[str, object]:
    """Return what switches a model's thinking on or off; templates without it do not mind."""
    if think is None:
        return {}
    if isinstance(think, bool):
        return {"chat_template_kwargs": {"enable_thinking": think}}
    if think in _LEVELS:
        return {"reasoning_effort": think, "chat_template_kwargs": {"enable_thinking": True}}
    raise wrong(what='think must be "high", "medium", "low", true or false')


def _logprobs(body: Json) -> dict[str, object]:
    count = body.get("top_logprobs") or 0
    if not isinstance(count, int) or not 0 <= count <= _MAX_LOGPROBS:
        raise wrong(what=f"top_logprobs must be between 0 and {_MAX_LOGPROBS}")
    if not flag(body, "logprobs", default=False):
        return {}
    return {"logprobs": True, "top_logprobs": count}


def _format(wanted: object) -> dict[str, object]:
    if wanted in (None, ""):
        return {}
    if wanted == "json":
        return {"response_format": {"type": "json_object"}}
    if isinstance(wanted, dict):
        schema = {"name": "format", "schema": wanted}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    raise wrong(what='format must be "json" or a JSON schema')


def _limit(wanted: object, target: str, length: int | None) -> dict[str, object]:
    """Return how many tokens to generate at most: as many as wanted, as Ollama and the engine can.

    The engine clamps a limit to what the prompt leaves.
    """
    if isinstance(wanted, int):
        return {"max_tokens": wanted if length is None else min(wanted, length)}
    return {"max_tokens": length} if target == _COMPLETE_TARGET and length is not None else {}


def _is_zero(keep_alive: object) -> bool:
    """Whether a duration is 0: a number of seconds, or Go's notation ("0", "0s", "0m0s")."""
    if isinstance(keep_alive, str):
        digits = [c for c in keep_alive if c.isdigit()]
        return bool(digits) and set(digits) == {"0"}
    return keep_alive is not None and not isinstance(keep_alive, bool) and keep_alive == 0
