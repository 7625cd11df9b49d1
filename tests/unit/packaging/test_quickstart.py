"""What quickstart says once the model is served."""

import sys
from pathlib import Path

import pytest

from setup import env_file
from setup.console import SetupError
from setup.quickstart import Plan, ready_text

_KEY = "a-key-of-24-characters-x"


def said(directory: Path, url: str) -> str:
    path = directory / ".env"
    path.write_text(f"LLM_PROVIDER=local\nLOCAL_LLM_MODEL=org/a\nLOCAL_LLM_URL={url}\n")
    env = env_file.read(path, Path(sys.executable))
    return ready_text(Plan(env, "org/a", env.port, ()), directory)


def test_line_to_paste_has_the_key_by_name_and_never_its_value(tmp_path: Path) -> None:
    text = said(tmp_path, f"http://cahoots:{_KEY}@localhost:8003/v1")
    assert "curl http://localhost:8003/v1/chat/completions" in text
    assert ' -H "Authorization: Bearer $KEY" ' in text
    assert f"KEY is the password in LOCAL_LLM_URL, in {tmp_path}/.env" in text
    assert _KEY not in text


def test_line_to_paste_has_no_key_where_there_is_none(tmp_path: Path) -> None:
    assert "KEY" not in said(tmp_path, "http://localhost:8003/v1")


def test_url_with_a_wrong_port_is_refused_without_its_key(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no valid port") as refused:
        said(tmp_path, f"http://cahoots:{_KEY}@localhost:80030000/v1")
    assert _KEY not in str(refused.value)
