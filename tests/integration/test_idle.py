"""A worker that nobody asks for anything is unloaded, and the next request brings it back."""

import time
from concurrent.futures import ThreadPoolExecutor

from fake_vllm.script import Behaviour

from .harness import Daemon, wait_for
from .test_demand import model_of, texts


def serve(daemon: Daemon, idle_stop_s: float = 1.0, **gateway: float | str) -> None:
    daemon.configure(gateway={"idle_stop_s": idle_stop_s, **gateway})
    daemon.start_ready()


def wait_unloaded(daemon: Daemon) -> None:
    wait_for(lambda: daemon.phase() == "off" and not daemon.tree_pids(), what="it is unloaded")


def test_idle_worker_is_unloaded_and_comes_back_with_a_request(daemon: Daemon) -> None:
    serve(daemon)
    assert daemon.says("hello") == "fake: hello"
    wait_unloaded(daemon)
    status = daemon.status()
    assert (status["idle"]["after_s"], status["worker"]) == (1.0, None)
    assert "the next request brings it back" in daemon.ctl("status").stdout
    assert daemon.get("/health").status == 200
    assert daemon.get("/ready").status == 503
    time.sleep(0.5)
    assert daemon.started() == 1, "health is no request"
    assert daemon.says("back") == "fake: back"
    assert daemon.status()["idle"] is None
    assert daemon.started() == 2
    said = texts(daemon)
    for text in (
        "off org/a: unloaded after 1 s without requests; the next request brings it back",
        "loading org/a: asked for by a request",
    ):
        assert text in said, said


def test_model_listing_is_answered_without_waking_it(daemon: Daemon) -> None:
    serve(daemon)
    wait_unloaded(daemon)
    listed = daemon.get("/v1/models")
    assert listed.status == 200
    assert [model["id"] for model in listed.json()["data"]] == ["org/a"]
    time.sleep(0.5)
    assert (daemon.phase(), daemon.started()) == ("off", 1)


def test_listing_models_all_day_does_not_keep_it_loaded(daemon: Daemon) -> None:
    serve(daemon, idle_stop_s=1.0)
    while daemon.phase() == "ready":
        assert daemon.get("/v1/models").status == 200
        time.sleep(0.1)
    wait_unloaded(daemon)


def test_worker_in_use_is_not_unloaded(daemon: Daemon) -> None:
    daemon.play(Behaviour(tokens_per_s=10))
    serve(daemon)
    answer = daemon.chat("x", stream=True, max_tokens=30, ignore_eos=True)
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert daemon.started() == 1
    wait_unloaded(daemon)


def test_never_by_default(daemon: Daemon) -> None:
    daemon.start_ready()
    time.sleep(1.5)
    assert daemon.phase() == "ready"


def test_reload_turns_it_on(daemon: Daemon) -> None:
    daemon.start_ready()
    daemon.configure(gateway={"idle_stop_s": 0.2})
    assert daemon.change("reload")["state"] == "done"
    wait_unloaded(daemon)
    daemon.configure()
    assert daemon.change("reload")["state"] == "done"
    assert (daemon.phase(), daemon.started()) == ("off", 1), "an edit is no request"


def test_stop_while_unloaded_stays_stopped_and_start_starts(daemon: Daemon) -> None:
    serve(daemon)
    wait_unloaded(daemon)
    assert daemon.change("stop")["state"] == "done"
    assert daemon.status()["idle"] is None
    assert daemon.chat("x").status == 503
    assert daemon.get("/health").status == 503
    assert daemon.change("start")["state"] == "done"
    assert daemon.started() == 2
    wait_unloaded(daemon)
    assert daemon.change("start")["state"] == "done"
    assert daemon.started() == 3


def test_next_daemon_leaves_it_unloaded_and_knows_it_from_a_stop(daemon: Daemon) -> None:
    serve(daemon)
    wait_unloaded(daemon)
    assert daemon.ctl("daemon-reexec").returncode == 0
    time.sleep(0.5)
    assert (daemon.phase(), daemon.started()) == ("off", 1)
    assert daemon.status()["idle"] is not None
    assert daemon.says("back") == "fake: back"
    assert daemon.started() == 2


def test_request_brings_back_another_profiles_model(daemon: Daemon) -> None:
    serve(daemon, on_demand="profiles", min_stay_s=30)
    wait_unloaded(daemon)
    assert model_of(daemon.chat("x", "org/b")) == "org/b"
    wait_unloaded(daemon)
    assert model_of(daemon.chat("x", "org/b")) == "org/b"
    assert daemon.started() == 3


def test_requests_that_come_just_as_it_is_unloaded_are_answered(daemon: Daemon) -> None:
    serve(daemon, idle_stop_s=0.3)
    with ThreadPoolExecutor(4) as pool:
        for round_ in range(8):
            time.sleep(0.27 + 0.01 * round_)
            answers = [pool.submit(daemon.says, "x") for _ in range(4)]
            assert {answer.result() for answer in answers} == {"fake: x"}
    # A figure, not a log.
    print(f"\n    {daemon.started()} starts in 8 rounds")  # noqa: T201


def test_worker_that_does_not_come_back_is_told_like_any_failure(daemon: Daemon) -> None:
    daemon.play(Behaviour(), Behaviour(log="hub_auth", die_at="config"))
    serve(daemon)
    wait_unloaded(daemon)
    assert daemon.chat("x").status == 503
    daemon.wait_phase("failed")
    assert daemon.cause() == "hub_auth"
