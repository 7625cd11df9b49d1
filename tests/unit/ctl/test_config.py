"""`cahootsctl config`: what a person sees of settings, and what a script gets."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cahoots_vllm.control.settings_schema import ConfigFile, parse_toml
from cahoots_vllm.ctl.config import change_lines, config_table
from cahoots_vllm.ctl.text import Tone
from fake_vllm.engine_dir import make_engine

from .conftest import ENVIRONMENT, Run
from .fake_daemon import FakeDaemon, answer, problem

ENTRIES: list[dict[str, Any]] = [
    {"key": "LLM_PROVIDER", "value": "local", "origin": "/e/.env, line 1"},
    {"key": "HUGGINGFACE_API_KEY", "value": "***", "origin": "/e/.env, line 4"},
    {"key": "gateway.listen", "value": ["127.0.0.1", "::1"], "origin": "default"},
    {"key": "memory.adapt", "value": True, "origin": "default"},
    {"key": "options.max-model-len", "value": None, "origin": "profile a.toml"},
]
CHANGES: list[dict[str, Any]] = [
    {"key": "LOCAL_LLM_MODEL", "before": "org/a", "after": "org/b", "effect": "another worker"},
    {"key": "HF_TOKEN", "before": None, "after": "***", "effect": "used by the next start"},
]


def test_settings_are_shown_with_their_origins(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("GET /v1/config", answer({"config": ENTRIES}))
    for argv in (("config",), ("config", "show")):
        result = ctl(*argv)
        assert (result.code, result.err) == (0, "")
        assert result.out == (
            "LLM_PROVIDER           local           /e/.env, line 1\n"
            "HUGGINGFACE_API_KEY    ***             /e/.env, line 4\n"
            "gateway.listen         127.0.0.1, ::1  default\n"
            "memory.adapt           true            default\n"
            "options.max-model-len  not set         profile a.toml\n"
        )


def test_long_value_pushes_only_its_own_origin() -> None:
    lines = config_table(
        [
            {"key": "a", "value": "x" * 90, "origin": "here"},
            {"key": "b", "value": 1, "origin": "there"},
        ]
    )
    assert [line.text for line in lines] == [f"a  {'x' * 90}  here", f"b  1{' ' * 39}  there"]
    assert config_table([]) == []


def test_changes_are_shown_with_what_they_do(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("GET /v1/config/diff", answer({"changes": CHANGES}))
    result = ctl("config", "diff")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "LOCAL_LLM_MODEL: org/a -> org/b (another worker)\n"
        "HF_TOKEN: not set -> *** (used by the next start)\n"
    )
    daemon.on("GET /v1/config/diff", answer({"changes": []}))
    assert ctl("config", "diff").out == "nothing would change\n"


def test_change_that_touches_the_worker_stands_out() -> None:
    assert [line.tone for line in change_lines(CHANGES)] == [Tone.WARNING, Tone.PLAIN]


@pytest.mark.parametrize(
    ("verb", "document"), [("show", {"config": ENTRIES}), ("diff", {"changes": CHANGES})]
)
def test_json_is_the_daemons_object(
    daemon: FakeDaemon, ctl: Run, verb: str, document: dict[str, Any]
) -> None:
    route = "GET /v1/config" + ("/diff" if verb == "diff" else "")
    daemon.on(route, answer(document))
    result = ctl("config", verb, "--json")
    assert (result.code, json.loads(result.out), result.err) == (0, document, "")


def test_file_that_cannot_be_used_is_said_by_diff(daemon: FakeDaemon, ctl: Run) -> None:
    refusal = problem(
        "bad-settings", 422, detail="cannot read .env, line 3: not KEY=VALUE", remedy="mend it"
    )
    daemon.on("GET /v1/config/diff", refusal)
    result = ctl("config", "diff")
    assert (result.code, result.out) == (78, "")
    assert "line 3: not KEY=VALUE" in result.err
    assert "mend it" in result.err


@pytest.mark.parametrize("verb", ["show", "diff"])
def test_without_a_daemon_it_is_unreachable(ctl: Run, verb: str) -> None:
    result = ctl("config", verb)
    assert (result.code, result.out) == (4, "")


def test_values_cannot_steer_a_terminal(daemon: FakeDaemon, ctl: Run) -> None:
    evil = {"key": "K", "value": "\x1b]0;x\x07", "origin": "a\nb"}
    daemon.on("GET /v1/config", answer({"config": [evil]}))
    assert ctl("config").out == "K  \\x1b]0;x\\x07  a\\nb\n"


# --- key: no daemon ----------------------------------------------------------------------------


def test_key_is_long_new_each_time_and_comes_with_its_hash(ctl: Run) -> None:
    first, second = (json.loads(ctl("--json", "config", "key").out) for _ in range(2))
    assert first["key"] != second["key"]
    assert re.fullmatch(r"cv-[\w-]{43}", first["key"])
    assert first["hash"] == f"sha256:{hashlib.sha256(first['key'].encode()).hexdigest()}"


def test_what_is_printed_can_be_pasted_into_the_configuration(ctl: Run, tmp_path: Path) -> None:
    lines = ctl("config", "key").out.splitlines()
    key, *toml = (line.strip() for line in lines if line.startswith("    "))
    pasted = tmp_path / "cahoots-vllm.toml"
    pasted.write_text("\n".join(toml))
    read = parse_toml(pasted, ConfigFile, "the configuration")
    assert read.gateway.api_keys == (hashlib.sha256(key.encode()).hexdigest(),)


# --- check: no daemon, the daemon's own reading in a process of its own ------------------------


Check = Callable[..., "subprocess.CompletedProcess[str]"]
GOOD_ENV = "LLM_PROVIDER=local\nLOCAL_LLM_MODEL=org/a\n"


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Run `config check` where `.env` is, with an engine on PATH."""
    engine = make_engine(tmp_path / "engine")
    paths = {f"XDG_{name}_HOME": str(tmp_path / name) for name in ("CONFIG", "STATE", "CACHE")}
    path = {"PATH": f"{engine / 'bin'}:{os.environ['PATH']}"}

    def run(*argv: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "cahoots_vllm.ctl.main", "config", "check", *argv],
            cwd=tmp_path, env=ENVIRONMENT | paths | path, capture_output=True, text=True,
            check=False, timeout=10,
        )  # fmt: skip

    return run


def test_good_settings_are_said_to_be(check: Check, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(GOOD_ENV)
    result = check()
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith(f"{tmp_path / '.env'}: ok\n")


def test_bad_settings_fail_with_line_and_remedy(check: Check, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"{GOOD_ENV}no assignment\n")
    result = check()
    assert (result.returncode, result.stderr) == (1, "")
    assert "line 3: not KEY=VALUE" in result.stdout
    assert "  mend the line" in result.stdout


def test_each_file_named_is_checked(check: Check, tmp_path: Path) -> None:
    (tmp_path / "good.env").write_text(GOOD_ENV)
    (tmp_path / "--help").write_text("no assignment\n")
    result = check("--json", "good.env", "--", "--help")
    assert result.returncode == 1
    found = json.loads(result.stdout)
    assert [(Path(f["file"]).name, f["ok"]) for f in found] == [
        ("good.env", True), ("--help", False),
    ]  # fmt: skip
    assert "line 1: not KEY=VALUE" in found[1]["error"]
    assert found[1]["remedy"]


def test_check_reads_what_the_daemon_would_and_no_other_configuration(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "cahoots_vllm.main", "--config", "none.toml", "--check"],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=10,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (1, "")
    assert "cannot read the configuration none.toml: no such file" in result.stdout
