"""/v1/chat/completions and /v1/completions: deterministic text, streamed or not."""

import itertools
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from fake_vllm.engine import AbortedError, Engine
from fake_vllm.options import ServeOptions
from fake_vllm.processes import EngineDeadError
from fake_vllm.script import Behaviour
from fake_vllm.tool_calls import ToolParser
from fake_vllm.tool_calls import refusal as tool_refusal

Json = dict[str, Any]


def error(status: int, kind: str, message: str, param: str | None = None) -> Json:
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def internal_error(message: str) -> Json:
    return error(500, "InternalServerError", message)


@dataclass(slots=True)
class _Request:
    """One parsed body and the tokens it gets."""

    is_chat: bool
    model: str
    prompt: str
    tokens: list[str]
    finish_reason: str
    is_stream: bool
    wants_usage: bool
    id: str
    tools: ToolParser | None = None
    emitted: int = 0

    def chunk(self, text: str, finish_reason: str | None = None, *, role: bool = False) -> Json:
        if not self.is_chat:
            choice = {"index": 0, "logprobs": None, "finish_reason": finish_reason, "text": text}
            return self._envelope("chat.completion.chunk") | {"choices": [choice]}
        delta: Json = ({"role": "assistant"} if role else {}) | {"content": text}
        return self.delta_chunk(delta, finish_reason)

    def delta_chunk(self, delta: Json, finish_reason: str | None = None) -> Json:
        choice = {"index": 0, "logprobs": None, "finish_reason": finish_reason, "delta": delta}
        return self._envelope("chat.completion.chunk") | {"choices": [choice]}

    def token_chunks(self, token: str) -> list[Json]:
        if self.tools is None:
            return [self.chunk(token)]
        return [self.delta_chunk(delta) for delta in self.tools.take(token)]

    def last_chunk(self) -> Json:
        return self.delta_chunk({}, self.reason) if self.calls else self.chunk("", self.reason)

    @property
    def calls(self) -> list[Json]:
        return self.tools.calls if self.tools is not None else []

    @property
    def reason(self) -> str:
        return "tool_calls" if self.calls and self.finish_reason == "stop" else self.finish_reason

    def usage_chunk(self) -> Json:
        return self._envelope("chat.completion.chunk") | {"choices": [], "usage": self.usage()}

    def whole(self) -> Json:
        text = "".join(self.tokens)
        if self.tools is not None:
            for token in self.tokens:
                self.tools.take(token)
            text = self.tools.content
        choice: Json = {"index": 0, "logprobs": None, "finish_reason": self.reason}
        if self.is_chat:
            choice["message"] = {"role": "assistant", "content": text, "tool_calls": self.calls}
        else:
            choice["text"] = text
        return self._envelope("chat.completion") | {"choices": [choice], "usage": self.usage()}

    def usage(self) -> Json:
        prompt = len(self.prompt.split())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.emitted,
            "total_tokens": prompt + self.emitted,
        }

    def _envelope(self, kind: str) -> Json:
        kind = kind if self.is_chat else "text_completion"
        return {"id": self.id, "object": kind, "created": int(time.time()), "model": self.model}


class Completions:
    """The two generating routes."""

    def __init__(self, engine: Engine, options: ServeOptions, behaviour: Behaviour) -> None:
        self.is_draining = False
        self._engine = engine
        self._options = options
        self._behaviour = behaviour

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, is_chat=True)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, is_chat=False)

    async def _answer(self, http: web.Request, *, is_chat: bool) -> web.StreamResponse:
        body = await http.json()
        if problem := self._refusal(body, is_chat=is_chat):
            return web.json_response(problem, status=problem["error"]["code"])
        request = _parse(body, self._options, is_chat=is_chat)
        if request.is_stream:
            return await self._stream(http, request)

        async def count(_token: str) -> None:
            request.emitted += 1

        try:
            if self._engine.has_other_weights:
                request.tokens[:1] = ["woken "]
            await self._engine.generate(request.prompt, request.tokens, count)
        except (AbortedError, EngineDeadError) as problem:
            return web.json_response(internal_error(str(problem)), status=500)
        self._engine.counters.finished[request.finish_reason] += 1
        return web.json_response(request.whole())

    def _refusal(self, body: Json, *, is_chat: bool) -> Json | None:
        model = body.get("model") or self._options.served_names[0]
        if model not in self._options.served_names:
            aliases = ", ".join(self._options.served_names)
            message = f"The model `{model}` does not exist. Valid aliases: {aliases}"
            return error(404, "NotFoundError", message, "model")
        if not body.get("messages" if is_chat else "prompt"):
            return error(400, "BadRequestError", "Field required", "messages")
        if is_chat and (why := tool_refusal(body, self._options)):
            return error(400, "BadRequestError", why)
        if self.is_draining or self._behaviour.health_200_but_completions_500:
            return internal_error("cannot schedule new futures after shutdown")
        return internal_error(str(EngineDeadError())) if self._engine.is_dead else None

    async def _stream(self, http: web.Request, request: _Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(http)  # before the first token: a frozen engine shows a 200

        async def send(chunk: Json) -> None:
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())

        await self._send_tokens(request, send)
        # Seen on 0.32: an aborted stream looks finished, [DONE] included.
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _send_tokens(
        self, request: _Request, send: Callable[[Json], Awaitable[None]]
    ) -> None:
        async def emit(token: str) -> None:
            if request.is_chat and not request.emitted:
                await send(request.chunk("", role=True))
            request.emitted += 1
            for chunk in request.token_chunks(token):
                await send(chunk)

        try:
            await self._engine.generate(request.prompt, request.tokens, emit)
        except EngineDeadError as problem:
            await send(internal_error(str(problem)))
            return
        except AbortedError:
            request.finish_reason = "abort"
        await send(request.last_chunk())
        self._engine.counters.finished[request.finish_reason] += 1
        if request.wants_usage:
            await send(request.usage_chunk())


def _parse(body: Json, options: ServeOptions, *, is_chat: bool) -> _Request:
    prompt = _last_user_message(body["messages"]) if is_chat else str(body["prompt"])
    tokens = re.findall(r"\S+\s*|\s+", f"fake: {prompt}")
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or len(tokens)
    if body.get("ignore_eos"):  # the way to ask vLLM for a stream of a given length
        tokens = list(itertools.islice(itertools.cycle(tokens), limit))
    is_cut = limit < len(tokens) or bool(body.get("ignore_eos"))
    return _Request(
        is_chat=is_chat,
        model=body.get("model") or options.served_names[0],
        prompt=prompt,
        tokens=tokens[:limit],
        finish_reason="length" if is_cut else "stop",
        is_stream=bool(body.get("stream")),
        wants_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        tools=ToolParser() if is_chat and body.get("tools") else None,
        id=("chatcmpl-" if is_chat else "cmpl-") + uuid.uuid4().hex[:16],
    )


def _last_user_message(messages: list[Json]) -> str:
    for message in reversed(messages):
        if message.get("role") == "user":
            content = message.get("content") or ""
            if isinstance(content, str):
                return content
            return "".join(part.get("text", "") for part in content)
    return ""
