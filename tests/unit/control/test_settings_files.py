"""Settings from files: which wins, and which line is to blame."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel

from cahoots_vllm.control.settings_files import CommandLine, load_settings
from cahoots_vllm.control.settings_schema import ConfigFile
from cahoots_vllm.core.api_keys import digest_of
from cahoots_vllm.core.config_view import config_changes, config_entries
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.settings import Settings, StandbyMode, make_launch_spec
from cahoots_vllm.host.paths import Paths
from fake_vllm.engine_dir import make_engine


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "models.d").mkdir()
    (tmp_path / ".env").write_text("LLM_PROVIDER=local\n")
    return Paths(
        is_system=False,
        config=tmp_path / "cahoots-vllm.toml",
        env_file=tmp_path / ".env",
        runtime_dir=tmp_path / "run",
        state_file=tmp_path / "state.json",
        cache_dir=tmp_path / "cache",
        profile_dirs=(tmp_path / "models.d",),
    )


def load(paths: Paths, line: CommandLine = CommandLine()) -> Settings:  # noqa: B008 (immutable)
    engine = line.engine or make_engine(paths.config.parent / "engine")
    return load_settings(paths, replace(line, engine=engine))


def blame(paths: Paths) -> CahootsError:
    with pytest.raises(CahootsError) as raised:
        load(paths)
    assert raised.value.kind is Kind.BAD_SETTINGS
    assert raised.value.remedy
    return raised.value


def test_every_key_of_the_configuration_is_shown_and_its_change_is_told(paths: Paths) -> None:
    """All but those of another kind: `gateway.api_keys_file` names a file, options are free."""
    old = load(paths)
    tables = {"": ConfigFile} | {
        f"{name}.": info.annotation
        for name, info in ConfigFile.model_fields.items()
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
    }
    keys = {f"{table}{key}" for table, model in tables.items() for key in model.model_fields}
    keys -= {name.rstrip(".") for name in tables} | {"options"}
    assert keys <= {entry.key for entry in config_entries(old)}
    assert len(keys) > 20
    new = replace(old, standby=StandbyMode.OFF)
    assert [(c.key, c.before, c.after) for c in config_changes(old, new)] == [
        ("standby", "auto", "off")
    ]


def test_defaults(paths: Paths) -> None:
    settings = load(paths)
    assert (settings.configured_model, settings.gateway.port) == ("Qwen/Qwen3-32B-Instruct", 8001)
    assert settings.gateway.hold_timeout_s == 600
    assert settings.engine.version == "0.32.0+cpu"
    assert (settings.warnings, settings.is_local) == ((), True)


def test_command_line_wins_over_env_file_over_configuration(paths: Paths, tmp_path: Path) -> None:
    paths.env_file.write_text(
        "LLM_PROVIDER=local\nLOCAL_LLM_MODEL=org/env\nLOCAL_LLM_URL=http://localhost:9001/v1\n"
    )
    assert load(paths).configured_model == "org/env"
    assert load(paths).gateway.port == 9001
    settings = load(paths, CommandLine(model="org/line", port=9002))
    assert (settings.configured_model, settings.gateway.port) == ("org/line", 9002)
    other = tmp_path / "other.env"
    other.write_text("LLM_PROVIDER=openai\n")
    paths.config.write_text(f'env_file = "{other}"\n')
    assert load(paths).provider == "openai"
    assert load(paths, CommandLine(env_file=paths.env_file)).provider == "local"


def test_profile_wins_over_configuration_over_defaults(paths: Paths, tmp_path: Path) -> None:
    paths.config.write_text('[options]\ndtype = "float16"\nmax-model-len = 1\n')
    profile = 'name = "org/x"\n[options]\nmax-model-len = 2\n'
    (tmp_path / "models.d" / "x.toml").write_text(profile)
    spec = make_launch_spec(load(paths), "org/x")
    assert (spec.option("dtype"), spec.option("max-model-len")) == ("float16", 2)
    assert make_launch_spec(load(paths), "org/y").option("max-model-len") == 1
    assert spec.profile == "x.toml"


def test_later_directory_wins_over_an_earlier_one(paths: Paths, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for directory, source in (("models.d", "org/shipped"), ("mine", "org/mine")):
        (tmp_path / directory / "p.toml").write_text(f'name = "org/x"\nsource = "{source}"\n')
    both = replace(paths, profile_dirs=(*paths.profile_dirs, tmp_path / "mine"))
    assert make_launch_spec(load(both), "org/x").source == "org/mine"


def test_editors_lock_file_beside_a_profile_is_none(paths: Paths) -> None:
    directory = paths.profile_dirs[-1]
    directory.mkdir(parents=True, exist_ok=True)
    before = load(paths)
    (directory / ".#a.toml").symlink_to("ann@host.4242:1700000000")
    (directory / ".a.toml").write_text("half a li")
    assert load(paths) == before


def test_provider_that_is_not_set_is_a_warning(paths: Paths) -> None:
    paths.env_file.write_text("")
    settings = load(paths)
    assert not settings.is_local
    assert "LLM_PROVIDER is not set" in settings.warnings[0]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("LOCAL_LLM_MODEL='org/x'\n", "org/x"),
        ('LOCAL_LLM_MODEL="org/x" # why\n', "org/x"),
        ("export LOCAL_LLM_MODEL=org/x\n", "org/x"),
        ("NAME=x\nLOCAL_LLM_MODEL=org/${NAME}\n", "org/x"),
        ("LOCAL_LLM_MODEL=org/y\r\nLOCAL_LLM_MODEL=org/x\r\n", "org/x"),
        ("\ufeffLOCAL_LLM_MODEL=org/x\n", "org/x"),
    ],
)
def test_grammar_of_the_env_file_is_dotenvs(paths: Paths, text: str, values: str) -> None:
    paths.env_file.write_text(text)
    assert load(paths).configured_model == values


def test_line_to_blame_is_named_and_not_shown(paths: Paths) -> None:
    paths.env_file.write_text("A=1\n\n# note\nHF_TOKEN hf_secret\nB=2\n")
    error = blame(paths)
    assert "line 4: not KEY=VALUE" in error.message
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("text", "said", "remedy"),
    [
        ("[worker]\nstop_grace = 1\n", "worker.stop_grace", "did you mean stop_grace_s?"),
        ("[worker]\nstop_grace_s = -1\n", "worker.stop_grace_s", "correct"),
        ('[gateway]\nlisten = ["somewhere"]\n', "gateway.listen", "correct"),
        ('[options]\nuds = "x"\n', "options.uds", "remove"),
        ("x = \n", "line 1", "mend"),
    ],
)
def test_key_to_blame_is_named(paths: Paths, text: str, said: str, remedy: str) -> None:
    paths.config.write_text(text)
    error = blame(paths)
    assert said in error.message
    assert remedy in error.remedy
    assert str(paths.config) in error.message


def test_shipped_profiles_can_be_read(paths: Paths) -> None:
    from cahoots_vllm.host.paths import shipped_profiles  # noqa: PLC0415

    settings = load(replace(paths, profile_dirs=(shipped_profiles(),)))
    spec = make_launch_spec(settings, "Qwen/Qwen3-32B-Instruct")
    assert (spec.source, spec.option("quantization")) == ("Qwen/Qwen3-32B-AWQ", "awq")
    assert spec.served == ("Qwen/Qwen3-32B-Instruct", "Qwen/Qwen3-32B-AWQ")


KEY = "cv-" + "plantedKey" * 2


def with_key_file(paths: Paths, text: str, mode: int = 0o640) -> Path:
    paths.config.write_text('[gateway]\nlisten = ["0.0.0.0"]\napi_keys_file = "keys"\n')
    file = paths.config.parent / "keys"
    file.write_text(text)
    file.chmod(mode)
    return file


def test_keys_come_from_configuration_file_and_url(paths: Paths) -> None:
    other = "cv-" + "inTheUrl" * 3
    file = with_key_file(paths, f"# clients\n{KEY}\n\nsha256:{'0b' * 32}\n{KEY}\n")
    hashes = f'api_keys = ["sha256:{"0a" * 32}"]\n'
    paths.config.write_text(paths.config.read_text() + hashes)
    paths.env_file.write_text(
        f"LLM_PROVIDER=local\nLOCAL_LLM_URL=http://cahoots:{other}@host.docker.internal:8001/v1\n"
    )
    settings = load(paths)
    expected = ("0a" * 32, digest_of(KEY.encode()), "0b" * 32, digest_of(other.encode()))
    assert settings.gateway.api_keys == expected
    assert settings.gateway.api_keys_file == str(file)
    assert settings.gateway.host == "host.docker.internal"
    assert settings.warnings == ()
    assert not [d for d in expected if d in repr((settings, config_entries(settings)))]


def test_file_of_keys_that_everybody_may_read_is_refused(paths: Paths) -> None:
    file = with_key_file(paths, f"{KEY}\n", 0o644)
    error = blame(paths)
    assert "every user of this host may read them (mode 0644)" in error.message
    assert error.remedy.startswith(f"chmod o= {file}")
    if os.geteuid() == 0:
        os.chown(file, 65534, 65534)  # closed to others it would be closed to us
        assert f"chgrp {os.getegid()} {file} && chmod o= {file}" in blame(paths).remedy
    file.chmod(0o640)
    assert load(paths).gateway.api_keys == (digest_of(KEY.encode()),)


def test_bad_key_is_named_by_its_line_and_not_shown(paths: Paths) -> None:
    with_key_file(paths, f"# x\n{KEY}\n{KEY[:9]}\n")
    error = blame(paths)
    assert "keys, line 3: a key has 16 characters at least" in error.message
    assert "cahootsctl config key" in error.remedy
    assert KEY[:9] not in str(error)


def test_file_without_keys_does_not_open_the_gateway(paths: Paths) -> None:
    with_key_file(paths, "# none yet\n")
    error = blame(paths)
    assert f"{paths.config}, line 2: gateway.listen: 0.0.0.0 is beyond loopback" in error.message
    assert "cahootsctl config key" in error.remedy


def test_engine_that_asks_for_a_key_of_its_own_is_refused_beside_keys(paths: Paths) -> None:
    with_key_file(paths, f"{KEY}\n")
    paths.env_file.write_text(f"LLM_PROVIDER=local\nVLLM_API_KEY={KEY}\n")
    error = blame(paths)
    assert "VLLM_API_KEY" in error.message
    assert KEY not in str(error)
