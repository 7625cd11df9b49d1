"""Ten thousand random `.env` files: never a crash, never a secret told."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cahoots_vllm.control.env_file import read_env_file
from cahoots_vllm.core.config_view import config_changes, config_entries, refuse_lost_provider
from cahoots_vllm.core.env_values import read_env
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.settings import EngineInfo, Settings, make_launch_spec

SECRET = "hf_" + "neverToBeSeen" * 2
RUNNING = Settings("local", "org/a", EngineInfo("/e", "0.32"), "/cache", "/.env")
pytestmark = pytest.mark.timeout(300)

_KEYS = st.sampled_from(
    [
        "LLM_PROVIDER", "LOCAL_LLM_URL", "LOCAL_LLM_MODEL", "HUGGINGFACE_API_KEY", "HF_TOKEN",
        "VLLM_API_KEY", "VLLM_LOGGING_LEVEL", "OPENAI_API_KEY", "X", "export LLM_PROVIDER", "", " ",
    ]
)  # fmt: skip
_VALUES = (
    st.sampled_from(
        [
            "local", "lcoal", "cerebras", "http://localhost:8001/v1", "http://u:p@h:1/", "org/a",
            SECRET, f'"{SECRET}"', f"'{SECRET}", f"{SECRET} {SECRET}", "${X}", "${HF_TOKEN}", "",
            '"a\nb"', "#", "-x", "\\", "${", "http://[::1", "http://h:99999/",
        ]
    )
    | st.text(max_size=30)
)  # fmt: skip
_LINES = st.builds("{}{}{}".format, _KEYS, st.sampled_from(["=", " = ", "", ":"]), _VALUES)
_TEXTS = st.lists(_LINES | st.text(max_size=40), max_size=8).flatmap(
    lambda lines: st.sampled_from(["\n", "\r\n", "\n\n"]).map(lambda end: end.join(lines))
)
CONTENTS = _TEXTS.map(lambda text: text.encode("utf-8", "surrogateescape")) | st.binary(
    max_size=200
)


@settings(
    max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=CONTENTS)
def test_any_content_is_either_settings_or_a_reason(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(content)
    new, error = read(path)
    if new is None:
        assert error is not None
        assert (error.kind, bool(error.remedy)) == (Kind.BAD_SETTINGS, True)
        assert SECRET not in str(error)
        return
    spec = make_launch_spec(new, new.wanted_model)
    told = repr((new, spec, config_entries(new), config_changes(RUNNING, new), new.warnings))
    held = {secret.reveal() for _, secret in new.secret_env}
    if SECRET in held and new.configured_model != SECRET and SECRET not in dict(new.worker_env):
        assert SECRET not in told.replace(new.url, "")
    assert all("\0" not in value for _, value in new.worker_env)


def read(path: Path) -> tuple[Settings | None, CahootsError | None]:
    """Return the settings that would be used from now on, or why there are none."""
    try:
        file = read_env_file(path)
        env = read_env(file.values, file.lines, str(path))
        new = Settings(
            env.provider, env.model, RUNNING.engine, "/cache", str(path), env.url,
            worker_env=env.worker_env, secret_env=env.secret_env,
            warnings=(*env.warnings, *file.warnings),
        )  # fmt: skip
        refuse_lost_provider(RUNNING, new)
    except CahootsError as error:
        return None, error
    return new, None


@pytest.mark.parametrize(
    "line", [f"LLM_PROVIDER{SECRET}\nLLM_PROVIDER{SECRET}", f"VLLM_{SECRET}=1"]
)
def test_token_without_its_equals_sign_is_told_nowhere(tmp_path: Path, line: str) -> None:
    path = tmp_path / ".env"
    path.write_text(f"LLM_PROVIDER=local\n{line}\nHF_TOKEN={SECRET}\n")
    new, error = read(path)
    assert (new is None) == (error is not None)
    told = (new, config_entries(new), config_changes(RUNNING, new)) if new is not None else error
    assert SECRET not in repr(told)


def test_the_fuzz_is_no_sleeper() -> None:
    """What it looks for is found where it is: the assertion above can fail."""
    leaking = Settings("local", SECRET, EngineInfo("/e", "0.32"), "/cache", "/.env")
    assert SECRET in repr(config_entries(leaking))
