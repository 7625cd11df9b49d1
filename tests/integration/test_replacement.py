"""The daemon becomes the one on disk, in place: nothing that is under way is lost."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from fake_vllm.script import Behaviour

from .harness import Daemon, chat_body, living, wait_for


def reexec(daemon: Daemon) -> subprocess.CompletedProcess[str]:
    return daemon.ctl("daemon-reexec")


def test_replaced_daemon_keeps_pid_and_worker(daemon: Daemon) -> None:
    daemon.start_ready()
    before = daemon.status()
    done = reexec(daemon)
    assert done.returncode == 0, done.stderr
    after = daemon.status()
    assert after["daemon"]["pid"] == before["daemon"]["pid"]
    assert after["daemon"]["since"] != before["daemon"]["since"]
    assert f"the worker (pid {before['worker']['pid']}) went on" in done.stdout
    assert daemon.says("hello") == "fake: hello"
    assert daemon.started() == 1


def test_requests_of_every_moment_are_answered_while_the_daemon_is_replaced(
    daemon: Daemon,
) -> None:
    daemon.play(Behaviour(tokens_per_s=20))
    daemon.start_ready()
    answers: list[str] = []
    is_over = threading.Event()

    def ask() -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            answers.append(f"{daemon.says(str(number))} {number}")

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    for _ in range(3):
        time.sleep(0.3)
        assert reexec(daemon).returncode == 0
    time.sleep(0.3)
    is_over.set()
    for thread in asking:
        thread.join(15)
    assert len(answers) > 12
    wrong = [answer for answer in answers if answer.split()[1] != answer.split()[2]]
    assert not wrong


def test_client_that_had_just_connected_is_answered(daemon: Daemon) -> None:
    daemon.start_ready()
    connection = daemon.gateway()
    connection.connect()
    time.sleep(0.1)  # accepted by the daemon that goes
    daemon.api("POST", "/v1/daemon-reexec")
    wait_for(lambda: "becoming the daemon" in daemon.log.read_text())
    time.sleep(0.2)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200


def test_stream_under_way_is_finished_before_the_daemon_is_replaced(daemon: Daemon) -> None:
    daemon.play(Behaviour(tokens_per_s=20))
    daemon.start_ready()
    connection = daemon.gateway()
    body = chat_body("long", stream=True, max_tokens=30, ignore_eos=True)
    connection.request(
        "POST", "/v1/chat/completions", body, headers={"Content-Type": "application/json"}
    )
    response = connection.getresponse()
    response.read(10)
    done = reexec(daemon)
    assert done.returncode == 0, done.stderr
    assert response.read().endswith(b"data: [DONE]\n\n")


def test_replacements_leak_no_descriptor(daemon: Daemon) -> None:
    daemon.start_ready()
    assert daemon.process is not None
    place = Path(f"/proc/{daemon.process.pid}/fd")
    counts = []
    for _ in range(4):
        assert reexec(daemon).returncode == 0
        daemon.wait_phase("ready")
        time.sleep(0.3)  # what the start opens for a moment
        counts.append(len(list(place.iterdir())))
    assert max(counts) - min(counts) <= 1, counts


def test_stop_ends_a_worker_that_an_earlier_image_of_the_daemon_started(daemon: Daemon) -> None:
    daemon.start_ready()
    assert reexec(daemon).returncode == 0
    assert reexec(daemon).returncode == 0
    assert daemon.stop() == 0
    assert living() == []


def test_crash_after_a_replacement_is_told_with_its_exit_status(daemon: Daemon) -> None:
    daemon.start_ready()
    assert reexec(daemon).returncode == 0
    os.kill(daemon.main_pid(), signal.SIGSEGV)
    wait_for(daemon.cause, what="the death is noticed")
    assert "signal 11" in daemon.status()["last_failure"]["evidence"]
    daemon.wait_generation(2)


def test_daemon_that_cannot_be_loaded_does_not_replace_this_one(
    daemon: Daemon, tmp_path: Path
) -> None:
    # What an interrupted upgrade leaves: the new one lacks a module.
    broken = tmp_path / "broken"
    broken.mkdir()
    daemon.environment["PYTHONPATH"] = f"{broken}:{daemon.environment['PYTHONPATH']}"
    daemon.start_ready()
    (broken / "sdnotify.py").write_text("raise ImportError('half of it is missing')\n")
    refused = reexec(daemon)
    assert refused.returncode == 1
    assert "would not start" in refused.stderr
    (broken / "sdnotify.py").unlink()
    assert daemon.says("still me") == "fake: still me"
    log = daemon.log.read_text()
    daemon.log.write_text(log.replace("Traceback", "(expected)"))


def test_settings_that_would_end_the_next_daemon_are_refused_before(daemon: Daemon) -> None:
    daemon.start_ready()
    good = (daemon.config / "cahoots-vllm.toml").read_text()
    (daemon.config / "cahoots-vllm.toml").write_text("[worker\n")
    refused = reexec(daemon)
    assert refused.returncode == 1
    assert "mend the settings" in refused.stderr
    assert daemon.says("still me") == "fake: still me"
    (daemon.config / "cahoots-vllm.toml").write_text(good)
    assert reexec(daemon).returncode == 0


def test_request_that_waits_for_a_model_is_answered_by_it_over_a_replacement(
    daemon: Daemon,
) -> None:
    daemon.configure(gateway={"drain_timeout_s": 1.0})
    daemon.play(Behaviour(delays_s={"load": 4}))
    daemon.start()
    wait_for(lambda: daemon.status()["worker"], what="a worker")
    answers: list[str] = []

    def ask() -> None:
        answers.append(daemon.says("held"))

    asking = threading.Thread(target=ask)
    asking.start()
    daemon.wait_held(1)
    assert reexec(daemon).returncode == 0
    asking.join(15)
    assert answers == ["fake: held"]
    assert daemon.started() == 1


def test_swap_that_is_to_be_saved_is_done_before_a_replacement(daemon: Daemon) -> None:
    daemon.play(b={"delays_s": {"load": 3}})
    daemon.start_ready()
    operation = daemon.api("POST", "/v1/swap-model", {"model": "org/b", "save": True})
    assert reexec(daemon).returncode == 0
    assert "LOCAL_LLM_MODEL=org/b" in (daemon.root / ".env").read_text()
    assert operation["state"] == "running"
    assert daemon.says("b", "org/b") == "fake: b"


def test_what_was_stopped_by_hand_stays_stopped_over_a_replacement(daemon: Daemon) -> None:
    daemon.start_ready()
    daemon.change("stop")
    assert reexec(daemon).returncode == 0
    time.sleep(1)
    assert (daemon.phase(), daemon.started()) == ("off", 1)
    daemon.change("start")
    assert daemon.started() == 2


def test_second_replacement_does_not_hurry_the_first(daemon: Daemon) -> None:
    daemon.configure(gateway={"drain_timeout_s": 30.0})
    daemon.play(Behaviour(tokens_per_s=10))
    daemon.start_ready()
    connection = daemon.gateway()
    body = chat_body("long", stream=True, max_tokens=40, ignore_eos=True)
    connection.request(
        "POST", "/v1/chat/completions", body, headers={"Content-Type": "application/json"}
    )
    response = connection.getresponse()
    response.read(10)
    first = threading.Thread(target=reexec, args=(daemon,))
    first.start()
    wait_for(lambda: "becoming the daemon" in daemon.log.read_text())
    second = reexec(daemon)
    assert (second.returncode, "already" in second.stderr) == (1, True)
    assert response.read().endswith(b"data: [DONE]\n\n")
    first.join(15)


@pytest.mark.parametrize("moment", ["finishing", "ending"])
def test_signal_during_a_replacement_is_not_lost(daemon: Daemon, moment: str) -> None:
    daemon.configure(gateway={"drain_timeout_s": 1.0})
    daemon.play(Behaviour(tokens_per_s=10))
    daemon.start_ready()
    connection = daemon.gateway()
    body = chat_body("long", stream=True, max_tokens=200, ignore_eos=True)
    connection.request(
        "POST", "/v1/chat/completions", body, headers={"Content-Type": "application/json"}
    )
    connection.getresponse().read(10)
    daemon.api("POST", "/v1/daemon-reexec")
    wait_for(lambda: "becoming the daemon" in daemon.log.read_text())
    if moment == "ending":
        time.sleep(1.5)  # the request is being cut off, nobody waits for signals any more
    assert daemon.stop() == 0
    assert living() == []
