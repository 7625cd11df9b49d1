"""The engine's answers in Ollama's words: events one by one, or an answer that is whole."""

import json
from dataclasses import dataclass, field
from typing import Final

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.ollama.fields import Json, member
from cahoots_vllm.core.ollama.request import Asked, Route
from cahoots_vllm.core.ollama.times import Times

_REASONS: Final = {"length": "length"}  # all others are ends of the model's own: "stop"

Line = dict[str, object]


@dataclass(slots=True)
class _Call:
    """A tool call as it comes: its arguments are a JSON text, in pieces."""

    id: str = ""
    name: str = ""
    arguments: str = ""

    def add(self, delta: Json) -> None:
        function = member(delta, "function")
        self.id = self.id or _string(delta.get("id"))
        self.name = self.name or _string(function.get("name"))
        self.arguments += _string(function.get("arguments"))

    def view(self, index: int) -> Line:
        function = {"index": index, "name": self.name, "arguments": _arguments(self.arguments)}
        return ({"id": self.id} if self.id else {}) | {"function": function}


@dataclass(slots=True)
class Answer:
    """One answer on its way. Fed with the engine's events, or once with its whole answer."""

    asked: Asked
    finish_reason: str | None = None
    usage: Json = field(default_factory=dict)
    _calls: dict[int, _Call] = field(default_factory=dict)
    _told: int = 0

    def take(self, event: Json) -> list[Line]:
        """Return what an event of the stream brings for the client; `line` makes it whole.

        Raises CahootsError where it is the engine's own error.
        """
        if "error" in event:
            raise CahootsError(Kind.WORKER_LOST, error_text(event), "send the request again")
        self.usage = member(event, "usage") or self.usage
        choice = _first(event.get("choices"))
        delta = member(choice, "delta") or choice
        found = self._parts(delta, choice)
        if reason := choice.get("finish_reason"):
            self.finish_reason = _string(reason)
            found += self._tell(before=None)
        return found

    def whole(self, answer: Json, times: Times) -> Line:
        """Return an answer that is not a stream."""
        self.usage = member(answer, "usage")
        choice = _first(answer.get("choices"))
        message = member(choice, "message") or choice
        self.finish_reason = _string(choice.get("finish_reason"))
        calls = [_whole_call(call) for call in _list(message.get("tool_calls"))]
        views = [call.view(index) for index, call in enumerate(calls)]
        return self._said(_content(message), _thinking(message), views, choice) | self.end(times)

    def end(self, times: Times) -> Line:
        """Return the members of the last line."""
        reason = _REASONS.get(self.finish_reason or "", "stop")
        counts = {
            "prompt_eval_count": self.usage.get("prompt_tokens"),
            "eval_count": self.usage.get("completion_tokens"),
        }
        known = {name: count for name, count in counts.items() if isinstance(count, int)}
        return {"done": True, "done_reason": reason} | times.view() | known

    def last(self, times: Times) -> Line:
        """Return the line that ends a stream."""
        return self._said("", "", [], {}) | self.end(times)

    def _parts(self, delta: Json, choice: Json) -> list[Line]:
        found: list[Line] = []
        content, thinking = _content(delta), _thinking(delta)
        if content or thinking:
            found.append(self._said(content, thinking, [], choice))
        for call in _list(delta.get("tool_calls")):
            index = call.get("index")
            index = index if isinstance(index, int) else len(self._calls)
            found += self._tell(before=index)
            self._calls.setdefault(index, _Call()).add(call)
        return found

    def _tell(self, before: int | None) -> list[Line]:
        """Return the tool calls that are whole: those before the one that comes now."""
        whole = [i for i in sorted(self._calls) if before is None or i < before]
        new = [self._calls[i].view(i) for i in whole[self._told :]]
        self._told = max(self._told, len(whole))
        return [self._said("", "", new, {})] if new else []

    def _said(self, content: str, thinking: str, calls: list[Line], choice: Json) -> Line:
        thought = {"thinking": thinking} if thinking else {}
        found: Line = {"response": content, **thought}
        if self.asked.route is Route.CHAT:
            called = {"tool_calls": calls} if calls else {}
            message = {"role": "assistant", "content": content, **thought, **called}
            found = {"message": message}
        if logprobs := _list(member(choice, "logprobs").get("content")):
            found["logprobs"] = logprobs
        return found | {"done": False}


def loaded(asked: Asked) -> Line:
    """Return the answer to a request that only loads or unloads a model."""
    done: Line = {"done": True, "done_reason": "unload" if asked.is_unload else "load"}
    match asked.route:
        case Route.CHAT:
            return {"message": {"role": "assistant", "content": ""}} | done
        case Route.GENERATE:
            return {"response": ""} | done
        case Route.EMBED:
            return {"embeddings": []}
        case Route.EMBEDDINGS:
            return {"embedding": []}


def embedded(asked: Asked, answer: Json, times: Times) -> Line:
    """Return embeddings, in the order of their inputs."""
    rows = [row.get("embedding") for row in sorted(_list(answer.get("data")), key=_index)]
    if asked.route is Route.EMBEDDINGS:
        return {"embedding": rows[0] if rows else []}
    count = member(answer, "usage").get("prompt_tokens", 0)
    return {"embeddings": rows, "prompt_eval_count": count} | times.view()


def error_text(answer: object) -> str:
    """Return what the engine says is wrong, in whatever of its shapes (vLLM 0.10 to 0.33)."""
    body = answer if isinstance(answer, dict) else {}
    error = body.get("error")
    places = (member(body, "error").get("message"), error, body.get("message"), body.get("detail"))
    return next((p for p in places if isinstance(p, str) and p), "the engine gave no reason")


def refusal(asked: Asked, status: int, answer: object) -> tuple[int, str]:
    """Return the status and the text of Ollama's error for what the engine refuses."""
    said = error_text(answer)
    if status == _NOT_FOUND and member(answer, "error").get("param") == "model":
        return status, not_found(asked.model)
    if status == _NOT_FOUND and asked.route in (Route.EMBED, Route.EMBEDDINGS):
        return _BAD_REQUEST, f'"{asked.model}" does not support embeddings'
    if "enable-auto-tool-choice" in said:
        options = "set enable-auto-tool-choice and tool-call-parser in its profile"
        return status, f'"{asked.model}" does not support tools; {options}'
    return status, said


_NOT_FOUND: Final = 404
_BAD_REQUEST: Final = 400


def not_found(model: str) -> str:
    """Return Ollama's words for a model it does not have."""
    return f"model '{model}' not found"


def _first(choices: object) -> Json:
    return next(iter(_list(choices)), {})


def _list(value: object) -> list[Json]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _content(message: Json) -> str:
    """Return what is said: a chat's `content`, a completion's `text`."""
    return _string(message.get("content")) or _string(message.get("text"))


def _thinking(message: Json) -> str:
    """Return what is thought; the field has another name up to vLLM 0.11."""
    return _string(message.get("reasoning")) or _string(message.get("reasoning_content"))


def _whole_call(call: Json) -> _Call:
    found = _Call()
    found.add(call)
    return found


def _arguments(text: str) -> object:
    """Return the arguments as the object that Ollama's clients want, whatever the model wrote."""
    if not text:
        return {}
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return {"raw": text}
    return parsed if isinstance(parsed, dict) else {"raw": text}


def _index(row: Json) -> int:
    index = row.get("index")
    return index if isinstance(index, int) else 0
