"""Random prompts of an exact number of tokens, made with the engine's own tokenizer.

As `vllm bench serve --dataset-name random` does (vLLM 0.32, `benchmarks/datasets/datasets.py`,
`RandomDataset`): random tokens to text, back to tokens, cut or filled up until the number stays.
Which tokens there are is learned from the tokenizer too, by random words: the API names no
vocabulary. No two prompts share a beginning, so the prefix cache has nothing of one for another.
"""

import http.client
import json
import random
import socket
from typing import Any, Final

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.ctl.bench_load import Prompt, Route

_TIMEOUT_S: Final = 60.0
_ROUNDS: Final = 30
_WORDS: Final = 2000
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_OK: Final = 200


class Asker:
    """Asks the engine questions before and between what is measured."""

    def __init__(self, route: Route) -> None:
        """Connect with the first question."""
        self._headers = {"Content-Type": "application/json"}
        if route.key:
            self._headers["Authorization"] = f"Bearer {route.key}"
        if isinstance(route.address, str):
            self._connection: http.client.HTTPConnection = _UnixConnection(route.address)
        else:
            self._connection = http.client.HTTPConnection(*route.address, timeout=_TIMEOUT_S)
        self._prefix = route.prefix

    def models(self) -> list[dict[str, Any]]:
        """Return what the engine says it serves."""
        return list(self._ask("GET", f"{self._prefix}/models", None)["data"])

    def tokens_of(self, model: str, text: str, *, with_special: bool = False) -> list[int]:
        """Return a text's tokens."""
        body = {"model": model, "prompt": text, "add_special_tokens": with_special}
        return list(self._ask("POST", "/tokenize", body)["tokens"])

    def text_of(self, model: str, tokens: list[int]) -> str:
        """Return the text of tokens."""
        return str(self._ask("POST", "/detokenize", {"model": model, "tokens": tokens})["prompt"])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """Return the JSON object answered. Raises CahootsError (UNREACHABLE, NOT_PERMITTED)."""
        content = None if body is None else json.dumps(body)
        try:
            self._connection.request(method, path, content, self._headers)
            response = self._connection.getresponse()
            raw = response.read()
            if response.status == _OK:
                document: dict[str, Any] = json.loads(raw)
                return document
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            raise _unusable(path, str(error)) from error
        if response.status in (401, 403):
            raise CahootsError(
                Kind.NOT_PERMITTED,
                "cannot measure: the gateway asks for a key",
                "give a client's key: OPENAI_API_KEY=KEY cahootsctl bench",
            )
        raise _unusable(path, f"{response.status} {response.reason}")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(self._path)


def _unusable(path: str, reason: str) -> CahootsError:
    return CahootsError(
        Kind.UNREACHABLE,
        f"cannot measure: {path} does not answer ({reason})",
        "`cahootsctl status` says how the worker is doing",
    )


class PromptMaker:
    """Makes prompts of one model, the same for the same seed."""

    def __init__(self, asker: Asker, model: str, seed: int) -> None:
        """Learn what tokens there are. Raises CahootsError."""
        self._asker, self._model = asker, model
        self._random = random.Random(seed)  # noqa: S311 (a load, no secret)
        words = (
            "".join(self._random.choices(_LETTERS, k=self._random.randint(2, 9)))
            for _ in range(_WORDS)
        )
        self._tokens = sorted(set(asker.tokens_of(model, " ".join(words))))
        plain, whole = (len(asker.tokens_of(model, "a", with_special=w)) for w in (False, True))
        self._special = whole - plain

    def make(self, count: int, input_tokens: int, output_tokens: int) -> list[Prompt]:
        """Return prompts of exactly so many tokens. Raises CahootsError."""
        return [
            Prompt(self._text(input_tokens - self._special), input_tokens, output_tokens)
            for _ in range(count)
        ]

    def _text(self, wanted: int) -> str:
        tokens = self._random.choices(self._tokens, k=max(wanted, 1))
        for _ in range(_ROUNDS):
            text = self._asker.text_of(self._model, tokens)
            back = self._asker.tokens_of(self._model, text)
            if len(back) == wanted:
                return text
            more = self._random.choices(self._tokens, k=max(wanted - len(back), 0))
            tokens = back[:wanted] + more
        raise CahootsError(
            Kind.BAD_REQUEST,
            f"cannot make prompts of {wanted} tokens: the tokenizer does not keep a length",
            "try another number: --input-tokens",
        )
