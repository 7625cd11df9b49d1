"""`.env` and the configuration: readable, private, and not at odds with themselves."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cahoots_vllm.core.doctor.finding import Finding, Findings, Group, Judge, or_ok
from cahoots_vllm.core.env_values import TOKEN_KEYS
from cahoots_vllm.core.settings import Settings

_SETTINGS: Final = Judge("settings", Group.SETTINGS)
_ENV: Final = Judge("env-file", Group.SETTINGS)
_KEYS: Final = Judge("env-keys", Group.SETTINGS)
_OTHERS_READ: Final = 0o004
_OTHERS_WRITE: Final = 0o002


@dataclass(frozen=True, slots=True)
class EnvFileFacts:
    """`.env` on disk: its mode, whether it holds a secret, which keys stand in it."""

    path: str
    mode: int | None
    has_secret: bool
    keys: frozenset[str] = frozenset()
    token_keys_differ: bool = False


def judge_settings(error: str | None, remedy: str, warnings: tuple[str, ...]) -> Findings:
    """Say whether they can be read; `error` is why the files as they are cannot be used."""
    if error is not None:
        return (_SETTINGS.fail(error, remedy or "cahootsctl config check says more"),)
    found = [_SETTINGS.warn(text, "cahootsctl config check") for text in warnings]
    return or_ok(found, _SETTINGS.ok("they are read and make sense"))


def judge_env_file(facts: EnvFileFacts) -> Findings:
    """Say who may read `.env`."""
    if facts.mode is None:
        return ()
    mode = f"{facts.mode & 0o7777:04o}"
    if facts.has_secret and facts.mode & _OTHERS_READ:
        said = f"{facts.path} has a token in it, and everybody on this host may read it ({mode})"
        return (_ENV.warn(said, f"chmod o-rwx {facts.path}"),)
    if facts.mode & _OTHERS_WRITE:
        said = f"everybody on this host may write {facts.path} ({mode}), and say what is served"
        return (_ENV.warn(said, f"chmod o-w {facts.path}"),)
    return (_ENV.ok(f"{facts.path}, mode {mode}"),)


def judge_env_keys(facts: EnvFileFacts, settings: Settings, gpu_count: int) -> Findings:
    """Name keys of `.env` that work against each other or against the daemon."""
    found = list(_odd_keys(facts, dict(settings.worker_env), settings, gpu_count))
    return or_ok(found, _KEYS.ok("none that are at odds"))


def _odd_keys(
    facts: EnvFileFacts, env: dict[str, str], settings: Settings, gpu_count: int
) -> Iterator[Finding]:
    if "VLLM_API_KEY" in facts.keys & {name for name, _ in settings.secret_env}:
        said = "VLLM_API_KEY is set: the engine refuses requests without it, and Cahoots sends none"
        remedy = "take it out; gateway.api_keys in cahoots-vllm.toml asks for a key instead"
        yield _KEYS.warn(said, remedy)
    if facts.token_keys_differ:
        said = f"{' and '.join(TOKEN_KEYS)} hold different tokens: {TOKEN_KEYS[0]} counts"
        yield _KEYS.warn(said, "keep one of them")
    if "VLLM_PORT" in env:
        said = "VLLM_PORT is set: vLLM takes it for its processes' own ports, and may not start"
        yield _KEYS.warn(said, "take it out; the port is LOCAL_LLM_URL's")
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        if name in env:
            said = f"{name} is set: the worker and the downloader use another cache than the daemon"
            yield _KEYS.warn(said, f"take it out; the cache is {settings.cache_dir}/huggingface")
    yield from _odd_devices(env.get("CUDA_VISIBLE_DEVICES"), gpu_count, settings)


def _odd_devices(visible: str | None, gpu_count: int, settings: Settings) -> Iterator[Finding]:
    if visible is None or settings.engine.is_cpu:
        return
    entries = [entry.strip() for entry in visible.split(",")]
    unknown = [e for e in entries if e.lstrip("-").isdecimal() and not 0 <= int(e) < gpu_count]
    if unknown:
        said = f"CUDA_VISIBLE_DEVICES={visible}, and this host has {gpu_count} GPUs"
        yield _KEYS.fail(f"{said}: {unknown[0]} ends the list", "mend it, or take it out")
