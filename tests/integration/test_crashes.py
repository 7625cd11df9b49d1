"""Any unrequested end is a failure: it is told, retried or given up, and nobody is left."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fake_vllm.script import Behaviour, failure, strays

from .harness import Daemon, chat_body, exchange, living, titles, wait_for

# What the diagnosis says of each real log, and whether it is tried again by itself.
_RETRIED = {
    "gpu_oom_startup_free": "gpu_oom_startup_free",
    # The log of a worker that the kernel killed for memory; here it killed nobody.
    "host_oom_startup": "engine_dead_other",
}
_GIVEN_UP = (
    "bad_arguments",
    "corrupt_weights",
    "hub_auth",
    "missing_dependency",
)


def _tokens(daemon: Daemon, *, after_s: float = 0.0) -> float:
    """Return how many tokens the worker has made."""
    time.sleep(after_s)
    page = exchange(daemon.worker(1), "GET", "/metrics").body.decode()
    row = next(r for r in page.splitlines() if r.startswith("vllm:generation_tokens_total"))
    return float(row.rpartition(" ")[2])


def assert_served_again(daemon: Daemon, old: list[int]) -> None:
    """Check that a new worker answers and that nothing of the old one is left."""
    daemon.wait_generation(2)
    assert daemon.says("again") == "fake: again"
    left = set(old) & set(living())
    assert not left, titles(sorted(left))


@pytest.mark.parametrize("title", ["VLLM::EngineCore", "VLLM::Worker", "vllm serve"])
def test_killed_process_is_replaced_and_its_whole_tree_ended(daemon: Daemon, title: str) -> None:
    daemon.start_ready()
    old = daemon.tree_pids()
    os.kill(daemon.main_pid() if title == "vllm serve" else daemon.pid_of(title), signal.SIGKILL)
    assert_served_again(daemon, old)
    failed = daemon.status()["last_failure"]
    assert (failed["model"], failed["cause"]) == ("org/a", "engine_dead_other")
    assert failed["evidence"]
    assert failed["action"] == "trying again at once"


def test_exit_status_0_is_a_failure_too(daemon: Daemon) -> None:
    daemon.play(Behaviour(exit0_after_requests=1), Behaviour())
    daemon.start_ready()
    old = daemon.tree_pids()
    daemon.chat("the last one")
    assert_served_again(daemon, old)
    assert daemon.status()["worker"]["restarts"] == 1


def test_request_held_over_a_crash_is_answered_by_the_next_worker(daemon: Daemon) -> None:
    daemon.start_ready()
    os.kill(daemon.main_pid(), signal.SIGKILL)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(daemon.chat, [f"number {n}" for n in range(8)]))
    assert [a.status for a in answers] == [200] * 8


def test_request_in_flight_at_the_death_of_the_api_server_is_sent_again(daemon: Daemon) -> None:
    """Nothing was answered yet, so the next worker gets it."""
    daemon.play(Behaviour(tokens_per_s=5), Behaviour())
    daemon.start_ready()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(daemon.chat, "x", max_tokens=50, ignore_eos=True)
        wait_for(lambda: daemon.status()["requests"]["running"] == 1)
        os.kill(daemon.main_pid(), signal.SIGKILL)
        assert future.result().status == 200


def test_stream_cut_by_a_death_ends_with_an_error_event(daemon: Daemon) -> None:
    daemon.play(Behaviour(tokens_per_s=10), Behaviour())
    daemon.start_ready()
    connection = daemon.gateway()
    body = chat_body("x", stream=True, max_tokens=9999, ignore_eos=True)
    connection.request("POST", "/v1/chat/completions", body)
    response = connection.getresponse()
    assert b"data: " in response.read1(100)
    os.kill(daemon.main_pid(), signal.SIGKILL)
    events = response.read().split(b"\n\n")
    assert b'"code": "worker-lost"' in events[-2]
    assert b"[DONE]" not in b"".join(events)


@pytest.mark.parametrize("title", ["VLLM::EngineCore", "VLLM::Worker", "vllm serve"])
@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_engine_that_hangs_while_serving_is_replaced_and_its_request_answered(
    daemon: Daemon, title: str, *, is_stream: bool
) -> None:
    daemon.configure(worker={"stall_timeout_s": 1})
    daemon.start_ready()
    old = daemon.tree_pids()
    os.kill(daemon.main_pid() if title == "vllm serve" else daemon.pid_of(title), signal.SIGSTOP)
    answer = daemon.chat("still there?", stream=is_stream)
    assert answer.status == 200
    assert b"still" in answer.body
    assert_served_again(daemon, old)
    failed = daemon.status()["last_failure"]
    assert failed["cause"] == "engine_dead_other"
    assert "nothing in the engine has moved for" in failed["evidence"]


def test_client_that_does_not_take_its_answer_is_no_hang(daemon: Daemon) -> None:
    daemon.configure(worker={"stall_timeout_s": 0.6})
    daemon.start_ready()
    connection = daemon.gateway()
    connection.request(
        "POST", "/v1/chat/completions", chat_body("x", stream=True, max_tokens=200_000,
        ignore_eos=True),
    )  # fmt: skip
    assert connection.getresponse().status == 200
    wait_for(lambda: _tokens(daemon) == _tokens(daemon, after_s=0.3), what="the buffers are full")
    assert _tokens(daemon) < 200_000
    time.sleep(2)  # three times as long as it takes to notice a hang
    assert daemon.status()["requests"]["running"] == 1
    assert daemon.status()["worker"]["generation"] == 1


def test_retryable_failures_back_off_and_are_tried_again(daemon: Daemon) -> None:
    daemon.play(*map(failure, _RETRIED), Behaviour())
    daemon.start()
    for number, (log, cause) in enumerate(_RETRIED.items(), start=1):
        daemon.wait_started(number)
        daemon.wait_phase("backoff")
        assert daemon.cause() == cause, log
        status = daemon.status()
        assert status["retry_at"] is not None
        assert status["last_failure"]["action"] == "trying again in 1 s"
        assert daemon.tree_pids() == []
        if number < len(_RETRIED):
            daemon.end_operations()
            daemon.change("stop")  # clears the strikes: the next wait is a short one again
            daemon.api("POST", "/v1/start")
    daemon.wait_generation(len(_RETRIED) + 1)
    assert daemon.status()["worker"]["restarts"] == 1


def test_useless_failure_is_given_up_and_requests_get_the_diagnosis(daemon: Daemon) -> None:
    daemon.play(failure(_GIVEN_UP[0]))
    daemon.start()
    daemon.wait_phase("failed")
    for number, log in enumerate(_GIVEN_UP, start=1):
        daemon.play(*[failure(log)] * 10)
        if number > 1:
            assert daemon.change("start")["problem"]["cause"] == log
        failed = daemon.status()["last_failure"]
        assert failed["cause"] == log
        answer = daemon.chat("x")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "60")
        message = answer.json()["error"]["message"]
        assert failed["evidence"] in message
        assert failed["remedy"] in message
        assert daemon.started() == number
        daemon.wait_phase("failed")  # a failed start is told before its processes are ended
        left = daemon.tree_pids()
        assert left == [], titles(left)
    assert daemon.ctl("wait", "--timeout", "5").returncode == 1


def test_request_held_during_a_start_that_is_given_up_gets_the_diagnosis(daemon: Daemon) -> None:
    daemon.play(failure("hub_auth", delays_s={"arguments": 1}))
    daemon.start()
    answer = daemon.chat("sent before it failed")
    assert answer.status == 503
    assert "401" in answer.json()["error"]["message"]


def test_crash_with_nothing_in_the_log_is_tried_again(daemon: Daemon) -> None:
    daemon.play(Behaviour(die_at="warm_up", exit_code=-signal.SIGKILL), Behaviour())
    daemon.start()
    daemon.wait_phase("backoff")
    assert "signal 9" in daemon.status()["last_failure"]["evidence"]
    assert daemon.tree_pids() == []
    daemon.wait_generation(2)


def test_start_that_hangs_is_ended_and_tried_again(daemon: Daemon) -> None:
    daemon.configure(worker={"start_silence_s": 1})
    daemon.play(Behaviour(hang_at="kv_cache", ignore_sigterm=True), Behaviour())
    daemon.start()
    daemon.wait_generation(2)
    assert "neither logged nor grew for 1 s" in daemon.status()["last_failure"]["evidence"]


def test_engine_that_gives_no_token_never_becomes_ready(daemon: Daemon) -> None:
    daemon.play(Behaviour(health_200_but_completions_500=True), Behaviour())
    daemon.start()
    daemon.wait_generation(2)
    assert "no first token" in daemon.status()["last_failure"]["evidence"]


def test_fifth_failure_is_the_last_and_start_tries_again(daemon: Daemon) -> None:
    daemon.play(*[Behaviour(die_at="arguments")] * 5, Behaviour())
    daemon.start()
    daemon.wait_phase("failed", timeout_s=40)
    assert daemon.started() == 5
    assert "gave up" in daemon.status()["last_failure"]["action"]
    outcome = daemon.ctl("start")
    assert outcome.returncode == 0, outcome.stderr
    assert daemon.says("hello") == "fake: hello"


def test_start_ends_the_wait_of_a_backoff(daemon: Daemon) -> None:
    daemon.play(*[Behaviour(die_at="arguments")] * 3, Behaviour())
    daemon.start()
    wait_for(lambda: daemon.started() == 3)
    daemon.wait_phase("backoff")
    began = time.monotonic()
    assert daemon.ctl("start").returncode == 0
    assert time.monotonic() - began < 3  # the third wait is 4 s


_STRAYS = Behaviour(setsid_grandchildren=2, hold_pipe=True)


def test_strays_in_other_sessions_end_with_a_stop(daemon: Daemon) -> None:
    daemon.play(_STRAYS)
    daemon.start_ready()
    assert len(strays(daemon.script)) == 3
    assert daemon.change("stop")["state"] == "done"
    assert daemon.tree_pids() == []


def test_strays_in_other_sessions_end_with_a_crash(daemon: Daemon) -> None:
    daemon.play(_STRAYS, Behaviour())
    daemon.start_ready()
    old = daemon.tree_pids()
    os.kill(daemon.main_pid(), signal.SIGKILL)
    assert_served_again(daemon, old)


def test_strays_in_other_sessions_end_with_the_daemon(daemon: Daemon) -> None:
    daemon.play(_STRAYS)
    daemon.start_ready()
    assert daemon.stop() == 0
    assert living() == []


def test_stop_in_any_phase_of_a_start_leaves_nobody(daemon: Daemon) -> None:
    """SIGTERM is swallowed in most of them; strays are there from `worker` on."""
    daemon.play(Behaviour(hang_at="imports"))
    daemon.start()
    for phase in ("imports", "arguments", "config", "engine", "worker", "load", "api"):
        daemon.play(Behaviour(hang_at=phase, setsid_grandchildren=1))
        if phase != "imports":
            daemon.api("POST", "/v1/start")
        time.sleep(0.7)
        assert daemon.phase() == "starting"
        daemon.end_operations()
        assert daemon.change("stop")["state"] == "done", phase
        assert daemon.tree_pids() == [], (phase, titles(daemon.tree_pids()))


def test_worker_that_ignores_sigterm_is_stopped(daemon: Daemon) -> None:
    daemon.play(Behaviour(ignore_sigterm=True))
    daemon.start_ready()
    began = time.monotonic()
    assert daemon.change("stop")["state"] == "done"
    assert time.monotonic() - began < 4  # the grace is 1 s
    assert daemon.tree_pids() == []


def test_stop_with_open_streams_is_bounded_by_the_drain(daemon: Daemon) -> None:
    daemon.configure(gateway={"drain_timeout_s": 1})
    daemon.play(Behaviour(tokens_per_s=10))
    daemon.start_ready()
    with ThreadPoolExecutor(2) as pool:
        streams = [
            pool.submit(daemon.chat, "x", stream=True, max_tokens=9999, ignore_eos=True)
            for _ in range(2)
        ]
        wait_for(lambda: daemon.status()["requests"]["running"] == 2)
        began = time.monotonic()
        assert daemon.change("stop")["state"] == "done"
        assert time.monotonic() - began < 5
        assert all(b"worker-lost" in s.result().body for s in streams)
    assert daemon.tree_pids() == []


def test_next_daemon_ends_what_a_killed_one_left_and_serves(daemon: Daemon) -> None:
    daemon.start_ready()
    old = daemon.tree_pids()
    daemon.kill()
    assert set(old) <= set(living())
    daemon.start()
    daemon.wait_generation(2)
    assert not set(old) & set(living())
    assert daemon.says("hello") == "fake: hello"
    assert "earlier daemon left behind" in daemon.log.read_text()


def test_next_daemon_ends_an_engine_whose_api_server_is_gone_too(daemon: Daemon) -> None:
    daemon.start_ready()
    main, old = daemon.main_pid(), daemon.tree_pids()
    daemon.kill()
    os.kill(main, signal.SIGKILL)
    wait_for(lambda: main not in living())
    assert len(set(old) & set(living())) >= 2
    daemon.start()
    daemon.wait_generation(2)
    assert not set(old) & set(living())


def test_next_daemon_does_not_touch_a_pid_that_was_given_again(daemon: Daemon) -> None:
    daemon.start_ready()
    daemon.change("stop")
    daemon.kill()
    record = daemon.read_state()
    innocent = daemon.process_of_another()
    daemon.write_state(record | {"worker": {"generation": 1, "pid": innocent.pid, "started": 5}})
    daemon.start()
    daemon.change("start")  # what was stopped stays stopped
    assert innocent.poll() is None
    innocent.kill()
    innocent.wait(5)


@pytest.mark.parametrize(
    ("phase", "behaviour", "signum"),
    [
        ("starting", Behaviour(hang_at="load", setsid_grandchildren=1), signal.SIGINT),
        ("ready", Behaviour(setsid_grandchildren=1), signal.SIGTERM),
        ("backoff", Behaviour(die_at="arguments"), signal.SIGINT),
        ("failed", failure("hub_auth"), signal.SIGTERM),
    ],
)
def test_daemon_told_to_end_ends_clean_in_every_phase(
    daemon: Daemon, phase: str, behaviour: Behaviour, signum: signal.Signals
) -> None:
    daemon.play(behaviour)
    daemon.start()
    daemon.wait_phase(phase)
    assert daemon.stop(signum, timeout_s=6) == 0
    assert living() == []
    assert not list(daemon.runtime.iterdir())


def test_daemon_told_to_end_while_draining_finishes_the_stream_first(daemon: Daemon) -> None:
    daemon.play(Behaviour(tokens_per_s=10))
    daemon.start_ready()
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(daemon.chat, "x", stream=True, max_tokens=15, ignore_eos=True)
        wait_for(lambda: daemon.status()["requests"]["running"] == 1)
        assert daemon.stop() == 0
        assert stream.result().body.endswith(b"data: [DONE]\n\n")


def test_second_signal_cuts_streams_off(daemon: Daemon) -> None:
    daemon.configure(gateway={"drain_timeout_s": 600})
    daemon.play(Behaviour(tokens_per_s=10))
    daemon.start_ready()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(daemon.chat, "x", stream=True, max_tokens=9999, ignore_eos=True)
        wait_for(lambda: daemon.status()["requests"]["running"] == 1)
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_phase("draining")
        assert daemon.stop(signal.SIGINT, timeout_s=6) == 0


def test_daemon_told_to_end_does_not_wait_for_those_who_watch(daemon: Daemon) -> None:
    daemon.start_ready()
    watchers = [daemon.open_stream(path) for path in ("/v1/events", "/v1/logs?follow=1")]
    assert daemon.stop() == 0  # within the patience of every stop; they would stay for ever
    for watcher in watchers:
        watcher.close()


def test_requests_held_when_the_daemon_ends_are_answered(daemon: Daemon) -> None:
    daemon.play(Behaviour(hang_at="load"))
    daemon.start()
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(daemon.chat, "x")
        daemon.wait_held(1)
        assert daemon.stop() == 0
        assert held.result().status == 503


def test_abort_of_a_stop_cannot_bring_an_ending_daemon_back(daemon: Daemon) -> None:
    daemon.play(Behaviour(tokens_per_s=10))
    daemon.start_ready()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(daemon.chat, "x", stream=True, max_tokens=20, ignore_eos=True)
        wait_for(lambda: daemon.status()["requests"]["running"] == 1)
        operation = daemon.api("POST", "/v1/stop")
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "stopping on SIGTERM" in daemon.log.read_text())
        answer = daemon.request("DELETE", f"/v1/operations/{operation['id']}")
        assert answer.status == 409
        assert daemon.process.wait(10) == 0
