"""A request that names another profile's model gets it: swaps on demand."""

import os
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from fake_vllm.script import Behaviour

from .harness import Answer, Daemon, wait_for
from .test_swap import events_since


@pytest.fixture
def asked(daemon: Daemon) -> Daemon:
    """The daemon with swaps on demand turned on, ready with org/a."""
    serve(daemon)
    return daemon


def serve(daemon: Daemon, min_stay_s: float = 0.5, **gateway: float | str) -> None:
    daemon.configure(gateway={"on_demand": "profiles", "min_stay_s": min_stay_s, **gateway})
    daemon.start_ready()


def model_of(answer: Answer) -> str:
    assert answer.status == 200, answer.body
    return str(answer.json()["model"])


def texts(daemon: Daemon) -> list[str]:
    return [str(event.get("text")) for event in events_since(daemon, 0)]


def test_request_for_another_profile_swaps_and_is_answered_by_it(asked: Daemon) -> None:
    assert model_of(asked.chat("x", "org/b")) == "org/b"
    status = asked.status()
    model = status["model"]
    assert (model["serving"], model["demanded"], model["override"]) == ("org/b", "org/b", None)
    assert model["configured"] == "org/a"
    assert "swapping to org/b: asked for by a request" in texts(asked)
    assert "on demand" in asked.ctl("status").stdout
    assert "org/b" not in asked.state_file.read_text()
    assert asked.api("GET", "/v1/operations")["operations"] == []
    assert model_of(asked.chat("x", "org/a")) == "org/a"
    assert asked.status()["model"]["demanded"] is None


def test_request_with_large_images_gets_the_model_it_names(asked: Daemon) -> None:
    # Its name is in a body that is passed on as it comes where nobody chooses.
    assert model_of(asked.chat("x" * 2_000_000, "org/b", max_tokens=1)) == "org/b"


def test_off_by_default(daemon: Daemon) -> None:
    daemon.start_ready()
    assert daemon.chat("x", "org/b").status == 404
    assert daemon.started() == 1


def test_reload_turns_it_on_and_off(daemon: Daemon) -> None:
    daemon.start_ready()
    daemon.configure(gateway={"on_demand": "profiles", "min_stay_s": 0})
    assert daemon.change("reload")["state"] == "done"
    assert model_of(daemon.chat("x", "org/b")) == "org/b"
    daemon.configure()
    assert daemon.change("reload")["state"] == "done"
    assert daemon.status()["model"]["serving"] == "org/a"
    assert daemon.chat("x", "org/b").status == 404


def test_models_that_can_be_asked_for_are_listed_once(asked: Daemon) -> None:
    listed = asked.get("/v1/models")
    entries = listed.json()["data"]
    names = [entry["id"] for entry in entries]
    assert names[0] == "org/a", "the engine's own first"
    assert entries[0]["max_model_len"], "the engine's own entries are kept whole"
    assert "org/b" in names
    assert len(set(names)) == len(names)


def test_unknown_name_is_the_engines_business(asked: Daemon) -> None:
    assert asked.chat("x", "org/unheard-of").status == 404
    assert asked.started() == 1


def test_clients_that_take_turns_are_served_in_batches(daemon: Daemon) -> None:
    stay_s = 1.5
    serve(daemon, stay_s)
    began = time.monotonic()
    served: list[str] = []

    def ask(name: str) -> None:
        while time.monotonic() < began + 10:
            served.append(model_of(daemon.chat("x", name)))

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(ask, f"org/{name}") for name in "abab"]:
            each.result()
    elapsed_s = time.monotonic() - began
    changes = daemon.started() - 1
    # Figures, not a log.
    print(f"\n    {changes} swaps for {len(served)} requests in {elapsed_s:.1f} s")  # noqa: T201
    assert 2 <= changes <= elapsed_s / stay_s + 1
    assert served.count("org/a") > 10 * changes
    assert served.count("org/b") > 10 * changes


def test_requests_that_wait_for_a_model_are_served_together_the_oldest_models_first(
    daemon: Daemon,
) -> None:
    daemon.add_model("org/c")
    serve(daemon, 2.0)
    with ThreadPoolExecutor(9) as pool:
        waiting: list[tuple[str, Future[Answer]]] = []
        for name in ("org/b", "org/c", "org/b", "org/c", "org/b"):
            waiting.append((name, pool.submit(daemon.chat, "x", name)))
            daemon.wait_held(len(waiting))
        for name, future in waiting:
            assert model_of(future.result()) == name
    assert daemon.started() == 3
    said = [text for text in texts(daemon) if "asked for by a request" in text]
    assert [text.split()[2] for text in said] == ["org/b:", "org/c:"]


def test_request_that_left_starts_nothing(daemon: Daemon) -> None:
    serve(daemon, 2.0)
    connection = daemon.gateway()
    connection.request(
        "POST", "/v1/chat/completions", '{"model": "org/b", "messages": []}',
        headers={"Content-Type": "application/json"},
    )  # fmt: skip
    daemon.wait_held(1)
    connection.close()
    daemon.wait_held(0)
    time.sleep(2.5)
    assert (daemon.started(), daemon.phase()) == (1, "ready")


def test_model_that_does_not_start_is_refused_and_others_are_served(daemon: Daemon) -> None:
    daemon.play(Behaviour(), b={"log": "hub_auth", "die_at": "config"})
    serve(daemon, 0.2)
    refused = daemon.chat("x", "org/b")
    assert refused.status == 503
    assert "org/b cannot be served" in refused.json()["error"]["message"]
    assert model_of(daemon.chat("x", "org/a")) == "org/a"
    status = daemon.status()
    assert (status["model"]["demanded"], status["wanted"]["model"]) == (None, "org/b")
    started = daemon.started()
    again = daemon.chat("x", "org/b")
    assert (again.status, daemon.started()) == (503, started), "tried again at once"
    assert 1 <= int(again.headers["Retry-After"]) <= 60
    daemon.play_next(Behaviour())
    daemon.configure(gateway={"on_demand": "profiles", "min_stay_s": 0.1})
    daemon.change("reload")
    assert model_of(daemon.chat("x", "org/b")) == "org/b", "the settings are others"


def test_model_asked_for_that_fails_for_good_gives_way_to_the_configured_one(
    daemon: Daemon,
) -> None:
    daemon.play(Behaviour(), Behaviour(), Behaviour(log="hub_auth", die_at="config"), Behaviour())
    serve(daemon)
    assert model_of(daemon.chat("x", "org/b")) == "org/b"
    os.kill(daemon.main_pid(), signal.SIGKILL)
    daemon.wait_generation(4)
    model = daemon.status()["model"]
    assert (model["serving"], model["demanded"]) == ("org/a", None)
    assert "going back to org/a: org/b cannot be served" in texts(daemon)
    assert daemon.chat("x", "org/b").status == 503


def test_person_goes_first_and_a_stop_is_a_stop(asked: Daemon) -> None:
    operation = asked.api("POST", "/v1/swap-model", {"model": "org/b"})
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(asked.chat, "x", "org/a")
        assert asked.wait_operation(operation["id"])["state"] == "done"
        assert model_of(held.result()) == "org/a"
    assert asked.status()["model"]["override"] == "org/b", "a demand ends no override"
    asked.change("swap-model", {"model": "org/b"})
    assert asked.status()["model"]["demanded"] is None
    asked.change("stop")
    for name in ("org/a", "org/b"):
        refused = asked.chat("x", name)
        assert (refused.status, asked.phase()) == (503, "off")
        assert "cahootsctl start" in refused.json()["error"]["message"]


def test_worker_outlives_the_daemon_that_swapped_on_demand(asked: Daemon) -> None:
    assert model_of(asked.chat("x", "org/b")) == "org/b"
    pid = asked.main_pid()
    assert asked.ctl("daemon-reexec").returncode == 0
    status = asked.status()
    assert (status["worker"]["pid"], status["model"]["demanded"]) == (pid, "org/b")
    asked.write_env(UNRELATED="changed")
    asked.change("reload")
    assert asked.main_pid() == pid, "an unrelated edit"
    assert model_of(asked.chat("x", "org/b")) == "org/b"
    asked.add_model("org/c")
    asked.write_env(LOCAL_LLM_MODEL="org/c")
    asked.change("reload")
    model = asked.status()["model"]
    assert (model["serving"], model["demanded"]) == ("org/c", None)


def test_stream_that_had_begun_is_finished_before_the_swap(daemon: Daemon) -> None:
    daemon.play(Behaviour(tokens_per_s=10))
    serve(daemon, 0.0)
    with ThreadPoolExecutor(2) as pool:
        stream = pool.submit(daemon.chat, "x", stream=True, max_tokens=20, ignore_eos=True)
        wait_for(lambda: daemon.status()["requests"]["running"] == 1)
        other = pool.submit(daemon.chat, "x", "org/b")
        assert stream.result().body.endswith(b"data: [DONE]\n\n")
        assert model_of(other.result()) == "org/b"
