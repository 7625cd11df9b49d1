"""Secrets from systemd's credentials: used where `.env` has none, never shown."""

from pathlib import Path

import pytest

from cahoots_vllm.control.settings_files import CommandLine, load_settings
from cahoots_vllm.core.config_view import ConfigEntry, config_entries
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.launch import inherited_env
from cahoots_vllm.core.settings import Settings
from cahoots_vllm.host.paths import Paths
from fake_vllm.engine_dir import make_engine

HUB, KEY = "cahoots-vllm.huggingface_api_key", "cahoots-vllm.vllm_api_key"
TOKEN = "hf_fromTheCredential"  # noqa: S105 (no real one)


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "credentials"
    directory.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    (directory / HUB).write_text(f"{TOKEN}\n")
    return directory


def load(
    root: Path, env: str = "", *, is_system: bool = False, file: Path | None = None
) -> Settings:
    (root / ".env").write_text(f"LLM_PROVIDER=local\n{env}\n")
    paths = Paths(
        is_system=is_system,
        config=root / "cahoots-vllm.toml",
        env_file=root / ".env",
        runtime_dir=root / "run",
        state_file=root / "state.json",
        cache_dir=root / "cache",
        profile_dirs=(),
    )
    return load_settings(paths, CommandLine(engine=make_engine(root / "engine"), env_file=file))


def revealed(settings: Settings) -> dict[str, str]:
    return {name: secret.reveal() for name, secret in settings.secret_env}


def entry(settings: Settings, key: str) -> ConfigEntry:
    return next(each for each in config_entries(settings) if each.key == key)


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("env", ["", "HUGGINGFACE_API_KEY=", "HF_TOKEN=''"])
def test_credential_is_the_token_where_the_env_file_has_none(tmp_path: Path, env: str) -> None:
    settings = load(tmp_path, env)
    assert revealed(settings) == {"HF_TOKEN": TOKEN}
    shown = entry(settings, "HUGGINGFACE_API_KEY")
    assert (shown.value, shown.origin) == ("***", f"the credential {HUB}")


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("key", ["HUGGINGFACE_API_KEY", "HF_TOKEN"])
def test_env_file_wins_over_the_credential(tmp_path: Path, key: str) -> None:
    settings = load(tmp_path, f"{key}=hf_mine")
    assert revealed(settings) == {"HF_TOKEN": "hf_mine"}
    assert entry(settings, key).origin == f"{tmp_path / '.env'}, line 2"


def test_key_of_the_engine_may_be_a_credential_too(tmp_path: Path, credentials: Path) -> None:
    (credentials / KEY).write_text("sk-credential")
    settings = load(tmp_path)
    assert revealed(settings)["VLLM_API_KEY"] == "sk-credential"
    assert entry(settings, "VLLM_API_KEY").origin == f"the credential {KEY}"


def test_missing_credential_is_no_error(tmp_path: Path, credentials: Path) -> None:
    (credentials / HUB).unlink()
    assert revealed(load(tmp_path)) == {}


@pytest.mark.parametrize("content", [b"two words", b"zero\0byte", b"\xff\xfe"])
def test_useless_credential_is_named_and_not_shown(
    tmp_path: Path, credentials: Path, content: bytes
) -> None:
    (credentials / HUB).write_bytes(content)
    with pytest.raises(CahootsError) as raised:
        load(tmp_path)
    assert raised.value.kind is Kind.BAD_SETTINGS
    assert HUB in raised.value.message
    assert raised.value.remedy
    assert "words" not in f"{raised.value.message}{raised.value.remedy}"
    assert ".env" not in raised.value.message


def test_worker_does_not_see_where_credentials_are() -> None:
    assert inherited_env({"CREDENTIALS_DIRECTORY": "/run/credentials/x"}, ()) == {}


@pytest.mark.parametrize(("is_system", "is_told"), [(True, True), (False, False)])
def test_env_file_in_a_home_that_the_sandbox_hides_says_how_to_show_it(
    tmp_path: Path, *, is_system: bool, is_told: bool
) -> None:
    with pytest.raises(CahootsError) as raised:
        load(tmp_path, is_system=is_system, file=Path("/home/nobody-here/cahoots/.env"))
    assert ("BindReadOnlyPaths=/home/nobody-here/cahoots" in raised.value.remedy) is is_told
