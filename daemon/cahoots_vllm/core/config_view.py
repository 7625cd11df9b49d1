"""Every setting with its value and where it comes from, and what a change of it would do."""

import re
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Final

from cahoots_vllm.core.amounts import GIB
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.launch import CPU_DEFAULT_UTILIZATION, SLEEP_OPTION, OptionValue
from cahoots_vllm.core.settings import Settings, find_profile, make_launch_spec

_DEFAULT: Final = "default"
_MASK: Final = "***"
_SHARE_UNIT = 1000
_LIVE_TABLES: Final = ("gateway.", "worker.", "swap.", "memory.")
_TOKEN_KEY, _TOKEN_ENV = "HUGGINGFACE_API_KEY", "HF_TOKEN"

# Up to the last @ before the path: a password may hold one, unquoted.
_USER_INFO: Final = re.compile(r"//[^/?#\s]+@")

Value = OptionValue | None


class Effect(StrEnum):
    """What a changed value does, as people read it."""

    NOTHING = "nothing"
    LIVE = "applied at once"
    NEXT_START = "used by the next start of the worker"
    REBIND = "the gateway listens anew"
    SWAP = "another worker"
    STOP = "the worker is stopped"
    START = "a worker is started"


@dataclass(frozen=True, slots=True)
class ConfigEntry:
    """One setting; `value` is fit to be shown, `secret` is what a change is told by."""

    key: str
    value: Value
    origin: str
    secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class KeyChange:
    """One setting that a reload would change, or did."""

    key: str
    before: Value
    after: Value
    effect: Effect


def config_entries(settings: Settings) -> tuple[ConfigEntry, ...]:
    """Return all settings in the order of their files: `.env`, configuration, options."""
    origins = dict(settings.origins)
    plain = [
        ("LLM_PROVIDER", settings.provider),
        ("LOCAL_LLM_MODEL", settings.configured_model),
        ("LOCAL_LLM_URL", without_password(settings.url)),
    ]
    entries = [ConfigEntry(k, v, origins.get(k, _DEFAULT)) for k, v in plain]
    entries.append(_token(settings, origins))
    entries += [
        ConfigEntry(k, without_password(v), origins.get(k, _DEFAULT), v)
        for k, v in settings.worker_env
    ]
    entries += [
        ConfigEntry(k, _MASK, origins.get(k, _DEFAULT), secret.reveal())
        for k, secret in settings.secret_env
        if k != _TOKEN_ENV
    ]
    entries += [ConfigEntry(k, v, origins.get(k, _DEFAULT)) for k, v in _of_the_daemon(settings)]
    entries.append(_api_keys(settings, origins))
    return (*entries, *_options(settings, origins), *_override(settings))


def without_password(text: str) -> str:
    """Mask what stands before the @ of a URL."""
    return _USER_INFO.sub(f"//{_MASK}@", text)


def _token(settings: Settings, origins: dict[str, str]) -> ConfigEntry:
    secret = dict(settings.secret_env).get(_TOKEN_ENV)
    key = _TOKEN_KEY if _TOKEN_KEY in origins or _TOKEN_ENV not in origins else _TOKEN_ENV
    if secret is None:
        return ConfigEntry(key, None, origins.get(key, _DEFAULT))
    return ConfigEntry(key, _MASK, origins.get(key, _DEFAULT), secret.reveal())


def _api_keys(settings: Settings, origins: dict[str, str]) -> ConfigEntry:
    """Return how many there are: not even a digest is shown."""
    key, digests = "gateway.api_keys", settings.gateway.api_keys
    return ConfigEntry(key, (_MASK,) * len(digests), origins.get(key, _DEFAULT), " ".join(digests))


def _of_the_daemon(settings: Settings) -> list[tuple[str, Value]]:
    memory, sleep = settings.memory, settings.sleep.memory_bytes
    gateway = asdict(settings.gateway)
    for derived in ("port", "base_path", "host", "api_keys"):  # of LOCAL_LLM_URL; a secret
        gateway.pop(derived)
    return [
        ("env_file", settings.env_file),
        ("engine.path", settings.engine.path),
        *((f"gateway.{name}", value) for name, value in gateway.items()),
        *((f"worker.{name}", value) for name, value in asdict(settings.worker).items()),
        ("standby", str(settings.standby)),
        ("swap.strategy", str(settings.swap)),
        ("swap.sleep_memory_gib", "auto" if sleep is None else sleep / GIB),
        ("swap.sleep_timeout_s", settings.sleep.timeout_s),
        ("memory.adapt", memory.adapt),
        ("memory.floor", memory.floor / _SHARE_UNIT),
        ("memory.step", memory.step / _SHARE_UNIT),
        ("memory.min_context", memory.min_context),
    ]


def _options(settings: Settings, origins: dict[str, str]) -> list[ConfigEntry]:
    """Return the options of the model that is wanted, by the layer that has the last word."""
    model = settings.wanted_model
    profile = find_profile(settings, model)
    by_profile = dict(profile.options) if profile is not None else {}
    found = []
    for name, value in make_launch_spec(settings, model).options:
        key = f"options.{name}"
        if profile is not None and name in by_profile:
            origin = f"profile {profile.file}"
        elif name == "gpu-memory-utilization" and key not in origins and settings.engine.is_cpu:
            origin = f"{_DEFAULT} on CPU" if value == CPU_DEFAULT_UTILIZATION else _DEFAULT
        elif name == SLEEP_OPTION and key not in origins:
            origin = "swap.strategy = sleep"
        else:
            origin = origins.get(key, _DEFAULT)
        found.append(ConfigEntry(key, value, origin))
    return found


def _override(settings: Settings) -> list[ConfigEntry]:
    if settings.override is None:
        return []
    return [ConfigEntry("override", settings.override, "swap-model")]


def config_changes(old: Settings, new: Settings) -> tuple[KeyChange, ...]:
    """Return what differs, key by key, each with what it does."""
    before = {entry.key: entry for entry in config_entries(old)}
    after = {entry.key: entry for entry in config_entries(new)}
    worker = worker_effect(old, new)
    found = []
    for key in (*before, *(key for key in after if key not in before)):
        a, b = before.get(key), after.get(key)
        was, is_ = (entry.value if entry is not None else None for entry in (a, b))
        if was == is_ and (a.secret if a else None) == (b.secret if b else None):
            continue
        found.append(KeyChange(key, was, is_, _effect(key, old, new, worker)))
    return tuple(found)


def worker_effect(old: Settings, new: Settings) -> Effect:
    """Return what becomes of the worker: only another launch spec is another worker."""
    if old.is_local and not new.is_local:
        return Effect.STOP
    if new.is_local and not old.is_local:
        return Effect.START
    if not new.is_local:
        return Effect.NOTHING
    was, is_ = (make_launch_spec(each, each.wanted_model) for each in (old, new))
    return Effect.NOTHING if was == is_ else Effect.SWAP


def refuse_lost_provider(old: Settings, new: Settings) -> None:
    """Raise CahootsError where a running model would end because a key is gone, or all of them.

    Another provider is a decision; a file that was emptied, or is half written, is none.
    """
    if old.is_local and new.provider is None:
        raise CahootsError(
            Kind.BAD_SETTINGS,
            f"cannot use {new.env_file}: LLM_PROVIDER is not there any more",
            "set it to local, or name another provider to stop the worker",
        )


def _effect(key: str, old: Settings, new: Settings, worker: Effect) -> Effect:
    if key in {"LOCAL_LLM_URL", "gateway.listen"}:
        is_bound_anew = (old.gateway.port, old.gateway.listen) != (
            new.gateway.port,
            new.gateway.listen,
        )
        return Effect.REBIND if is_bound_anew else Effect.LIVE
    if key in {_TOKEN_KEY, _TOKEN_ENV, *dict(new.secret_env), *dict(old.secret_env)}:
        return Effect.NEXT_START
    if key == "swap.strategy" and old.sleeps != new.sleeps:
        return worker
    if key.startswith(_LIVE_TABLES) or key in {"env_file", "override", "standby"}:
        return Effect.LIVE
    # What is left goes into the launch spec, or chooses it.
    return worker
