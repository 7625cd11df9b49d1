"""`swap-model --save`: one line of `.env` and nothing else of it, and one swap for it."""

import os
import stat
from pathlib import Path

import pytest

from cahoots_vllm.core.errors import Kind
from cahoots_vllm.ctl.problems import ProblemError
from fake_vllm.script import Behaviour

from .event_stream import event_stream
from .harness import Daemon, Json, wait_for

BEFORE = """\
# Cahoots' own file
LLM_PROVIDER=local   # not openai

LOCAL_LLM_URL=http://localhost:{port}/v1
export LOCAL_LLM_MODEL="org/a"  # ours; do not touch
VLLM_FAKE_SCRIPT={script}
OPENAI_API_KEY='sk-elsewhere'
# the end, without a line feed"""


def commented(daemon: Daemon) -> str:
    """Write a `.env` as people keep them; return its text."""
    text = BEFORE.format(port=daemon.port, script=daemon.script)
    (daemon.root / ".env").write_text(text)
    return text


def save(daemon: Daemon, model: str = "org/b") -> Json:
    return daemon.change("swap-model", {"model": model, "save": True})


def env(daemon: Daemon) -> str:
    return (daemon.root / ".env").read_text()


def test_saved_model_is_one_line_of_env_and_everything_else_of_it_stays(daemon: Daemon) -> None:
    before = commented(daemon)
    path = daemon.root / ".env"
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    owner = path.stat().st_uid, path.stat().st_gid
    daemon.start_ready()
    assert save(daemon)["state"] == "done"
    assert env(daemon) == before.replace('"org/a"', '"org/b"')
    after = path.stat()
    assert (stat.S_IMODE(after.st_mode), after.st_uid, after.st_gid) == (0o640, *owner)
    assert sorted(p.name for p in daemon.root.glob(".env*")) == [".env"]
    assert daemon.status()["model"] | {"profile": None} == {
        "configured": "org/b", "serving": "org/b", "override": None, "profile": None,
        "demanded": None, "goal": "org/b",
    }  # fmt: skip


def test_own_edit_is_noticed_and_restarts_nothing(daemon: Daemon) -> None:
    daemon.start_ready()
    with event_stream(daemon.socket) as events:
        assert save(daemon)["state"] == "done"
        own, watchs = events.next("reload"), events.next("reload")
    assert "LOCAL_LLM_MODEL" in [change["key"] for change in own["changes"]]
    assert (watchs["error"], watchs["changes"]) == (None, [])
    daemon.wait_phase("ready")
    assert daemon.started() == 2
    assert daemon.status()["worker"]["generation"] == 2


def test_link_stays_one_and_its_target_is_edited(daemon: Daemon) -> None:
    real = daemon.root / "cahoots" / "real.env"
    real.parent.mkdir()
    path = daemon.root / ".env"
    path.rename(real)
    path.symlink_to(Path("cahoots") / "real.env")
    daemon.start_ready()
    assert save(daemon)["state"] == "done"
    assert path.is_symlink()
    assert "LOCAL_LLM_MODEL=org/b\n" in real.read_text()


def test_saved_model_outlives_the_daemon(daemon: Daemon) -> None:
    daemon.start_ready()
    save(daemon)
    assert daemon.stop() == 0
    daemon.start_ready()
    model = daemon.status()["model"]
    assert (model["serving"], model["override"]) == ("org/b", None)


def test_override_ends_where_its_model_is_saved(daemon: Daemon) -> None:
    daemon.start_ready()
    daemon.swap("org/b")
    pid = daemon.main_pid()
    assert save(daemon)["state"] == "done"
    model = daemon.status()["model"]
    assert (model["configured"], model["override"]) == ("org/b", None)
    assert daemon.main_pid() == pid  # served already
    assert "LOCAL_LLM_MODEL=org/b\n" in env(daemon)


def test_missing_line_is_added_at_the_end(daemon: Daemon) -> None:
    text = f"LLM_PROVIDER=local\nLOCAL_LLM_URL=http://localhost:{daemon.port}/v1\n"
    text += f"VLLM_FAKE_SCRIPT={daemon.script}\n"
    (daemon.root / ".env").write_text(text)
    daemon.start("--model", "org/a")
    daemon.wait_phase("ready")
    assert save(daemon)["state"] == "done"
    assert env(daemon) == f"{text}LOCAL_LLM_MODEL=org/b\n"
    assert daemon.status()["model"]["serving"] == "org/b"  # though the command line says org/a


def test_people_save_with_one_option(daemon: Daemon) -> None:
    daemon.start_ready()
    result = daemon.ctl("swap-model", "org/b", "--save")
    assert result.returncode == 0, result.stderr
    assert "LOCAL_LLM_MODEL=org/b\n" in env(daemon)
    assert daemon.ctl("swap-model", "--reset", "--save").returncode == 1


@pytest.mark.parametrize("model", ["-x", "a\nb", " a", "x" * 600, "a${HOME}"])
def test_name_that_cannot_be_one_changes_no_file(daemon: Daemon, model: str) -> None:
    before = commented(daemon)
    daemon.start_ready()
    with pytest.raises(ProblemError) as refused:
        save(daemon, model)
    assert refused.value.kind == Kind.BAD_REQUEST
    assert env(daemon) == before
    assert daemon.started() == 1


def test_save_while_another_operation_runs_changes_no_file(daemon: Daemon) -> None:
    before = env(daemon)
    daemon.play(Behaviour(), b={"delays_s": {"load": 30}})
    daemon.start_ready()
    daemon.api("POST", "/v1/swap-model", {"model": "org/b"})
    with pytest.raises(ProblemError) as refused:
        save(daemon)
    assert refused.value.kind == Kind.BUSY
    assert env(daemon) == before
    daemon.end_operations()


def test_file_that_cannot_be_replaced_is_refused_with_the_line_to_write(daemon: Daemon) -> None:
    daemon.start_ready()
    path = daemon.root / ".env"
    path.rename(daemon.root / "was.env")
    with pytest.raises(ProblemError) as refused:
        save(daemon)
    assert refused.value.kind == Kind.CONFLICT
    assert "put this line into it by hand: LOCAL_LLM_MODEL=org/b" in str(refused.value.remedy)
    (daemon.root / "was.env").rename(path)
    assert daemon.status()["model"]["serving"] == "org/a"
    assert daemon.started() == 1


@pytest.mark.parametrize(
    ("model", "b"),
    [
        ("org-typo", {}),
        ("org/b", {"log": "bad_arguments", "die_at": "config", "exit_code": 2}),
    ],
    ids=["unknown", "dies"],
)
def test_swap_that_fails_leaves_env_as_it_was(
    daemon: Daemon, model: str, b: dict[str, object]
) -> None:
    """A swap is a transaction: only what is served is written."""
    before = commented(daemon)
    daemon.play(Behaviour(), b=b)
    daemon.start_ready()
    assert save(daemon, model)["state"] == "failed"
    daemon.wait_phase("ready")
    assert env(daemon) == before
    shown = daemon.status()["model"]
    assert (shown["configured"], shown["serving"], shown["override"]) == ("org/a", "org/a", None)


def test_nothing_is_written_before_it_is_served(daemon: Daemon) -> None:
    before = env(daemon)
    daemon.play(Behaviour(), b={"delays_s": {"load": 30}})
    daemon.start_ready()
    operation = daemon.api("POST", "/v1/swap-model", {"model": "org/b", "save": True})
    daemon.wait_phase("starting")
    assert env(daemon) == before
    daemon.api("DELETE", f"/v1/operations/{operation['id']}")
    daemon.wait_phase("ready")
    assert (env(daemon), daemon.status()["model"]["serving"]) == (before, "org/a")


def test_newer_edit_supersedes_a_save_that_is_under_way(daemon: Daemon) -> None:
    daemon.add_model("org/c")
    daemon.play(Behaviour(), b={"delays_s": {"load": 30}})
    daemon.start_ready()
    operation = daemon.api("POST", "/v1/swap-model", {"model": "org/b", "save": True})
    daemon.wait_phase("starting")
    daemon.write_env(LOCAL_LLM_MODEL="org/c")
    assert daemon.wait_operation(operation["id"])["state"] == "aborted"
    wait_for(lambda: daemon.status()["model"]["serving"] == "org/c", what="org/c is served")
    assert "LOCAL_LLM_MODEL=org/c\n" in env(daemon)


def test_mistake_in_env_is_said_before_anything_is_stopped(daemon: Daemon) -> None:
    daemon.start_ready()
    (daemon.root / ".env").write_text(f"{env(daemon)}no assignment\n")
    with pytest.raises(ProblemError, match="not KEY=VALUE"):
        save(daemon)
    assert "LOCAL_LLM_MODEL=org/a\n" in env(daemon)
    assert daemon.started() == 1


def test_file_that_goes_meanwhile_fails_with_the_line_to_write(daemon: Daemon) -> None:
    """The model is served all the same, as one that `swap-model` chose."""
    daemon.play(Behaviour(), b={"delays_s": {"load": 0.7}})
    daemon.start_ready()
    operation = daemon.api("POST", "/v1/swap-model", {"model": "org/b", "save": True})
    path = daemon.root / ".env"
    path.rename(daemon.root / "was.env")
    ended = daemon.wait_operation(operation["id"])
    assert (ended["state"], ended["problem"]["type"]) == (
        "failed",
        f"urn:cahoots-vllm:problem:{Kind.CONFLICT}",
    )
    assert "by hand: LOCAL_LLM_MODEL=org/b" in ended["problem"]["remedy"]
    (daemon.root / "was.env").rename(path)
    model = daemon.status()["model"]
    assert (model["serving"], model["override"]) == ("org/b", "org/b")
