"""What the daemon says about its settings: every one, its origin, and what a reload would do."""

import json
import os
import signal
from contextlib import ExitStack, closing
from typing import Any

import jsonschema

from cahoots_vllm.core.errors import Kind
from fake_vllm.script import Behaviour

from .harness import Daemon, Json, UnixConnection, free_port

TOKEN, NEW_TOKEN = "hf_" + "plantedToken" * 2, "hf_" + "rotatedToken" * 2


def settings(daemon: Daemon) -> dict[str, tuple[Any, str]]:
    found = daemon.api("GET", "/v1/config")["config"]
    return {entry["key"]: (entry["value"], entry["origin"]) for entry in found}


def changes(diff: Json) -> dict[str, tuple[Any, Any, str]]:
    found = diff["changes"]
    return {each["key"]: (each["before"], each["after"], each["effect"]) for each in found}


def at_once(daemon: Daemon, *paths: str, **edit: str) -> list[Json]:
    """Edit `.env` and ask: the questions are there before the daemon can look at the file.

    It takes an edit by itself that has lain still for a moment, which a busy machine may need to
    ask anything.
    """
    assert daemon.process
    with ExitStack() as opened:
        daemon.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, daemon.process.pid, os.WSTOPPED)  # all its threads
        opened.callback(daemon.process.send_signal, signal.SIGCONT)
        daemon.write_env(**edit)
        asked = [opened.enter_context(closing(UnixConnection(daemon.socket))) for _ in paths]
        for connection, path in zip(asked, paths, strict=True):
            connection.request("GET", path)
        daemon.process.send_signal(signal.SIGCONT)
        return [json.loads(connection.getresponse().read()) for connection in asked]


def check_schema(daemon: Daemon, name: str, value: Json) -> None:
    document = daemon.api("GET", "/v1/openapi.json")
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


def test_every_setting_has_the_place_it_comes_from(daemon: Daemon) -> None:
    daemon.write_env(HUGGINGFACE_API_KEY=TOKEN, VLLM_LOGGING_LEVEL="DEBUG")
    profile = daemon.config / "models.d" / "org-a.toml"
    profile.write_text(profile.read_text() + "[options]\nseed = 3\n")
    daemon.start_ready()
    found, env = settings(daemon), daemon.root / ".env"
    assert found["LLM_PROVIDER"] == ("local", f"{env}, line 1")
    assert found["HUGGINGFACE_API_KEY"] == ("***", f"{env}, line 5")
    assert found["VLLM_LOGGING_LEVEL"] == ("DEBUG", f"{env}, line 6")
    assert found["worker.stop_grace_s"] == (1.0, str(daemon.config / "cahoots-vllm.toml"))
    assert found["gateway.hold_max"] == (1000, "default")
    assert found["engine.path"] == (str(daemon.engine), "the command line")
    assert found["options.seed"] == (3, "profile org-a.toml")
    assert "override" not in found
    daemon.swap("org/b")
    found = settings(daemon)
    assert found["override"] == ("org/b", "swap-model")
    assert found["LOCAL_LLM_MODEL"] == ("org/a", f"{env}, line 3")
    assert "options.seed" not in found  # not org/b's


def test_people_see_the_same_as_programs(daemon: Daemon) -> None:
    daemon.write_env(HUGGINGFACE_API_KEY=TOKEN)
    daemon.start_ready()
    shown = daemon.ctl("config", "show")
    assert shown.returncode == 0, shown.stderr
    assert {line.split()[0] for line in shown.stdout.splitlines()} == set(settings(daemon))
    as_json = daemon.ctl("config", "--json")
    assert json.loads(as_json.stdout) == daemon.api("GET", "/v1/config")
    assert TOKEN not in shown.stdout + as_json.stdout


def test_answers_are_as_documented(daemon: Daemon) -> None:
    daemon.write_env(HUGGINGFACE_API_KEY=TOKEN)
    daemon.start_ready()  # long after the watch's first look, which takes what it finds at once
    paths = daemon.api("GET", "/v1/openapi.json")["paths"]
    assert {"/v1/config", "/v1/config/diff", "/v1/reload"} <= set(paths)
    check_schema(daemon, "Config", daemon.api("GET", "/v1/config"))
    edit = {"HUGGINGFACE_API_KEY": NEW_TOKEN, "LOCAL_LLM_MODEL": "org/b"}
    [diff] = at_once(daemon, "/v1/config/diff", **edit)
    assert len(diff["changes"]) == 2
    check_schema(daemon, "ConfigDiff", diff)
    (daemon.root / ".env").write_text("no assignment\n")
    refused = daemon.request("GET", "/v1/config/diff")
    check_schema(daemon, "Problem", refused.json())


def test_diff_says_beforehand_what_an_edit_does_and_changes_nothing(daemon: Daemon) -> None:
    """The edit is asked about at once, before the file has lain still long enough to count."""
    daemon.write_env(HUGGINGFACE_API_KEY=TOKEN)
    daemon.start_ready()
    assert changes(daemon.api("GET", "/v1/config/diff")) == {}
    assert daemon.ctl("config", "diff").stdout == "nothing would change\n"
    url = f"http://localhost:{free_port()}/v1"
    edit = {"LOCAL_LLM_MODEL": "org/b", "LOCAL_LLM_URL": url, "HUGGINGFACE_API_KEY": NEW_TOKEN}
    paths = "/v1/config/diff", "/v1/status", "/v1/operations"
    diff, status, operations = at_once(daemon, *paths, **edit)
    assert changes(diff) == {
        "LOCAL_LLM_MODEL": ("org/a", "org/b", "another worker"),
        "LOCAL_LLM_URL": (f"http://localhost:{daemon.port}/v1", url, "the gateway listens anew"),
        "HUGGINGFACE_API_KEY": ("***", "***", "used by the next start of the worker"),
    }
    assert status["model"]["configured"] == "org/a"
    assert operations == {"operations": []}


def test_diff_of_a_file_that_cannot_be_used_says_why(daemon: Daemon) -> None:
    daemon.start_ready()
    (daemon.root / ".env").write_text(f"HUGGINGFACE_API_KEY: {TOKEN}\n")
    answer = daemon.request("GET", "/v1/config/diff")
    problem = answer.json()
    assert problem["type"] == f"urn:cahoots-vllm:problem:{Kind.BAD_SETTINGS}"
    assert "line 1: not KEY=VALUE" in problem["detail"]
    assert problem["remedy"]
    said = daemon.ctl("config", "diff")
    assert said.returncode == 78
    assert TOKEN not in said.stdout + said.stderr + answer.body.decode()
    (daemon.root / ".env").write_text("")
    assert "LLM_PROVIDER is not there any more" in daemon.ctl("config", "diff").stderr


def test_settings_shown_are_those_in_use_not_those_in_the_file(daemon: Daemon) -> None:
    daemon.start_ready()
    (daemon.root / ".env").write_text("LLM_PROVIDER=local\nno assignment\n")
    assert daemon.ctl("reload").returncode == 78
    assert settings(daemon)["LOCAL_LLM_MODEL"][0] == "org/a"


def test_check_judges_the_files_without_a_daemon(daemon: Daemon) -> None:
    daemon.environment["PATH"] = f"{daemon.engine / 'bin'}:{daemon.environment['PATH']}"
    env = str(daemon.root / ".env")
    assert daemon.ctl("config", "check", env).returncode == 0
    (daemon.root / ".env").write_text(f"HUGGINGFACE_API_KEY: {TOKEN}\n")
    found = daemon.ctl("config", "check", env)
    assert found.returncode == 1
    assert "line 1: not KEY=VALUE" in found.stdout
    assert TOKEN not in found.stdout + found.stderr
    assert daemon.started() == 0


def test_changed_setting_that_restarts_nothing_is_in_use_at_once(daemon: Daemon) -> None:
    daemon.play(Behaviour())
    daemon.start_ready()
    daemon.configure(gateway={"hold_max": 7})
    assert daemon.change("reload")["state"] == "done"
    assert settings(daemon)["gateway.hold_max"][0] == 7
    assert daemon.started() == 1
