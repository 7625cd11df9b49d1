"""A swap is a transaction: the old model serves until the new one may, and comes back by itself."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from fake_vllm.script import Behaviour

from .harness import Answer, Daemon, Json, wait_for
from .stub_hub import StubHub


@contextmanager
def asking_all_the_while(daemon: Daemon, model: str) -> Iterator[list[Answer]]:
    """Send one request after the other during the block, and collect the answers."""
    answers: list[Answer] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            answers.append(daemon.chat("x", model))

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(ask)
        try:
            yield answers
        finally:
            is_over.set()
        future.result()


def events_since(daemon: Daemon, number: int) -> list[Json]:
    """Return the published events after a number, without waiting for new ones."""
    found: list[Json] = []
    response = daemon.open_stream("/v1/events", {"Last-Event-ID": str(number)}, timeout_s=1)
    with response, suppress(TimeoutError):
        while line := response.readline():
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
    return found


def test_swap_there_and_back_with_progress(daemon: Daemon) -> None:
    daemon.play(Behaviour(), b={"delays_s": {"load": 1}})
    daemon.start_ready()
    first = daemon.main_pid()
    operation = daemon.api("POST", "/v1/swap-model", {"model": "org/b"})
    assert (operation["kind"], operation["params"]) == ("swap-model", {"model": "org/b"})
    daemon.wait_started(2)  # until then the old model answers, and knows no org/b
    held = daemon.chat("during the swap", model="org/b")
    assert held.json()["model"] == "org/b"
    operation = daemon.wait_operation(operation["id"])
    assert operation["state"] == "done"
    assert operation["result"]["model"] == "org/b"
    status = daemon.status()
    assert status["model"] | {"profile": None} == {
        "configured": "org/a", "serving": "org/b", "override": "org/b", "profile": None,
        "demanded": None, "goal": "org/b",
    }  # fmt: skip
    assert (status["worker"]["generation"], status["wanted"]) == (2, None)
    assert first not in daemon.tree_pids()
    outcome = daemon.ctl("swap-model", "--reset")
    assert outcome.returncode == 0, outcome.stderr
    assert daemon.says("back") == "fake: back"
    assert daemon.status()["model"]["override"] is None
    texts = [event.get("text") or "" for event in events_since(daemon, 0)]
    shown = [
        next((n for n, text in enumerate(texts) if part in text), -1)
        for part in ("ready org/a", "preparing org/b", "draining org/a", "stopping org/a",
                     "starting org/b: loading weights 50%", "ready org/b")
    ]  # fmt: skip
    assert -1 not in shown, texts
    assert shown == sorted(shown)


def test_unknown_model_fails_the_operation_and_no_request(daemon: Daemon, hub: StubHub) -> None:
    daemon.write_env(HF_ENDPOINT=hub.endpoint)
    hub.refusals["org/aa"] = (404, {"X-Error-Code": "RepoNotFound"})
    daemon.start_ready()
    with asking_all_the_while(daemon, "org/a") as answers:
        for name in ("org/aa", "org-a", "/no/such/directory"):
            operation = daemon.swap(name)
            assert operation["state"] == "failed"
            problem = operation["problem"]
            assert problem["type"] == "urn:cahoots-vllm:problem:model-unusable"
            assert problem["detail"]
            assert problem["remedy"]
            if name != "/no/such/directory":
                assert "did you mean org/a" in problem["remedy"], problem
    assert answers
    assert {a.status for a in answers} == {200}
    status = daemon.status()
    assert (status["model"]["override"], status["worker"]["generation"]) == (None, 1)
    assert status["wanted"]["model"] == "/no/such/directory"
    outcome = daemon.ctl("swap-model", "org/aa")
    assert outcome.returncode == 1
    assert "did you mean org/a" in outcome.stderr


def test_model_that_cannot_start_brings_the_old_one_back(daemon: Daemon) -> None:
    daemon.play(Behaviour(), b={"log": "kv_cache_too_small", "die_at": "warm_up"})
    daemon.start_ready()
    with asking_all_the_while(daemon, "org/a") as answers:
        operation = daemon.swap("org/b")
        daemon.wait_generation(3)
    assert operation["state"] == "failed"
    assert operation["problem"]["cause"] == "kv_cache_too_small"
    assert {a.status for a in answers} == {200}
    status = daemon.status()
    assert (status["model"]["serving"], status["model"]["override"]) == ("org/a", None)
    assert (status["wanted"]["model"], status["wanted"]["cause"]) == ("org/b", "kv_cache_too_small")
    assert "went back to org/a" in status["wanted"]["action"]
    text = daemon.ctl("status").stdout
    assert "org/b" in text
    assert "org/a" in text


def test_second_change_is_refused_naming_the_first(daemon: Daemon) -> None:
    daemon.play(Behaviour(), b={"delays_s": {"load": 1}})
    daemon.start_ready()
    operation = daemon.api("POST", "/v1/swap-model", {"model": "org/b"})
    for verb in ("stop", "start", "restart"):
        refused = daemon.request("POST", f"/v1/{verb}")
        assert refused.status == 409
        problem = refused.json()
        assert problem["type"] == "urn:cahoots-vllm:problem:busy"
        assert problem["operation"] == operation["id"]
        assert f"operations wait {operation['id']}" in problem["remedy"]
    outcome = daemon.ctl("swap-model", "org/a")
    assert outcome.returncode == 1
    assert f"operation {operation['id']}" in outcome.stderr
    assert daemon.wait_operation(operation["id"])["state"] == "done"


def abort(daemon: Daemon, operation: Json) -> None:
    answer = daemon.api("DELETE", f"/v1/operations/{operation['id']}")
    assert (answer["state"], answer["problem"]["title"]) == ("aborted", "Aborted")


def test_abort_while_checking_keeps_the_old_model(daemon: Daemon, hub: StubHub) -> None:
    daemon.write_env(HF_ENDPOINT=hub.endpoint)
    hub.silent.add("org/slow")
    daemon.start_ready()
    operation = daemon.api("POST", "/v1/swap-model", {"model": "org/slow"})
    wait_for(lambda: hub.seen)
    assert daemon.says("meanwhile") == "fake: meanwhile"
    assert daemon.request("DELETE", f"/v1/operations/{operation['id']}").status == 202
    status = daemon.status()
    assert (status["state"], status["worker"]["generation"]) == ("ready", 1)
    assert status["model"]["override"] is None
    wait_for(lambda: not [p for p in daemon.tree_pids() if p not in old_tree(daemon)])
    again = daemon.request("DELETE", f"/v1/operations/{operation['id']}")
    assert again.status == 409


def old_tree(daemon: Daemon) -> list[int]:
    """Return what belongs to the worker: every process but a downloader."""
    return [p for p in daemon.tree_pids() if not daemon.is_downloader(p)]


def test_abort_while_draining_lets_the_old_model_serve_on(daemon: Daemon) -> None:
    daemon.play(Behaviour(tokens_per_s=10))
    daemon.start_ready()
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(daemon.chat, "x", stream=True, max_tokens=20, ignore_eos=True)
        wait_for(lambda: daemon.status()["requests"]["running"] == 1)
        operation = daemon.api("POST", "/v1/swap-model", {"model": "org/b"})
        daemon.wait_phase("draining")
        abort(daemon, operation)
        assert daemon.phase() == "ready"
        assert daemon.says("at once") == "fake: at once"
        assert stream.result().body.endswith(b"data: [DONE]\n\n")
    assert daemon.started() == 1


def test_abort_while_starting_brings_the_old_model_back(daemon: Daemon) -> None:
    daemon.play(Behaviour(), b={"hang_at": "load"})
    daemon.start_ready()
    operation = daemon.api("POST", "/v1/swap-model", {"model": "org/b"})
    wait_for(lambda: daemon.started() == 2)
    outcome = daemon.ctl("operations", "abort", operation["id"])
    assert outcome.returncode == 0, outcome.stderr
    daemon.wait_generation(3)
    assert daemon.status()["model"] | {"profile": None} == {
        "configured": "org/a", "serving": "org/a", "override": None, "profile": None,
        "demanded": None, "goal": "org/a",
    }  # fmt: skip
    assert daemon.says("back") == "fake: back"


def test_abort_of_a_restart_while_draining_keeps_the_worker(daemon: Daemon) -> None:
    daemon.play(Behaviour(tokens_per_s=10))
    daemon.start_ready()
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(daemon.chat, "x", stream=True, max_tokens=20, ignore_eos=True)
        wait_for(lambda: daemon.status()["requests"]["running"] == 1)
        operation = daemon.api("POST", "/v1/restart")
        daemon.wait_phase("draining")
        abort(daemon, operation)
        assert stream.result().status == 200
    daemon.wait_phase("ready")
    assert daemon.started() == 1


def test_override_survives_the_daemon_until_the_env_files_model_changes(daemon: Daemon) -> None:
    daemon.add_model("org/c")
    daemon.start_ready()
    assert daemon.swap("org/b")["state"] == "done"
    assert daemon.stop() == 0
    daemon.write_env(UNRELATED="changed")
    daemon.start_ready()
    assert daemon.status()["model"]["serving"] == "org/b"
    assert daemon.status()["worker"]["generation"] == 3
    assert daemon.stop() == 0
    daemon.write_env(LOCAL_LLM_MODEL="org/c")
    daemon.start_ready()
    model = daemon.status()["model"]
    assert (model["serving"], model["override"], model["configured"]) == ("org/c", None, "org/c")


def test_override_of_a_failed_swap_is_not_tried_again_by_the_next_daemon(daemon: Daemon) -> None:
    daemon.play(Behaviour(), b={"log": "hub_auth", "die_at": "config"})
    daemon.start_ready()
    assert daemon.swap("org/b")["state"] == "failed"
    daemon.kill()
    daemon.start_ready()
    assert daemon.status()["model"]["serving"] == "org/a"


def test_restart_gives_a_new_worker_of_the_same_model(daemon: Daemon) -> None:
    daemon.start_ready()
    before = daemon.status()["worker"]
    outcome = daemon.ctl("restart")
    assert outcome.returncode == 0, outcome.stderr
    after = daemon.status()["worker"]
    assert after["generation"] == before["generation"] + 1
    assert after["pid"] != before["pid"]
    assert daemon.says("hello") == "fake: hello"


def test_stop_and_start_and_each_again(daemon: Daemon) -> None:
    daemon.start_ready()
    for _ in range(2):
        assert daemon.ctl("stop").returncode == 0
        assert daemon.phase() == "off"
        assert daemon.tree_pids() == []
    assert daemon.ctl("status").returncode == 3
    answer = daemon.chat("x")
    assert answer.status == 503
    assert "cahootsctl start" in answer.json()["error"]["message"]
    for _ in range(2):
        assert daemon.ctl("start").returncode == 0
        assert daemon.phase() == "ready"
    assert daemon.status()["worker"]["generation"] == 2


def test_swap_while_stopped_starts_the_new_model(daemon: Daemon) -> None:
    daemon.start_ready()
    daemon.change("stop")
    assert daemon.swap("org/b")["state"] == "done"
    assert daemon.says("hello", "org/b") == "fake: hello"


def test_no_wait_prints_the_operations_id(daemon: Daemon) -> None:
    daemon.start_ready()
    outcome = daemon.ctl("swap-model", "org/b", "--no-wait")
    assert (outcome.returncode, outcome.stdout) == (0, "1\n")
    assert daemon.ctl("operations", "wait", "1").returncode == 0
    listed = daemon.ctl("operations", "list", "--json")
    assert json.loads(listed.stdout)["operations"][0]["state"] == "done"
