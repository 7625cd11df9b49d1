"""The shipped files say what is built in: every key, and its default."""

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from cahoots_vllm.control.env_file import read_env_file
from cahoots_vllm.control.settings_schema import ConfigFile, ProfileFile, parse_toml
from cahoots_vllm.core.env_values import read_env
from cahoots_vllm.core.launch import CPU_DEFAULT_UTILIZATION, DEFAULT_OPTIONS
from cahoots_vllm.core.settings import GUIDE_MODEL, GUIDE_URL
from cahoots_vllm.host.engine import SYSTEM_ENGINE

ETC = Path(__file__).parents[3] / "etc"
CONFIG = ETC / "cahoots-vllm.toml"
# A default that depends on the host is shown commented out.
_COMMENTED = re.compile(r"^#([\w.-]+ = .*)$", re.MULTILINE)


def uncommented() -> dict[str, object]:
    return tomllib.loads(_COMMENTED.sub(r"\1", CONFIG.read_text()))


def test_configuration_is_valid_and_equal_to_the_built_in_defaults() -> None:
    assert parse_toml(CONFIG, ConfigFile, "the configuration") == ConfigFile()


def test_configuration_shows_every_key() -> None:
    shown = uncommented()
    for name, field in ConfigFile.model_fields.items():
        assert name in shown, name
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            table = shown[name]
            assert isinstance(table, dict)
            assert set(table) == set(kind.model_fields), name


def test_commented_defaults_are_the_real_ones() -> None:
    shown = uncommented()
    assert shown["options"] == dict(DEFAULT_OPTIONS)
    assert shown["engine"] == {"path": str(SYSTEM_ENGINE)}
    assert shown["env_file"] == "/etc/cahoots-vllm/.env"
    assert f"{CPU_DEFAULT_UTILIZATION} on the CPU engine" in CONFIG.read_text()


def test_example_env_is_the_guides() -> None:
    path = ETC / "env.example"
    file = read_env_file(path)
    env = read_env(file.values, file.lines, str(path))
    assert (env.provider, env.model, env.url) == ("local", GUIDE_MODEL, GUIDE_URL)
    assert (env.secret_env, env.worker_env, env.warnings) == ((), (), ())
    assert set(file.values) == {
        "LLM_PROVIDER", "LOCAL_LLM_URL", "LOCAL_LLM_MODEL", "HUGGINGFACE_API_KEY",
    }  # fmt: skip


@pytest.mark.parametrize("path", sorted((ETC / "models.d").iterdir()), ids=lambda p: p.stem)
def test_shipped_profile_is_valid_and_says_why(path: Path) -> None:
    profile = parse_toml(path, ProfileFile, "the profile")
    assert profile.source
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        if "=" in line and not line.startswith(("#", "name")):
            assert lines[number - 1].startswith("#"), f"{path.name}: no reason above: {line}"
