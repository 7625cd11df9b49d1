"""Settings read again: by `cahootsctl reload` and SIGHUP. Nothing that runs pays for a mistake."""

import signal

from fake_vllm.script import Behaviour, failure

from .harness import Daemon, wait_for


def test_reload_without_a_change_touches_nothing(daemon: Daemon) -> None:
    daemon.start_ready()
    before = daemon.status()["worker"]["pid"]
    result = daemon.ctl("reload")
    assert result.returncode == 0, result.stderr
    assert daemon.status()["worker"]["pid"] == before


def test_reload_swaps_to_the_model_that_env_now_names(daemon: Daemon) -> None:
    daemon.start_ready()
    daemon.write_env(LOCAL_LLM_MODEL="org/b")
    assert daemon.change("reload")["state"] == "done"
    assert daemon.status()["model"]["serving"] == "org/b"


def test_sighup_reloads_and_does_not_end_the_daemon(daemon: Daemon) -> None:
    daemon.start_ready()
    daemon.write_env(LOCAL_LLM_MODEL="org/b")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: daemon.status()["model"]["serving"] == "org/b", what="org/b is served")


def test_bad_settings_touch_nothing_and_are_said_until_they_are_mended(daemon: Daemon) -> None:
    daemon.start_ready()
    before = daemon.status()["worker"]["pid"]
    (daemon.root / ".env").write_text("this is no line\n")
    refused = daemon.ctl("reload")
    assert refused.returncode == 78
    assert "line 1" in refused.stderr
    status = daemon.status()
    assert "line 1" in status["config"]["error"]
    assert (status["state"], status["worker"]["pid"]) == ("ready", before)
    daemon.write_env()
    assert daemon.ctl("reload").returncode == 0
    assert daemon.status()["config"]["error"] is None


def test_provider_elsewhere_frees_the_worker_and_back_starts_it(daemon: Daemon) -> None:
    daemon.start_ready()
    daemon.write_env(LLM_PROVIDER="openai")
    assert daemon.change("reload")["state"] == "done"
    assert daemon.status()["state"] == "off"
    assert daemon.tree_pids() == []
    daemon.write_env(LLM_PROVIDER="local")
    assert daemon.change("reload")["state"] == "done"
    assert daemon.status()["state"] == "ready"


def test_what_was_stopped_by_hand_stays_stopped(daemon: Daemon) -> None:
    daemon.start_ready()
    daemon.change("stop")
    daemon.write_env(LOCAL_LLM_MODEL="org/b")
    assert daemon.change("reload")["state"] == "done"
    assert daemon.status()["state"] == "off"


def test_failure_is_tried_again_only_by_a_change(daemon: Daemon) -> None:
    daemon.play(failure("bad_arguments"), Behaviour())
    daemon.start()
    daemon.wait_phase("failed")
    unchanged = daemon.change("reload")
    assert (unchanged["state"], unchanged["problem"]["cause"]) == ("failed", "bad_arguments")
    assert daemon.status()["state"] == "failed"
    profile = daemon.config / "models.d" / "org-a.toml"
    profile.write_text(profile.read_text() + "[options]\nseed = 7\n")
    assert daemon.change("reload")["state"] == "done"
    assert daemon.status()["state"] == "ready"


def test_reload_after_a_save_that_was_noticed_waits_for_the_same_change(daemon: Daemon) -> None:
    """Who saves and then asks by habit must not be told that somebody is at it already."""
    slow: dict[str, object] = {"delays_s": {"load": 2}}
    daemon.play(Behaviour(), b=slow)
    daemon.start_ready()
    daemon.write_env(LOCAL_LLM_MODEL="org/b")
    wait_for(lambda: daemon.status()["model"]["configured"] == "org/b")
    assert daemon.change("reload")["state"] == "done"
    assert daemon.status()["model"]["serving"] == "org/b"


def test_reload_that_was_aborted_is_done_when_it_is_asked_for_again(daemon: Daemon) -> None:
    daemon.play(Behaviour(), b={"delays_s": {"load": 20}})
    daemon.start_ready()
    daemon.write_env(LOCAL_LLM_MODEL="org/b")
    wait_for(lambda: daemon.status()["state"] == "starting")
    running = daemon.api("GET", "/v1/operations")["operations"][0]
    assert running["kind"] == "reload"
    daemon.ctl("operations", "abort", running["id"])
    wait_for(lambda: daemon.status()["model"]["serving"] == "org/a")
    daemon.play(Behaviour(), b={})
    assert daemon.change("reload")["state"] == "done"
    assert daemon.status()["model"]["serving"] == "org/b"


def test_typo_that_was_taken_back_is_not_told_any_more(daemon: Daemon) -> None:
    daemon.start_ready()
    daemon.write_env(LOCAL_LLM_MODEL="org-typo")
    wait_for(lambda: daemon.status()["wanted"])
    daemon.write_env(HUGGINGFACE_API_KEY="hf_other")
    daemon.change("reload")
    assert daemon.status()["wanted"]["model"] == "org-typo", "nothing was mended"
    daemon.write_env(LOCAL_LLM_MODEL="org/a")
    wait_for(lambda: daemon.status()["wanted"] is None)
    status = daemon.status()
    assert status["model"]["override"] is None
    assert (status["model"]["serving"], daemon.started()) == ("org/a", 1)


def test_override_outlives_a_reload_until_env_names_another_model(daemon: Daemon) -> None:
    daemon.start_ready()
    daemon.change("swap-model", {"model": "org/b"})
    daemon.write_env(VLLM_SOMETHING="1")
    daemon.change("reload")
    assert daemon.status()["model"]["override"] == "org/b"
    daemon.add_model("org/c")
    daemon.write_env(LOCAL_LLM_MODEL="org/c")
    daemon.change("reload")
    assert daemon.status()["model"] | {"profile": None} == {
        "configured": "org/c", "serving": "org/c", "override": None, "profile": None,
        "demanded": None, "goal": "org/c",
    }  # fmt: skip
