"""An edited file is enough: noticed, validated, applied, and never a dead model for a mistake."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from fake_vllm.script import Behaviour, failure

from .event_stream import event_stream, events_so_far
from .harness import Daemon, Json, wait_for

TOKEN = "hf_" + "plantedToken" * 2


def reloads(daemon: Daemon) -> list[Json]:
    """Return every reload event so far."""
    lines = events_so_far(daemon.socket).splitlines()
    return [json.loads(data[6:]) for name, data in pairwise(lines) if name == "event: reload"]


def wait_reload(daemon: Daemon, count: int) -> Json:
    """Return the reload event of this number, once it is there."""
    with event_stream(daemon.socket) as events:
        return [events.next("reload") for _ in range(count)][-1]


def env_text(daemon: Daemon, **values: str) -> str:
    pairs = daemon.env_values | values
    return "".join(f"{key}={value}\n" for key, value in pairs.items())


def by_writing(path: Path, text: str) -> None:
    path.write_text(text)


def by_renaming(path: Path, text: str) -> None:
    """Save as vim, emacs and most editors do."""
    new = path.with_name(".env.swp~")
    new.write_text(text)
    new.replace(path)


def by_backup_and_rename(path: Path, text: str) -> None:
    """Save as vim does with a backup: for a moment there is no file."""
    path.rename(path.with_name(".env~"))
    time.sleep(0.1)
    path.write_text(text)


def by_slow_writing(path: Path, text: str) -> None:
    """Truncate, and write in pieces: what stands there meanwhile is not meant."""
    with path.open("w") as file:
        for line in text.splitlines(keepends=True):
            file.write(line)
            file.flush()
            time.sleep(0.03)


def by_sed(path: Path, text: str) -> None:
    model = next(line for line in text.splitlines() if line.startswith("LOCAL_LLM_MODEL="))
    subprocess.run(["/bin/sed", "-i", f"s|^LOCAL_LLM_MODEL=.*|{model}|", str(path)], check=True)


def by_another_owner(path: Path, text: str) -> None:
    new = path.with_name(".env.new")
    new.write_text(text)
    if os.geteuid() == 0:
        os.chown(new, 65534, 65534)
    new.replace(path)


SAVES: list[Callable[[Path, str], None]] = [
    by_writing, by_renaming, by_backup_and_rename, by_slow_writing, by_sed, by_another_owner,
]  # fmt: skip


@pytest.mark.parametrize("save", SAVES, ids=lambda save: save.__name__)
def test_saved_model_is_served_however_it_was_saved(
    daemon: Daemon, save: Callable[[Path, str], None]
) -> None:
    daemon.start_ready()
    save(daemon.root / ".env", env_text(daemon, LOCAL_LLM_MODEL="org/b"))
    wait_for(lambda: daemon.status()["model"]["serving"] == "org/b", what="org/b is served")
    told = reloads(daemon)
    assert len(told) == 1, told
    assert told[0]["changes"][0]["key"] == "LOCAL_LLM_MODEL"


def test_swapped_directory_of_secrets_is_seen(daemon: Daemon) -> None:
    """`.env` is a link through `..data`, which is renamed to another directory (Kubernetes)."""
    env = daemon.root / ".env"
    text = env.read_text()
    for number, model in (("1", "org/a"), ("2", "org/b")):
        (daemon.root / f"..{number}").mkdir()
        (daemon.root / f"..{number}" / ".env").write_text(text.replace("org/a", model))
    env.unlink()
    (daemon.root / "..data").symlink_to("..1")
    env.symlink_to("..data/.env")
    daemon.start_ready()
    (daemon.root / "..new").symlink_to("..2")
    (daemon.root / "..new").replace(daemon.root / "..data")
    wait_for(lambda: daemon.status()["model"]["serving"] == "org/b", what="org/b is served")


def test_three_quick_saves_are_one_reload_with_the_last_content(daemon: Daemon) -> None:
    daemon.add_model("org/c")
    daemon.start_ready()
    for model in ("org/b", "org/x", "org/c"):
        by_writing(daemon.root / ".env", env_text(daemon, LOCAL_LLM_MODEL=model))
        time.sleep(0.05)
    wait_for(lambda: daemon.status()["model"]["serving"] == "org/c", what="org/c is served")
    assert len(reloads(daemon)) == 1


def test_comment_and_touch_do_nothing(daemon: Daemon) -> None:
    daemon.start_ready()
    before = daemon.main_pid()
    os.utime(daemon.root / ".env")
    time.sleep(0.5)
    assert reloads(daemon) == []
    by_writing(daemon.root / ".env", "# a comment\n" + env_text(daemon))
    assert wait_reload(daemon, 1)["changes"] == []
    assert daemon.main_pid() == before


def test_mistake_keeps_the_worker_and_is_said_until_it_is_mended(daemon: Daemon) -> None:
    daemon.start_ready()
    before = daemon.main_pid()
    by_writing(daemon.root / ".env", env_text(daemon) + "no assignment\n")
    assert "not KEY=VALUE" in str(wait_reload(daemon, 1)["error"])
    assert "not KEY=VALUE" in daemon.status()["config"]["error"]
    assert daemon.says("still here") == "fake: still here"
    assert "the last good settings stay" in daemon.ctl("status").stdout
    by_writing(daemon.root / ".env", env_text(daemon))
    wait_for(lambda: daemon.status()["config"]["error"] is None, what="the error is gone")
    assert daemon.main_pid() == before


def test_vanished_and_emptied_files_keep_the_worker(daemon: Daemon) -> None:
    daemon.start_ready()
    before = daemon.main_pid()
    env = daemon.root / ".env"
    env.unlink()
    wait_for(lambda: "no such file" in str(daemon.status()["config"]["error"]), what="it is said")
    env.write_text("")
    wait_for(lambda: "not there any more" in str(daemon.status()["config"]["error"]))
    by_writing(env, env_text(daemon))
    wait_for(lambda: daemon.status()["config"]["error"] is None, what="the error is gone")
    assert daemon.main_pid() == before


def test_unknown_model_keeps_the_old_one_answering_and_says_why(daemon: Daemon) -> None:
    daemon.start_ready()
    failures: list[object] = []
    is_over = False

    def ask() -> int:
        count = 0
        while not is_over:
            answer = daemon.chat("x")
            count += 1
            if answer.status != 200:
                failures.append(answer.body)
            time.sleep(0.05)
        return count

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        by_writing(daemon.root / ".env", env_text(daemon, LOCAL_LLM_MODEL="org-typo"))
        wait_for(lambda: daemon.status()["wanted"], what="the refusal is shown")
        time.sleep(0.3)
        is_over = True
        assert asking.result() > 3
    assert failures == []
    status = daemon.status()
    assert (status["model"]["serving"], status["wanted"]["model"]) == ("org/a", "org-typo")
    assert "org-typo" in status["wanted"]["evidence"]


def test_rotated_token_restarts_nothing(daemon: Daemon) -> None:
    daemon.write_env(HUGGINGFACE_API_KEY=TOKEN)
    daemon.start_ready()
    before = daemon.main_pid()
    by_writing(daemon.root / ".env", env_text(daemon, HUGGINGFACE_API_KEY=f"{TOKEN}2"))
    changes = wait_reload(daemon, 1)["changes"]
    assert [(c["key"], c["before"], c["after"]) for c in changes] == [
        ("HUGGINGFACE_API_KEY", "***", "***")
    ]
    assert daemon.main_pid() == before


def test_rotated_token_retries_what_failed_for_it(daemon: Daemon) -> None:
    daemon.write_env(HUGGINGFACE_API_KEY=TOKEN)
    daemon.play(failure("hub_auth"), Behaviour())
    daemon.start()
    daemon.wait_phase("failed")
    by_writing(daemon.root / ".env", env_text(daemon, HUGGINGFACE_API_KEY=f"{TOKEN}2"))
    daemon.wait_phase("ready")


def test_provider_elsewhere_frees_the_worker_and_local_brings_it_back(daemon: Daemon) -> None:
    daemon.start_ready()
    by_writing(daemon.root / ".env", env_text(daemon, LLM_PROVIDER="cerebras"))
    daemon.wait_phase("off")
    assert daemon.tree_pids() == []
    by_writing(daemon.root / ".env", env_text(daemon))
    daemon.wait_phase("ready")


def test_newer_edit_supersedes_a_swap_that_is_under_way(daemon: Daemon) -> None:
    daemon.add_model("org/c")
    daemon.play(Behaviour(), b={"delays_s": {"load": 30}})
    daemon.start_ready()
    by_writing(daemon.root / ".env", env_text(daemon, LOCAL_LLM_MODEL="org/b"))
    wait_for(lambda: (daemon.status()["worker"] or {}).get("phase") == "starting", what="b starts")
    by_writing(daemon.root / ".env", env_text(daemon, LOCAL_LLM_MODEL="org/c"))
    wait_for(lambda: daemon.status()["model"]["serving"] == "org/c", what="org/c is served")


def test_swap_that_fails_goes_back_by_itself(daemon: Daemon) -> None:
    daemon.play(Behaviour(), b={"log": "bad_arguments", "die_at": "config", "exit_code": 2})
    daemon.start_ready()
    by_writing(daemon.root / ".env", env_text(daemon, LOCAL_LLM_MODEL="org/b"))
    wait_for(lambda: daemon.status()["wanted"], what="it went back")
    daemon.wait_phase("ready")
    status = daemon.status()
    assert (status["model"]["configured"], status["model"]["serving"]) == ("org/b", "org/a")
    assert status["wanted"]["cause"] == "bad_arguments"


def test_profile_and_configuration_are_watched_too(daemon: Daemon) -> None:
    daemon.start_ready()
    first = daemon.status()["worker"]["generation"]
    profile = daemon.config / "models.d" / "org-a.toml"
    by_renaming(profile, profile.read_text() + "[options]\nseed = 1\n")
    daemon.wait_generation(first + 1)
    assert daemon.started_with("seed") == [None, "1"]
    daemon.configure(gateway={"hold_max": 7})
    changes = wait_reload(daemon, 2)["changes"]
    assert [(c["key"], c["after"]) for c in changes] == [("gateway.hold_max", 7)]


def test_directory_that_appears_later_is_watched(daemon: Daemon) -> None:
    models = daemon.config / "models.d"
    aside = daemon.root / "aside"
    models.rename(aside)
    daemon.write_env(LOCAL_LLM_MODEL=str(daemon.root / "models" / "org-a"))
    daemon.start_ready()
    aside.rename(models)
    assert wait_reload(daemon, 1)["error"] is None
    by_writing(daemon.root / ".env", env_text(daemon, LOCAL_LLM_MODEL="org/b"))
    wait_for(lambda: daemon.status()["model"]["serving"] == "org/b", what="org/b is served")


def test_what_was_stopped_by_hand_is_not_started_by_an_edit(daemon: Daemon) -> None:
    daemon.start_ready()
    daemon.change("stop")
    by_writing(daemon.root / ".env", env_text(daemon, LOCAL_LLM_MODEL="org/b"))
    wait_reload(daemon, 1)
    assert daemon.status()["state"] == "off"
