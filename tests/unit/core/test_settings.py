import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cahoots_vllm.core.api_keys import digest_of
from cahoots_vllm.core.env_values import EnvValues, read_env, unreached
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.launch import (
    DEV_MODE,
    SLEEP_OPTION,
    LaunchSpec,
    Options,
    build_argv,
    build_env,
    can_sleep,
)
from cahoots_vllm.core.secret import Secret
from cahoots_vllm.core.settings import (
    GUIDE_MODEL,
    GUIDE_URL,
    EngineInfo,
    Profile,
    Settings,
    find_profile,
    make_launch_spec,
)
from cahoots_vllm.core.wire import SwapStrategy

ENV_FILE = "/etc/cahoots-vllm/.env"
TOKEN = "hf_veryPrivate123"  # noqa: S105 (no real one)
GUIDE_PROFILE = Profile(
    name="Qwen/Qwen3-32B-Instruct",
    file="/etc/cahoots-vllm/models.d/qwen3-32b-instruct.toml",
    source="Qwen/Qwen3-32B-AWQ",
    options=(("quantization", "awq"),),
)
DEMO_PROFILE = Profile(name="demo", file="/models.d/demo.toml", source="{cache}/demo")
SETTINGS = Settings(
    provider="local",
    configured_model=GUIDE_MODEL,
    engine=EngineInfo("/engine", "0.33.0"),
    cache_dir="/cache",
    env_file=ENV_FILE,
    profiles=(GUIDE_PROFILE, DEMO_PROFILE),
)
CPU_SETTINGS = replace(SETTINGS, engine=EngineInfo("/engine", "0.32.0+cpu"))


def _with_env(settings: Settings, **values: str) -> Settings:
    env = read_env(values, {}, ENV_FILE)
    return replace(
        settings,
        provider=env.provider,
        configured_model=env.model,
        worker_env=env.worker_env,
        secret_env=env.secret_env,
    )


def _option_set(argv: list[str]) -> set[str]:
    """Return an argv's options, each with its values, whatever their order."""
    return {f"--{part}".strip() for part in " ".join(argv).split(" --")[1:]}


def test_guides_command_is_reproduced_option_for_option() -> None:
    guide = (
        "vllm serve Qwen/Qwen3-32B-Instruct --quantization awq --dtype auto"
        " --max-model-len 32768 --gpu-memory-utilization 0.9 --enable-prefix-caching"
    )
    argv = build_argv(make_launch_spec(SETTINGS, GUIDE_MODEL), "/w.sock")
    ours = {"--uds", "--served-model-name", "--disable-access-log-for-endpoints"}
    options = {word for word in _option_set(argv) if word.split()[0] not in ours}
    assert options == _option_set(guide.split())


def test_guides_name_is_served_from_the_repo_that_exists_and_answers_to_both() -> None:
    spec = make_launch_spec(SETTINGS, GUIDE_MODEL)
    assert spec.source == "Qwen/Qwen3-32B-AWQ"
    assert spec.served == ("Qwen/Qwen3-32B-Instruct", "Qwen/Qwen3-32B-AWQ")
    assert spec.profile == GUIDE_PROFILE.file


def test_profile_is_found_by_the_repo_it_is_served_from() -> None:
    assert find_profile(SETTINGS, "Qwen/Qwen3-32B-AWQ") == GUIDE_PROFILE
    spec = make_launch_spec(SETTINGS, "Qwen/Qwen3-32B-AWQ")
    assert spec.option("quantization") == "awq"
    assert spec.served == ("Qwen/Qwen3-32B-AWQ", "Qwen/Qwen3-32B-Instruct")


def test_a_profiles_name_comes_before_another_ones_source() -> None:
    named = Profile(name="Qwen/Qwen3-32B-AWQ", file="own.toml")
    settings = replace(SETTINGS, profiles=(GUIDE_PROFILE, named))
    assert find_profile(settings, "Qwen/Qwen3-32B-AWQ") == named


def test_unknown_model_runs_on_the_defaults_without_quantization() -> None:
    spec = make_launch_spec(SETTINGS, "org/unknown")
    assert (spec.source, spec.served, spec.profile) == ("org/unknown", ("org/unknown",), None)
    assert dict(spec.options) == {
        "dtype": "auto",
        "max-model-len": 32768,
        "gpu-memory-utilization": 0.9,
        "enable-prefix-caching": True,
    }


def test_source_inside_the_cache_is_a_directory_and_no_name_to_answer_to() -> None:
    spec = make_launch_spec(SETTINGS, "demo")
    assert (spec.source, spec.served) == ("/cache/demo", ("demo",))


def test_model_that_is_a_directory_answers_to_its_path() -> None:
    assert make_launch_spec(SETTINGS, "/models/tiny").served == ("/models/tiny",)


def test_profile_wins_over_configuration_and_configuration_over_defaults() -> None:
    settings = replace(
        SETTINGS,
        options=(("dtype", "half"), ("quantization", "fp8"), ("max-model-len", 8192)),
    )
    spec = make_launch_spec(settings, GUIDE_MODEL)
    assert spec.option("quantization") == "awq"
    assert spec.option("dtype") == "half"
    assert spec.option("max-model-len") == 8192


def test_only_what_nobody_asked_for_may_be_fitted() -> None:
    settings = replace(SETTINGS, options=(("max-model-len", 32768),))
    assert make_launch_spec(settings, GUIDE_MODEL).fitted == {
        "dtype",
        "gpu-memory-utilization",
        "enable-prefix-caching",
    }


def test_cpu_engine_takes_less_of_the_hosts_memory_unless_told() -> None:
    assert make_launch_spec(CPU_SETTINGS, "org/a").option("gpu-memory-utilization") == 0.4
    told = replace(CPU_SETTINGS, options=(("gpu-memory-utilization", 0.7),))
    assert make_launch_spec(told, "org/a").option("gpu-memory-utilization") == 0.7


def test_revision_of_the_profile_is_in_the_spec() -> None:
    settings = replace(SETTINGS, profiles=(replace(GUIDE_PROFILE, revision="abc"),))
    assert make_launch_spec(settings, GUIDE_MODEL).revision == "abc"


def test_override_comes_before_the_configured_model() -> None:
    assert SETTINGS.wanted_model == GUIDE_MODEL
    assert replace(SETTINGS, override="org/b").wanted_model == "org/b"


@pytest.mark.parametrize("key", ["HUGGINGFACE_API_KEY", "HF_TOKEN"])
def test_token_is_never_shown(key: str) -> None:
    settings = _with_env(SETTINGS, **{key: TOKEN})
    assert dict(settings.secret_env)["HF_TOKEN"].reveal() == TOKEN
    spec = make_launch_spec(settings, GUIDE_MODEL)
    argv, env = build_argv(spec, "/w.sock"), build_env(spec, {}, "/cache", "0.33.0")
    for shown in (repr(settings), str(settings), repr(spec), " ".join(argv), repr(env)):
        assert TOKEN not in shown


@pytest.mark.parametrize("key", ["HUGGINGFACE_API_KEY", "HF_TOKEN", "VLLM_API_KEY"])
def test_rotated_secret_is_a_change_of_settings_but_not_of_the_launch_spec(key: str) -> None:
    before, after = _with_env(SETTINGS, **{key: "old"}), _with_env(SETTINGS, **{key: "new"})
    assert before != after
    assert make_launch_spec(before, GUIDE_MODEL) == make_launch_spec(after, GUIDE_MODEL)


def test_changed_variable_is_another_launch_spec() -> None:
    before = _with_env(SETTINGS, VLLM_LOGGING_LEVEL="INFO")
    after = _with_env(SETTINGS, VLLM_LOGGING_LEVEL="DEBUG")
    assert make_launch_spec(before, GUIDE_MODEL) != make_launch_spec(after, GUIDE_MODEL)


def test_cahoots_own_key_comes_before_the_hubs() -> None:
    env = read_env({"HF_TOKEN": "second", "HUGGINGFACE_API_KEY": "first"}, {}, ENV_FILE)
    assert env.secret_env == (("HF_TOKEN", Secret("first")),)


def test_empty_token_is_no_token() -> None:
    env = read_env({"HUGGINGFACE_API_KEY": "", "HF_TOKEN": "real"}, {}, ENV_FILE)
    assert env.secret_env == (("HF_TOKEN", Secret("real")),)


def test_only_the_workers_own_variables_are_passed() -> None:
    env = read_env(
        {
            "VLLM_LOGGING_LEVEL": "DEBUG",
            "HF_ENDPOINT": "http://mirror",
            "CUDA_VISIBLE_DEVICES": "0",
            "NCCL_DEBUG": "INFO",
            "VLLM_EMPTY": "",
            "OPENAI_API_KEY": "sk-1",
            "DATABASE_URL": "postgres://u:p@h/d",
            "PATH": "/evil",
        },
        {},
        ENV_FILE,
    )
    names = [name for name, _ in env.worker_env]
    assert names == ["CUDA_VISIBLE_DEVICES", "HF_ENDPOINT", "NCCL_DEBUG", "VLLM_LOGGING_LEVEL"]
    assert env.secret_env == ()


def test_secrets_among_the_passed_variables_are_kept_apart() -> None:
    env = read_env({"VLLM_API_KEY": "sk-1", "VLLM_LOGGING_LEVEL": "INFO"}, {}, ENV_FILE)
    assert env.worker_env == (("VLLM_LOGGING_LEVEL", "INFO"),)
    assert env.secret_env == (("VLLM_API_KEY", Secret("sk-1")),)


@given(st.permutations(["VLLM_A", "HF_B", "CUDA_C", "HF_TOKEN", "VLLM_D_KEY"]))
def test_order_of_lines_in_the_file_changes_nothing(names: list[str]) -> None:
    expected = read_env(dict.fromkeys(sorted(names), "x"), {}, ENV_FILE)
    assert read_env(dict.fromkeys(names, "x"), {}, ENV_FILE) == expected


def test_empty_env_means_the_guides_model_at_the_guides_address_and_no_provider() -> None:
    assert read_env({}, {}, ENV_FILE) == EnvValues(
        provider=None,
        url=GUIDE_URL,
        model="Qwen/Qwen3-32B-Instruct",
        gateway_port=8001,
        base_path="/v1",
        url_host="localhost",
        url_key=None,
        worker_env=(),
        secret_env=(),
        warnings=(),
    )


@pytest.mark.parametrize(
    ("value", "provider", "is_local"),
    [
        ("local", "local", True),
        (" Local ", "local", True),
        ("cerebras", "cerebras", False),
        ("mock", "mock", False),
        ("", None, False),
    ],
)
def test_provider_decides_whether_a_worker_runs(
    value: str, provider: str | None, *, is_local: bool
) -> None:
    settings = _with_env(SETTINGS, LLM_PROVIDER=value)
    assert (settings.provider, settings.is_local) == (provider, is_local)


@pytest.mark.parametrize(
    ("url", "port", "base_path"),
    [
        ("http://localhost:8001/v1", 8001, "/v1"),
        ("http://localhost:8001/v1/", 8001, "/v1"),
        ("http://127.0.0.1:9000", 9000, ""),
        ("http://127.1.2.3:9000/llm/v1", 9000, "/llm/v1"),
        ("http://[::1]:8001/v1", 8001, "/v1"),
        ("http://LOCALHOST:8001/v1", 8001, "/v1"),
        ("http://localhost/v1", 80, "/v1"),
    ],
)
def test_loopback_url_gives_the_gateways_port_without_a_warning(
    url: str, port: int, base_path: str
) -> None:
    env = read_env({"LOCAL_LLM_URL": url}, {}, ENV_FILE)
    assert (env.gateway_port, env.base_path, env.warnings) == (port, base_path, ())


def test_another_host_warns_that_containers_may_not_reach_it() -> None:
    env = read_env({"LOCAL_LLM_URL": "http://host.docker.internal:8001/v1"}, {}, ENV_FILE)
    (warning,) = unreached(env, ("127.0.0.1", "::1"))
    assert "host.docker.internal" in warning
    assert "gateway.listen" in warning
    assert "cahootsctl config key" in warning
    assert "Unix socket" in warning
    assert (env.gateway_port, env.warnings) == (8001, ())


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "172.17.0.1", "unix:/run/x.sock"])  # noqa: S104 (a text)
def test_nothing_is_warned_of_where_containers_reach_the_gateway(address: str) -> None:
    env = read_env({"LOCAL_LLM_URL": "http://host.docker.internal:8001/v1"}, {}, ENV_FILE)
    assert unreached(env, ("127.0.0.1", address)) == ()


def test_password_in_the_url_is_a_key_that_is_not_shown() -> None:
    key = "k" * 8 + "-_" + "9" * 8
    env = read_env({"LOCAL_LLM_URL": f"http://cahoots:{key}@host:8001/v1"}, {}, ENV_FILE)
    assert env.url_key == digest_of(key.encode())
    assert (env.url_host, env.gateway_port) == ("host", 8001)
    assert key not in repr(replace(env, url=""))


def test_password_too_short_for_a_key_is_a_warning_that_does_not_show_it() -> None:
    env = read_env({"LOCAL_LLM_URL": "http://me:pa55word@host:8001/v1"}, {}, ENV_FILE)
    assert env.url_key is None
    assert "16 characters" in env.warnings[0]
    assert "pa55word" not in env.warnings[0]


@pytest.mark.parametrize(
    "url",
    [
        "https://localhost:8001/v1",
        "localhost:8001",
        "http://:8001/v1",
        "http://localhost:80a/v1",
        "http://localhost:99999/v1",
        "http://localhost:0/v1",
        "http://[::1/v1",
        "nonsense",
    ],
)
def test_bad_url_is_refused_with_key_file_and_remedy(url: str) -> None:
    with pytest.raises(CahootsError) as caught:
        read_env({"LOCAL_LLM_URL": url}, {}, ENV_FILE)
    assert caught.value.kind is Kind.BAD_SETTINGS
    assert f"cannot use LOCAL_LLM_URL in {ENV_FILE}" in caught.value.message
    assert "http://localhost:8001/v1" in caught.value.remedy


@given(st.text() | st.from_regex(r"http://[a-z\[\]:@/.0-9]*"))
def test_any_url_is_read_or_refused(url: str) -> None:
    with contextlib.suppress(CahootsError):
        assert 0 < read_env({"LOCAL_LLM_URL": url}, {}, ENV_FILE).gateway_port < 65536


@pytest.mark.parametrize(
    "url",
    [
        "https://user:pa55word@localhost:8001/v1",
        "http://user:pa55word@localhost:x/v1",
        "https://localhost:8001/v1?key=pa55word",
    ],
)
def test_password_in_a_bad_url_is_not_repeated(url: str) -> None:
    with pytest.raises(CahootsError) as caught:
        read_env({"LOCAL_LLM_URL": url}, {}, ENV_FILE)
    assert "pa55word" not in str(caught.value)


@pytest.mark.parametrize(("version", "is_cpu"), [("0.32.0+cpu", True), ("0.33.0", False)])
def test_engine_tells_by_its_version_whether_it_is_the_cpu_build(
    version: str, *, is_cpu: bool
) -> None:
    assert EngineInfo("/engine", version).is_cpu is is_cpu


def test_equal_settings_make_equal_launch_specs() -> None:
    spec = make_launch_spec(SETTINGS, GUIDE_MODEL)
    assert spec == make_launch_spec(replace(SETTINGS), GUIDE_MODEL)
    assert isinstance(spec, LaunchSpec)


@pytest.mark.parametrize(
    ("strategy", "version", "profile", "sleeps"),
    [
        (SwapStrategy.SLEEP, "0.32.0", (), True),
        (SwapStrategy.SLEEP, "0.32.0+cpu", (), False),
        (SwapStrategy.AUTO, "0.32.0", (), False),
        (SwapStrategy.SLEEP, "0.32.0", ((SLEEP_OPTION, False),), False),
    ],
)
def test_workers_are_started_so_that_they_can_sleep_only_where_they_are_to(
    strategy: SwapStrategy, version: str, profile: Options, *, sleeps: bool
) -> None:
    given = replace(
        SETTINGS, swap=strategy, engine=EngineInfo("/engine", version),
        profiles=(Profile("org/a", "a.toml", options=profile),),
    )  # fmt: skip
    spec = make_launch_spec(given, "org/a")
    assert can_sleep(spec) is sleeps
    assert (DEV_MODE in dict(spec.env)) is sleeps
    assert SLEEP_OPTION not in spec.fitted
    if not profile:
        assert (spec.option(SLEEP_OPTION) is not None) is sleeps
