"""Edits, aborts and reloads that cross: the last save counts, and nothing is tried unasked."""

import signal
import threading
from collections.abc import Callable

from fake_vllm.script import Behaviour

from .harness import Daemon, wait_for

SLOW = Behaviour(tokens_per_s=5)


def answering(daemon: Daemon) -> threading.Thread:
    """Keep one request in flight for many seconds; what becomes of it does not matter."""
    thread = threading.Thread(target=lambda: _try(lambda: daemon.chat("word " * 100)), daemon=True)
    thread.start()
    wait_for(lambda: daemon.status()["requests"]["running"])
    return thread


def _try(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:  # noqa: BLE001 (cut off on purpose)
        return


def append(daemon: Daemon, name: str, text: str) -> None:
    with (daemon.root / name).open("a") as file:
        file.write(text)


def test_model_of_env_that_fell_back_is_tried_again_once_its_profile_is_mended(
    daemon: Daemon,
) -> None:
    daemon.play(b={"die_at": "load"})
    daemon.start_ready()
    daemon.write_env(LOCAL_LLM_MODEL="org/b")
    wait_for(lambda: daemon.status()["wanted"])
    daemon.wait_phase("ready")
    shown = daemon.status()["model"]
    assert (shown["configured"], shown["serving"], shown["override"]) == ("org/b", "org/a", None)
    append(daemon, ".env", "# a comment\n")
    assert daemon.status()["wanted"] is not None
    daemon.play()
    profile = daemon.config / "models.d" / "org-b.toml"
    profile.write_text(f"{profile.read_text()}[options]\nmax-num-seqs = 7\n")
    wait_for(lambda: daemon.status()["model"]["serving"] == "org/b")
    assert daemon.status()["wanted"] is None


def test_aborted_stop_goes_back_to_what_the_settings_say_by_then(daemon: Daemon) -> None:
    daemon.play(SLOW)
    daemon.start_ready()
    answering(daemon)
    stop = daemon.api("POST", "/v1/stop", {})
    daemon.write_env(LLM_PROVIDER="openai")
    wait_for(lambda: daemon.status()["provider"] == "openai")
    daemon.ctl("operations", "abort", stop["id"])
    daemon.wait_phase("off")
    assert daemon.status()["worker"] is None


def test_comment_after_an_aborted_reload_changes_nothing(daemon: Daemon) -> None:
    daemon.play(Behaviour(), b={"delays_s": {"load": 20}})
    daemon.start_ready()
    daemon.write_env(LOCAL_LLM_MODEL="org/b")
    wait_for(lambda: daemon.status()["state"] == "starting")
    running = daemon.api("GET", "/v1/operations")["operations"][0]
    daemon.ctl("operations", "abort", running["id"])
    wait_for(lambda: daemon.status()["model"]["serving"] == "org/a")
    before = daemon.status()["worker"]["generation"]
    append(daemon, ".env", "# a comment\n")
    wait_for(lambda: "settings read again: nothing changed" in daemon.log.read_text())
    assert daemon.status()["worker"]["generation"] == before
    assert daemon.status()["state"] == "ready"


def test_reload_while_the_daemon_stops_is_refused_with_the_reason(daemon: Daemon) -> None:
    daemon.play(SLOW)
    daemon.start_ready()
    answering(daemon)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    wait_for(lambda: "stopping on SIGTERM" in daemon.log.read_text())
    refused = daemon.ctl("reload")
    assert refused.returncode == 1
    assert "the daemon is stopping" in refused.stderr
    daemon.process.send_signal(signal.SIGTERM)  # cuts the request off
    daemon.process.wait(20)
    daemon.process = None


def test_refused_restart_does_not_make_later_reloads_fail(daemon: Daemon) -> None:
    daemon.start_ready()
    directory = daemon.root / "models" / "org-a"
    directory.rename(directory.with_name("gone"))
    assert daemon.change("restart")["state"] == "failed"
    directory.with_name("gone").rename(directory)
    daemon.configure(gateway={"drain_timeout_s": 7.0})
    reloaded = daemon.ctl("reload")
    assert reloaded.returncode == 0, reloaded.stderr
    assert daemon.status()["model"]["serving"] == "org/a"


def test_abort_of_a_swap_brings_back_the_model_that_was_chosen_before(daemon: Daemon) -> None:
    daemon.start_ready()
    daemon.change("swap-model", {"model": "org/b"})
    daemon.change("stop")
    daemon.play(Behaviour(delays_s={"load": 20}))
    swap = daemon.api("POST", "/v1/swap-model", {"model": "org/a"})
    daemon.wait_phase("starting")
    daemon.ctl("operations", "abort", swap["id"])
    daemon.wait_phase("off")
    assert daemon.status()["model"]["override"] == "org/b"
