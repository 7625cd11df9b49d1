"""Tool calls within what the model says, as `--tool-call-parser hermes` finds them.

The stand-in repeats its prompt, so a prompt with `<tool_call>{"name": ..., "arguments": ...}
</tool_call>` in it makes a call. Chunks are cut as seen of vLLM 0.32: the name, then the arguments
in pieces, then an empty delta with the finish reason.
"""

import json
import uuid
from typing import Any

from fake_vllm.options import ServeOptions

Json = dict[str, Any]
_START, _END = "<tool_call>", "</tool_call>"
_REFUSED = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'


def refusal(body: Json, options: ServeOptions) -> str | None:
    """Return why a request with tools is refused (chat_completion/serving.py, protocol.py)."""
    if body.get("tools") == []:
        return "`tools` must not be an empty array. Either provide at least one tool or omit it."
    can = {"enable_auto_tool_choice", "tool_call_parser"} <= options.non_default.keys()
    return None if can or not body.get("tools") else _REFUSED


class ToolParser:
    """Takes tokens, gives deltas; keeps the calls for an answer that is no stream."""

    def __init__(self) -> None:
        self.content = ""
        self.calls: list[Json] = []
        self._inside: str | None = None

    def take(self, token: str) -> list[Json]:
        if self._inside is None:
            before, start, after = token.partition(_START)
            self.content += before
            self._inside = after if start else None
            return ([{"content": before}] if before else []) + (self._close() if start else [])
        self._inside += token
        return self._close()

    def _close(self) -> list[Json]:
        inside, end, after = (self._inside or "").partition(_END)
        if not end:
            return []
        parsed = json.loads(inside)
        name, arguments = parsed["name"], json.dumps(parsed["arguments"])
        id_, index = f"chatcmpl-tool-{uuid.uuid4().hex[:16]}", len(self.calls)
        function = {"name": name, "arguments": arguments}
        self.calls.append({"id": id_, "type": "function", "function": function})
        head = {"id": id_, "type": "function", "index": index, "function": {"name": name}}
        pieces = [arguments[:1], arguments[1:]]
        deltas = [head, *({"index": index, "function": {"arguments": p}} for p in pieces)]
        self._inside = None
        return [{"content": None, "tool_calls": [d]} for d in deltas] + self.take(after)
