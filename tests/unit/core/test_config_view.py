"""Every setting with its origin, what a change of it does, and no secret in any of it."""

from dataclasses import replace

import pytest

from cahoots_vllm.core.config_view import (
    ConfigEntry,
    Effect,
    config_changes,
    config_entries,
    refuse_lost_provider,
    without_password,
    worker_effect,
)
from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.core.memory import MemoryLimits
from cahoots_vllm.core.secret import Secret
from cahoots_vllm.core.settings import (
    EngineInfo,
    GatewaySettings,
    Profile,
    Settings,
    SleepSettings,
    StandbyMode,
    WorkerSettings,
)
from cahoots_vllm.core.wire import SwapStrategy

OLD, NEW = "hf_" + "oldPrivate" * 2, "hf_" + "newPrivate" * 2
ENV = "/etc/cahoots-vllm/.env"
PROFILE = Profile(
    "org/a", "a.toml", source="/models/a", options=(("dtype", "half"), ("seed", 1))
)  # fmt: skip
SETTINGS = Settings(
    provider="local",
    configured_model="org/a",
    engine=EngineInfo("/engine", "0.32.0"),
    cache_dir="/cache",
    env_file=ENV,
    profiles=(PROFILE,),
    options=(("seed", 7), ("max-model-len", 2048)),
    worker_env=(("VLLM_LOGGING_LEVEL", "DEBUG"),),
    secret_env=(("HF_TOKEN", Secret(OLD)),),
    origins=(
        ("HUGGINGFACE_API_KEY", f"{ENV}, line 4"),
        ("LLM_PROVIDER", f"{ENV}, line 1"),
        ("gateway.hold_max", "/etc/cahoots-vllm/cahoots-vllm.toml"),
        ("options.max-model-len", "/etc/cahoots-vllm/cahoots-vllm.toml"),
        ("options.seed", "/etc/cahoots-vllm/cahoots-vllm.toml"),
    ),
)


def entry(settings: Settings, key: str) -> ConfigEntry:
    found = [each for each in config_entries(settings) if each.key == key]
    assert len(found) == 1, found
    return found[0]


def with_secrets(**values: str) -> Settings:
    pairs = sorted(values.items())
    return replace(SETTINGS, secret_env=tuple((name, Secret(text)) for name, text in pairs))


@pytest.mark.parametrize(
    ("key", "value", "origin"),
    [
        ("LLM_PROVIDER", "local", f"{ENV}, line 1"),
        ("LOCAL_LLM_URL", "http://localhost:8001/v1", "default"),
        ("HUGGINGFACE_API_KEY", "***", f"{ENV}, line 4"),
        ("VLLM_LOGGING_LEVEL", "DEBUG", "default"),
        ("gateway.hold_max", 1000, "/etc/cahoots-vllm/cahoots-vllm.toml"),
        ("gateway.hold_timeout_s", 600.0, "default"),
        ("memory.floor", 0.5, "default"),
        ("options.max-model-len", 2048, "/etc/cahoots-vllm/cahoots-vllm.toml"),
        ("options.dtype", "half", "profile a.toml"),
        ("options.seed", 1, "profile a.toml"),  # though the configuration sets it as well
        ("options.gpu-memory-utilization", 0.9, "default"),
    ],
)
def test_setting_has_its_value_and_where_it_comes_from(
    key: str, value: object, origin: str
) -> None:
    found = entry(SETTINGS, key)
    assert (found.value, found.origin) == (value, origin)


def test_every_key_stands_once_and_what_env_file_says_comes_first() -> None:
    keys = [each.key for each in config_entries(SETTINGS)]
    assert len(keys) == len(set(keys))
    assert keys[:4] == ["LLM_PROVIDER", "LOCAL_LLM_MODEL", "LOCAL_LLM_URL", "HUGGINGFACE_API_KEY"]
    assert "gateway.port" not in keys  # LOCAL_LLM_URL says it
    assert not any("token" in key.lower() for key in keys[4:])


def test_default_that_the_cpu_build_changes_says_so() -> None:
    on_cpu = replace(SETTINGS, engine=EngineInfo("/engine", "0.32.0+cpu"))
    assert entry(on_cpu, "options.gpu-memory-utilization").origin == "default on CPU"
    set_by_hand = replace(
        on_cpu,
        options=(("gpu-memory-utilization", 0.3),),
        origins=(("options.gpu-memory-utilization", "/c.toml"),),
    )
    found = entry(set_by_hand, "options.gpu-memory-utilization")
    assert (found.value, found.origin) == (0.3, "/c.toml")


def test_options_are_those_of_the_model_that_is_wanted_now() -> None:
    other = Profile("org/b", "b.toml", source="/models/b", options=(("dtype", "float32"),))
    swapped = replace(SETTINGS, profiles=(PROFILE, other), override="org/b")
    assert entry(swapped, "options.dtype").origin == "profile b.toml"
    assert entry(swapped, "LOCAL_LLM_MODEL").value == "org/a"
    shown = entry(swapped, "override")
    assert (shown.value, shown.origin) == ("org/b", "swap-model")
    assert "override" not in [each.key for each in config_entries(SETTINGS)]


def test_token_goes_by_the_name_it_was_given() -> None:
    named = replace(SETTINGS, origins=(("HF_TOKEN", f"{ENV}, line 2"),))
    assert entry(named, "HF_TOKEN").value == "***"
    unset = replace(SETTINGS, secret_env=(), origins=())
    assert entry(unset, "HUGGINGFACE_API_KEY").value is None


def test_no_secret_is_in_what_is_shown() -> None:
    settings = replace(
        with_secrets(HF_TOKEN=OLD, VLLM_API_KEY=NEW),
        url=f"http://user:{NEW}@localhost:8001/v1",
        worker_env=(("HF_ENDPOINT", f"https://user:{OLD}@mirror.example/hf"),),
    )
    told = repr(config_entries(settings))
    assert OLD not in told
    assert NEW not in told
    assert entry(settings, "LOCAL_LLM_URL").value == "http://***@localhost:8001/v1"
    assert entry(settings, "HF_ENDPOINT").value == "https://***@mirror.example/hf"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://localhost:8001/v1", "http://localhost:8001/v1"),
        ("http://me:pass@host/v1", "http://***@host/v1"),
        ("http://me:p@ss@host/v1", "http://***@host/v1"),  # unquoted, as people write it
        ("http://host/v1?to=me@example.org", "http://host/v1?to=me@example.org"),
        ("a@b", "a@b"),
    ],
)
def test_password_in_a_url_is_masked(text: str, shown: str) -> None:
    assert without_password(text) == shown


def test_nothing_changed_is_no_change() -> None:
    assert config_changes(SETTINGS, SETTINGS) == ()
    moved = replace(SETTINGS, origins=(), warnings=("new",))
    assert config_changes(SETTINGS, moved) == ()  # a line that only moved in its file


@pytest.mark.parametrize(
    ("before", "after"),
    [(None, "***"), ("***", None), ("***", "***")],
    ids=["new", "gone", "other"],
)
def test_token_is_told_by_name_only_and_waits_for_the_next_start(
    before: str | None, after: str | None
) -> None:
    old = with_secrets(**({"HF_TOKEN": OLD} if before else {}))
    new = with_secrets(**({"HF_TOKEN": NEW} if after else {}))
    changes = config_changes(old, new)
    assert [(c.key, c.before, c.after, c.effect) for c in changes] == [
        ("HUGGINGFACE_API_KEY", before, after, Effect.NEXT_START)
    ]
    assert OLD not in repr(changes)
    assert NEW not in repr(changes)


def test_another_secret_is_told_by_name_only() -> None:
    old = with_secrets(HF_TOKEN=OLD, VLLM_API_KEY="old-private")
    new = with_secrets(HF_TOKEN=OLD, VLLM_API_KEY="new-private")
    changes = config_changes(old, new)
    assert [(c.key, c.effect) for c in changes] == [("VLLM_API_KEY", Effect.NEXT_START)]
    assert "private" not in repr(changes)


def test_password_of_a_mirror_is_a_change_that_does_not_show_it() -> None:
    old, new = (
        replace(SETTINGS, worker_env=(("HF_ENDPOINT", f"https://u:{text}@mirror.example"),))
        for text in (OLD, NEW)
    )
    changes = config_changes(old, new)
    assert [(c.key, c.before, c.after) for c in changes] == [
        ("HF_ENDPOINT", "https://***@mirror.example", "https://***@mirror.example")
    ]


def test_keys_are_counted_and_a_rotated_one_is_a_change_that_does_not_show_it() -> None:
    old, new = (
        replace(SETTINGS, gateway=replace(SETTINGS.gateway, api_keys=(digest, "0c" * 32)))
        for digest in ("0a" * 32, "0b" * 32)
    )
    assert entry(old, "gateway.api_keys").value == ("***", "***")
    changes = config_changes(old, new)
    assert [(c.key, c.effect) for c in changes] == [("gateway.api_keys", Effect.LIVE)]
    assert "0a0a" not in repr((changes, config_entries(old)))


GATEWAY = SETTINGS.gateway
CHANGES: dict[str, tuple[Settings, dict[str, Effect]]] = {
    "port": (
        replace(SETTINGS, url="http://localhost:9001/v1", gateway=replace(GATEWAY, port=9001)),
        {"LOCAL_LLM_URL": Effect.REBIND},
    ),
    "path": (
        replace(SETTINGS, url="http://localhost:8001/x", gateway=replace(GATEWAY, base_path="/x")),
        {"LOCAL_LLM_URL": Effect.LIVE},
    ),
    "listen": (
        replace(SETTINGS, gateway=replace(GATEWAY, listen=("127.0.0.1",))),
        {"gateway.listen": Effect.REBIND},
    ),
    "keys": (
        replace(SETTINGS, gateway=replace(GATEWAY, api_keys=("0a" * 32,), origins=("*",))),
        {"gateway.origins": Effect.LIVE, "gateway.api_keys": Effect.LIVE},
    ),
    "patience": (
        replace(
            SETTINGS,
            gateway=GatewaySettings(hold_max=1),
            worker=WorkerSettings(stop_grace_s=1.0),
            memory=MemoryLimits(floor=700),
        ),
        {
            "gateway.hold_max": Effect.LIVE,
            "worker.stop_grace_s": Effect.LIVE,
            "memory.floor": Effect.LIVE,
        },
    ),
    "standby": (replace(SETTINGS, standby=StandbyMode.ON), {"standby": Effect.LIVE}),
    "way to swap": (
        replace(SETTINGS, swap=SwapStrategy.SEQUENTIAL, sleep=SleepSettings(timeout_s=30.0)),
        {"swap.strategy": Effect.LIVE, "swap.sleep_timeout_s": Effect.LIVE},
    ),
    "swaps by sleep": (  # the worker has to be started so that it can
        replace(SETTINGS, swap=SwapStrategy.SLEEP),
        {"swap.strategy": Effect.SWAP, "options.enable-sleep-mode": Effect.SWAP},
    ),
    "environment": (
        replace(SETTINGS, worker_env=(("VLLM_LOGGING_LEVEL", "INFO"),)),
        {"VLLM_LOGGING_LEVEL": Effect.SWAP},
    ),
    "option that the profile overrules": (
        replace(SETTINGS, options=(("seed", 8), ("max-model-len", 2048))),
        {},
    ),
    "option": (
        replace(SETTINGS, options=(("seed", 7), ("max-model-len", 1024))),
        {"options.max-model-len": Effect.SWAP},
    ),
    "provider elsewhere": (
        replace(SETTINGS, provider="openai"),
        {"LLM_PROVIDER": Effect.STOP},
    ),
    "engine": (
        replace(SETTINGS, engine=EngineInfo("/engine2", "0.33.0")),
        {"engine.path": Effect.SWAP},
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_change_is_told_with_what_it_does(name: str) -> None:
    new, expected = CHANGES[name]
    assert {c.key: c.effect for c in config_changes(SETTINGS, new)} == expected


def test_provider_decides_before_anything_else() -> None:
    elsewhere = replace(SETTINGS, provider="openai")
    assert worker_effect(elsewhere, SETTINGS) is Effect.START
    assert worker_effect(SETTINGS, elsewhere) is Effect.STOP
    other_model = replace(elsewhere, configured_model="org/b")
    assert worker_effect(elsewhere, other_model) is Effect.NOTHING
    assert worker_effect(SETTINGS, replace(SETTINGS, configured_model="org/b")) is Effect.SWAP


def test_lost_provider_is_refused_only_where_a_model_would_end() -> None:
    lost = replace(SETTINGS, provider=None)
    with pytest.raises(CahootsError, match="LLM_PROVIDER is not there any more"):
        refuse_lost_provider(SETTINGS, lost)
    refuse_lost_provider(replace(SETTINGS, provider="openai"), lost)
    refuse_lost_provider(SETTINGS, replace(SETTINGS, provider="openai"))
