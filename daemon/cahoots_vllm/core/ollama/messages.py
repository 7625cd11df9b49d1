"""A chat's messages: images, thoughts, and tool calls with the answers to them."""

import json
from collections.abc import Sequence
from typing import Final

from cahoots_vllm.core.ollama.fields import Json, items, member, objects, text, texts, wrong

# How the base64 of a file begins; the engine looks at the bytes themselves.
_IMAGE_TYPES: Final = (
    ("iVBORw0KGgo", "png"),
    ("/9j/", "jpeg"),
    ("R0lGOD", "gif"),
    ("UklGR", "webp"),
)


def to_openai(messages: Sequence[Json]) -> list[dict[str, object]]:
    """Return the messages as OpenAI's API takes them. Raises CahootsError (BAD_REQUEST)."""
    calls = _Calls()
    return [_message(message, calls) for message in messages]


def with_images(content: str, images: Sequence[str]) -> object:
    """Return a message's content: a plain string, or parts with the images before the text."""
    if not images:
        return content
    parts: list[dict[str, object]] = [
        {"type": "image_url", "image_url": {"url": _data_url(image)}} for image in images
    ]
    return [*parts, {"type": "text", "text": content}] if content else parts


class _Calls:
    """Which tool calls have no answer yet: Ollama may name the tool only, OpenAI names the call."""

    def __init__(self) -> None:
        self._count = 0
        self._open: list[tuple[str, str]] = []  # (id, name of the tool)

    def ask(self, given: str, name: str) -> str:
        """Return the id of a new call."""
        id_ = given or f"call_{self._count}"
        self._count += 1
        self._open.append((id_, name))
        return id_

    def answer(self, given: str, name: str) -> str:
        """Return the id of the call that is answered: the oldest one of that tool, else of any."""
        fitting = [call for call in self._open if given in ("", call[0]) and name in ("", call[1])]
        found = next(iter(fitting or (() if given else self._open)), None)
        if found is None:
            return given or "call_0"
        self._open.remove(found)
        return found[0]


def _message(message: Json, calls: _Calls) -> dict[str, object]:
    role = text(message, "role")
    if not role:
        raise wrong(what="a message must have a role")
    content = with_images(text(message, "content"), texts(message, "images"))
    found: dict[str, object] = {"role": role, "content": content}
    if thinking := text(message, "thinking"):
        found["reasoning"] = thinking
    if items(message, "tool_calls"):
        found["tool_calls"] = [_call(call, calls) for call in objects(message, "tool_calls")]
    if role == "tool":
        name = text(message, "tool_name") or text(message, "name")
        found["tool_call_id"] = calls.answer(text(message, "tool_call_id"), name)
        if name:
            found["name"] = name
    return found


def _call(call: Json, calls: _Calls) -> dict[str, object]:
    function = member(call, "function")
    name = text(function, "name")
    if not name:
        raise wrong(what="a tool call must name its function")
    arguments = function.get("arguments") or {}
    return {
        "id": calls.ask(text(call, "id"), name),
        "type": "function",
        "function": {
            "name": name,
            "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
        },
    }


def _data_url(image: str) -> str:
    if image.startswith("data:"):
        return image
    kind = next((kind for start, kind in _IMAGE_TYPES if image.startswith(start)), "jpeg")
    return f"data:image/{kind};base64,{image}"
