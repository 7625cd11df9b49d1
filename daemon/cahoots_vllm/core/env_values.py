"""What `.env` says, in Cahoots' own meaning of the keys (DESIGN §4); not how it is read."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from cahoots_vllm.core.addresses import is_exposed, is_loopback_name, unix_path
from cahoots_vllm.core.api_keys import read_key
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.secret import Secret, is_secret_name
from cahoots_vllm.core.settings import GUIDE_MODEL, GUIDE_URL, LOCAL_PROVIDER

_PROVIDER, _MODEL, _URL = "LLM_PROVIDER", "LOCAL_LLM_MODEL", "LOCAL_LLM_URL"
_PASSED_THROUGH = ("VLLM_", "HF_", "CUDA_", "NCCL_")
_MAX_MODEL_NAME = 512
# How alike two words are (difflib): "lcoal" and "local" 0.8, "ollama" and "local" 0.4.
_SLIP, _NEARLY = 0.8, 0.9
TOKEN_KEYS = ("HUGGINGFACE_API_KEY", "HF_TOKEN")


@dataclass(frozen=True, slots=True)
class EnvValues:
    """What `.env` says, in Cahoots' own meaning of the keys (DESIGN §4)."""

    provider: str | None
    model: str
    url: str
    gateway_port: int
    base_path: str
    # The URL's host, and the digest of the key in it: http://NAME:KEY@host:8001/v1.
    url_host: str
    url_key: str | None
    worker_env: tuple[tuple[str, str], ...]
    secret_env: tuple[tuple[str, Secret], ...]
    warnings: tuple[str, ...]


def read_env(
    values: Mapping[str, str],
    lines: Mapping[str, int],
    env_file: str,
    elsewhere: Mapping[str, str] | None = None,
) -> EnvValues:
    """Turn the key/value pairs of `.env` into settings; everything else is Cahoots' business.

    `lines` has the line of each key, `elsewhere` the origin of one that is not in `.env`. Raises
    CahootsError (BAD_SETTINGS) naming the line, the key, the reason and the remedy.
    """
    places = _Places(env_file, lines, elsewhere or {})
    url = values.get(_URL) or GUIDE_URL
    parts = _read_url(url, places)
    url_key, odd_key = _read_key(parts, places)
    passed = {k: v for k, v in values.items() if k.startswith(_PASSED_THROUGH) and v}
    secrets = {k: Secret(v) for k, v in passed.items() if is_secret_name(k)}
    secrets |= _read_token(values, places)
    known = [secret.reveal() for secret in secrets.values()]
    # A name with a token in it is a line that lacks its "=": told nowhere, and of no use to vLLM.
    passed = {k: v for k, v in passed.items() if not any(text in k for text in known)}
    # A token that was pasted into a line too many is one there too.
    secrets |= {k: Secret(v) for k, v in passed.items() if any(text in v for text in known)}
    provider = _read_provider(values, places)
    return EnvValues(
        provider=provider,
        model=_read_model(values, places),
        url=url,
        gateway_port=80 if parts.port is None else parts.port,
        base_path=parts.path.rstrip("/"),
        url_host=(parts.hostname or "").lower(),
        url_key=url_key,
        worker_env=tuple(sorted((k, v) for k, v in passed.items() if k not in secrets)),
        secret_env=tuple(sorted(secrets.items(), key=lambda pair: pair[0])),
        warnings=odd_key + _typos(values, places),
    )


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the keys of a `.env` stand."""

    file: str
    lines: Mapping[str, int]
    elsewhere: Mapping[str, str]

    def bad(self, key: str, reason: str, remedy: str) -> CahootsError:
        return CahootsError(
            Kind.BAD_SETTINGS, f"cannot use {key} in {self.of(key)}: {reason}", remedy
        )

    def of(self, key: str) -> str:
        if key in self.elsewhere:
            return self.elsewhere[key]
        number = self.lines.get(key)
        return f"{self.file}, line {number}" if number is not None else self.file


def _read_provider(values: Mapping[str, str], places: _Places) -> str | None:
    provider = (values.get(_PROVIDER) or "").strip().lower() or None
    # Any other provider stops the worker: a slip of the pen must not.
    if provider not in {None, LOCAL_PROVIDER} and difflib.get_close_matches(
        provider or "", [LOCAL_PROVIDER], cutoff=_SLIP
    ):
        reason = f"{provider!r} is no provider, and nearly {LOCAL_PROVIDER!r}"
        raise places.bad(_PROVIDER, reason, f"did you mean {LOCAL_PROVIDER}?")
    return provider


def _read_model(values: Mapping[str, str], places: _Places) -> str:
    model = (values.get(_MODEL) or "").strip() or GUIDE_MODEL
    if not is_model_name(model):
        remedy = "give ORG/NAME, a profile's name or the absolute path of a model directory"
        reason = "too long, or with odd characters"
        raise places.bad(_MODEL, reason, remedy)
    return model


def is_model_name(model: str) -> bool:
    """Whether a text can name a model: it becomes an argument and a part of URLs and paths."""
    is_plain = model.isprintable() and model == model.strip() and not model.startswith("-")
    return bool(model) and len(model) <= _MAX_MODEL_NAME and is_plain


def _read_token(values: Mapping[str, str], places: _Places) -> dict[str, Secret]:
    key = next((key for key in TOKEN_KEYS if values.get(key)), None)
    if key is None:
        return {}
    token = values[key].strip()
    if not (token.isascii() and token.isprintable() and " " not in token):
        # Not shown, not even in part.
        raise places.bad(key, "a token has no blanks and no odd characters", "paste it once more")
    return {"HF_TOKEN": Secret(token)} if token else {}


def _typos(values: Mapping[str, str], places: _Places) -> tuple[str, ...]:
    """Name keys that are nearly ours: `.env` has many of Cahoots' own, so it is no error."""
    ours = (_PROVIDER, _URL, _MODEL, TOKEN_KEYS[0])
    found = []
    for key in values:
        near = difflib.get_close_matches(key.upper(), ours, n=1, cutoff=_NEARLY)
        if near and key not in ours and key.isidentifier():
            found.append(f"{places.of(key)}: {key} means nothing here; did you mean {near[0]}?")
    return tuple(found)


def _read_url(url: str, places: _Places) -> SplitResult:
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise _bad_url(url, places, str(error)) from error
    if parts.scheme != "http" or not host or port == 0:
        raise _bad_url(url, places, "it must be an http URL with a host and a port")
    return parts


def _read_key(parts: SplitResult, places: _Places) -> tuple[str | None, tuple[str, ...]]:
    """Return the digest of the key in the URL, or why its password is none.

    Cahoots' client sends it along, and knows no other way to send one.
    """
    if not parts.password:
        return None, ()
    try:
        return read_key(unquote(parts.password)), ()
    except ValueError as error:
        return None, (f"{places.of(_URL)}: the password in LOCAL_LLM_URL is no key: {error}",)


def unreached(env: EnvValues, listen: tuple[str, ...]) -> tuple[str, ...]:
    """Warn where the URL names a host whose clients find nobody listening."""
    host = env.url_host
    if is_loopback_name(host) or any(is_exposed(a) or unix_path(a) for a in listen):
        return ()
    return (
        (
            f"LOCAL_LLM_URL names {host}; the gateway listens on loopback, which Docker Desktop's "
            "containers reach and native Docker's do not: those need gateway.listen in "
            "cahoots-vllm.toml, with another address and a key (cahootsctl config key), or with a "
            "Unix socket"
        ),
    )


def _bad_url(url: str, places: _Places, reason: str) -> CahootsError:
    # Not taken apart to be shown: what cannot be parsed raises here again. What is no URL at all
    # may be a secret in the wrong line.
    is_shown = url.startswith("http") and "@" not in url
    shown = re.split("[?#]", url, maxsplit=1)[0] if is_shown else "it"
    return places.bad(_URL, f"{shown}: {reason}", f"set it to something like {GUIDE_URL}")
