from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cahoots_vllm.core.launch import (
    DEFAULT_OPTIONS,
    RESERVED_OPTIONS,
    LaunchSpec,
    build_argv,
    build_env,
    inherited_env,
    merge_options,
    option_args,
)

SPEC = LaunchSpec(
    model="org/name",
    source="org/repo",
    engine="/engine",
    served=("org/name", "org/repo"),
    options=DEFAULT_OPTIONS,
)
UDS = "/run/worker-1.sock"
CACHE = "/cache"
VERSION = "0.33.0"


def _values_of(argv: list[str], option: str) -> list[str]:
    """Return what stands between an option and the next one."""
    rest = argv[argv.index(option) + 1 :]
    end = next((n for n, word in enumerate(rest) if word.startswith("--")), len(rest))
    return rest[:end]


def test_argv_runs_the_engine_of_the_spec_on_a_private_socket() -> None:
    argv = build_argv(SPEC, UDS)
    assert argv[:3] == ["/engine/bin/vllm", "serve", "org/repo"]
    assert _values_of(argv, "--uds") == [UDS]
    assert not {"--host", "--port", "--api-key"} & set(argv)


def test_worker_answers_to_every_served_name_the_configured_one_first() -> None:
    assert _values_of(build_argv(SPEC, UDS), "--served-model-name") == ["org/name", "org/repo"]


def test_worker_answers_to_the_model_when_no_name_is_given() -> None:
    argv = build_argv(replace(SPEC, served=()), UDS)
    assert _values_of(argv, "--served-model-name") == ["org/name"]


def test_revision_goes_to_the_hub_but_not_with_a_local_directory() -> None:
    assert _values_of(build_argv(replace(SPEC, revision="v2"), UDS), "--revision") == ["v2"]
    local = replace(SPEC, revision="v2", source="/snapshots/v2", is_local=True)
    assert "--revision" not in build_argv(local, UDS)
    assert "--revision" not in build_argv(SPEC, UDS)


def test_probes_do_not_fill_the_log() -> None:
    argv = build_argv(SPEC, UDS)
    assert _values_of(argv, "--disable-access-log-for-endpoints") == ["/health,/metrics,/ping"]


@pytest.mark.parametrize(
    ("value", "args"),
    [
        (True, ["--name"]),
        (False, ["--no-name"]),
        (0, ["--name", "0"]),
        (1, ["--name", "1"]),
        (-1, ["--name", "-1"]),
        (0.9, ["--name", "0.9"]),
        ("auto", ["--name", "auto"]),
        (("a", "b"), ["--name", "a", "b"]),
    ],
)
def test_option_becomes_arguments(
    value: bool | float | str | tuple[str, ...],  # noqa: FBT001 (an option's value, no switch)
    args: list[str],
) -> None:
    assert option_args((("name", value),)) == args


def test_reserved_options_are_the_ones_argv_sets_and_the_ones_that_would_cut_the_worker_off() -> (
    None
):
    # The engine answers on its socket alone, without a key, under the names the gateway knows.
    assert {"uds", "served-model-name", "model"} < RESERVED_OPTIONS
    assert {"host", "port", "api-key", "root-path", "ssl-keyfile"} < RESERVED_OPTIONS
    assert not RESERVED_OPTIONS & {name for name, _ in DEFAULT_OPTIONS}


def test_stronger_layer_wins_and_keeps_the_place_of_the_first_mention() -> None:
    merged = merge_options((("a", 1), ("b", 2)), (("b", 3), ("c", 4)), (("a", 5),))
    assert merged == (("a", 5), ("b", 3), ("c", 4))


OPTIONS = st.dictionaries(st.sampled_from("abcdef"), st.integers()).map(lambda d: tuple(d.items()))


@given(OPTIONS, OPTIONS)
def test_merging_names_each_option_once(weak: tuple[()], strong: tuple[()]) -> None:
    merged = merge_options(weak, strong)
    assert dict(merged) == {**dict(weak), **dict(strong)}
    assert len(merged) == len(dict(merged))


def test_one_option_can_be_read_and_changed() -> None:
    changed = SPEC.with_option("max-model-len", 4096).with_option("seed", 7)
    assert (changed.option("max-model-len"), changed.option("seed")) == (4096, 7)
    assert SPEC.option("max-model-len") == 32768
    assert SPEC.option("seed") is None
    assert changed != SPEC
    assert hash(changed) != hash(SPEC)


@pytest.mark.parametrize(
    "name",
    [
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "CREDENTIALS_DIRECTORY",
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "SYSTEMD_EXEC_PID",
        "TRIGGER_UNIT",
        "FDSTORE",
        "GLIBC_TUNABLES",
        "MEMORY_PRESSURE_WATCH",
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONUNBUFFERED",
        "VIRTUAL_ENV",
        "VLLM_PORT",
        "HF_HOME",
        "HF_TOKEN",
        "HUGGINGFACE_API_KEY",
        "HUGGING_FACE_HUB_TOKEN",
        "CAHOOTS_VLLM_SOCKET",
    ],
)
def test_worker_never_inherits(name: str) -> None:
    assert inherited_env({name: "x", "HOME": "/root"}, ()) == {"HOME": "/root"}


@pytest.mark.parametrize(
    "name", ["HOME", "PATH", "LANG", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "https_proxy"]
)
def test_worker_inherits(name: str) -> None:
    assert inherited_env({name: "x"}, ()) == {name: "x"}


def test_worker_never_inherits_what_is_named_a_secret() -> None:
    assert inherited_env({"MY_SECRET": "x", "LANG": "C"}, ["MY_SECRET"]) == {"LANG": "C"}


def test_env_of_the_worker_is_the_engines_own() -> None:
    env = build_env(SPEC, {"PATH": "/usr/bin", "LANG": "C"}, CACHE, VERSION)
    assert env["PATH"] == "/engine/bin:/usr/bin", "ninja and nvcc are looked up there"
    assert env["VIRTUAL_ENV"] == "/engine"
    assert env["LANG"] == "C"
    assert env["HF_HOME"] == "/cache/huggingface"
    assert env["VLLM_CACHE_ROOT"] == "/cache/vllm/0.33.0"
    assert env["PYTHONUNBUFFERED"] == "1"
    assert env["VLLM_DISABLE_LOG_LOGO"] == "1"


def test_what_is_compiled_is_kept_for_each_version_of_the_engine() -> None:
    outside = {"TRITON_CACHE_DIR": "/home/.triton", "TORCHINDUCTOR_CACHE_DIR": "/home/inductor"}
    old, new = (build_env(SPEC, outside, CACHE, version) for version in ("0.32.0", "0.33.0"))
    for name in ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        assert old[name].startswith("/cache/vllm/0.32.0"), name
        assert new[name].startswith("/cache/vllm/0.33.0"), name


def test_path_is_never_empty() -> None:
    assert build_env(SPEC, {}, CACHE, VERSION)["PATH"] == "/engine/bin:/usr/bin:/bin"


def test_env_file_wins_over_what_is_inherited_and_over_our_defaults() -> None:
    spec = replace(SPEC, env=(("CUDA_VISIBLE_DEVICES", "1"), ("HF_HOME", "/models")))
    env = build_env(spec, {"CUDA_VISIBLE_DEVICES": "0"}, CACHE, VERSION)
    assert (env["CUDA_VISIBLE_DEVICES"], env["HF_HOME"]) == ("1", "/models")


@pytest.mark.parametrize(
    "name", ["VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY"]
)
def test_telemetry_cannot_be_switched_on(name: str) -> None:
    spec = replace(SPEC, env=((name, "0"),))
    assert build_env(spec, {name: "0"}, CACHE, VERSION)[name] == "1"


def test_hub_is_asked_only_when_the_source_is_not_a_local_directory() -> None:
    assert "HF_HUB_OFFLINE" not in build_env(SPEC, {}, CACHE, VERSION)
    assert build_env(replace(SPEC, is_local=True), {}, CACHE, VERSION)["HF_HUB_OFFLINE"] == "1"
