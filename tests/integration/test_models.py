"""Models on disk: pulled beside what is served, listed, removed, pruned."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cahoots_vllm.ctl.problems import ProblemError
from fake_hub import FakeHub, Fault, lfs_repo, running_hub
from fake_hub.hub import SHA

from .harness import Daemon, Json, living, wait_for

_TOKEN = "hf_" + "secretsecret"
_OTHER = "f" * 40


@pytest.fixture
def lfs_hub() -> Iterator[FakeHub]:
    with running_hub() as hub:
        hub.repos["org/tiny"] = lfs_repo()
        yield hub


@pytest.fixture
def serving(daemon: Daemon, lfs_hub: FakeHub) -> Daemon:
    """A daemon that serves `org/a` and knows the hub."""
    daemon.write_env(HF_ENDPOINT=lfs_hub.endpoint, HUGGINGFACE_API_KEY=_TOKEN)
    daemon.start_ready()
    return daemon


def pull(daemon: Daemon, model: str = "org/tiny") -> str:
    return str(daemon.api("POST", "/v1/models/pull", {"model": model})["id"])


def listed(daemon: Daemon) -> list[Json]:
    """Return the rows of the hub's cache; the tests' own models are directories."""
    found: list[Json] = daemon.api("GET", "/v1/models")["models"]
    return [row for row in found if row["repo"] not in ("org/a", "org/b")]


def refused(daemon: Daemon, method: str, path: str, body: Json | None = None) -> Json:
    with pytest.raises(ProblemError) as caught:
        daemon.api(method, path, body)
    return dict(caught.value.problem)


def test_pulled_model_is_listed_and_the_token_nowhere(serving: Daemon, lfs_hub: FakeHub) -> None:
    lfs_hub.rate = 1_000_000
    done = serving.ctl("pull", "org/tiny")
    assert done.returncode == 0, done.stderr
    assert re.search(r"pulling org/tiny: \d+% of 3.8 MiB, [\d.]+ MiB/s, \d s left", done.stderr)
    (row,) = listed(serving)
    assert (row["repo"], row["revision"], row["is_whole"]) == ("org/tiny", SHA, True)
    assert (row["context_length"], row["is_serving"]) == (1024, False)
    assert serving.swap("org/tiny")["state"] == "done"
    assert listed(serving)[0]["is_serving"]
    shown = serving.ctl("models").stdout
    assert f"org/tiny  {SHA[:8]}  3.8 MiB" in shown
    assert "serving" in shown
    told = serving.log.read_text() + done.stderr + done.stdout + shown
    assert _TOKEN not in told
    assert not any(_TOKEN.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in living())


def test_pull_is_in_nobodys_way(serving: Daemon, lfs_hub: FakeHub) -> None:
    lfs_hub.rate = 500_000
    number = pull(serving)
    assert serving.swap("org/b")["state"] == "done"
    assert serving.api("GET", f"/v1/operations/{number}")["state"] == "running"
    problem = refused(serving, "POST", "/v1/models/pull", {"model": "org/tiny"})
    assert problem["type"].endswith(":busy")
    assert problem["operation"] == number
    lfs_hub.rate = None
    assert serving.wait_operation(number)["state"] == "done"


def test_swap_joins_the_pull_of_the_same_model(serving: Daemon, lfs_hub: FakeHub) -> None:
    lfs_hub.rate = 2_000_000
    number = pull(serving)
    wait_for(lambda: lfs_hub.ranges)
    assert serving.swap("org/tiny")["state"] == "done"
    assert serving.wait_operation(number)["state"] == "done"
    assert [name for name, _, _ in lfs_hub.ranges].count("model.safetensors") == 1


def test_swap_goes_on_when_the_pull_it_joined_is_aborted(serving: Daemon, lfs_hub: FakeHub) -> None:
    lfs_hub.rate = 1_000_000
    number = pull(serving)
    wait_for(lambda: lfs_hub.ranges and lfs_hub.ranges[0][2] > 1_000_000)
    swap = str(serving.api("POST", "/v1/swap-model", {"model": "org/tiny"})["id"])
    serving.api("DELETE", f"/v1/operations/{number}")
    assert serving.api("GET", f"/v1/operations/{number}")["state"] == "aborted"
    lfs_hub.rate = None
    assert serving.wait_operation(swap)["state"] == "done"
    starts = [start for name, start, _ in lfs_hub.ranges if name == "model.safetensors"]
    assert starts[0] == 0
    assert starts[-1] > 0


def test_aborted_pull_leaves_a_part_that_is_shown_and_pruned(
    serving: Daemon, lfs_hub: FakeHub
) -> None:
    lfs_hub.faults["model.safetensors"] = [Fault("stall", at=2_000_000)]
    number = pull(serving)
    wait_for(lambda: [row for row in listed(serving) if row["size_bytes"] > 1_500_000])
    assert listed(serving)[0]["is_downloading"]
    assert "being downloaded" in refused(serving, "DELETE", "/v1/models/org--tiny")["detail"]
    assert serving.api("POST", "/v1/models/prune", {})["pruned"] == []
    serving.api("DELETE", f"/v1/operations/{number}")
    wait_for(lambda: not [p for p in serving.tree_pids() if serving.is_downloader(p)])
    shown = serving.ctl("models").stdout
    assert "% of 3.8 MiB" in shown
    assert "not whole" in shown
    assert "would be free" in serving.ctl("prune", "--dry-run").stdout
    assert listed(serving)
    assert "are free" in serving.ctl("prune").stdout
    assert listed(serving) == []


def test_daemon_that_was_killed_leaves_a_part_to_go_on_with(
    serving: Daemon, lfs_hub: FakeHub
) -> None:
    lfs_hub.faults["model.safetensors"] = [Fault("stall", at=2_000_000)]
    pull(serving)
    wait_for(lambda: [row for row in listed(serving) if row["size_bytes"] > 1_500_000])
    serving.kill()
    serving.start_ready()
    (row,) = listed(serving)
    assert (row["is_whole"], row["is_downloading"]) == (False, False)
    assert serving.wait_operation(pull(serving))["state"] == "done"
    assert lfs_hub.ranges[-1][0] != "model.safetensors" or lfs_hub.ranges[-1][1] > 1_500_000


def test_served_model_is_not_removed_and_another_is(serving: Daemon) -> None:
    assert serving.swap("org/tiny")["state"] == "done"
    problem = refused(serving, "DELETE", "/v1/models/org%2Ftiny")
    assert problem["type"].endswith(":conflict")
    assert "being served" in problem["detail"]
    assert "swap-model" in problem["remedy"]
    assert serving.swap("org/b")["state"] == "done"
    assert serving.swap("org/a")["state"] == "done"
    done = serving.ctl("rm", "org/tiny")
    assert "org/tiny removed, 3.8 MiB are free" in done.stdout
    assert listed(serving) == []
    assert "not on disk" in refused(serving, "DELETE", "/v1/models/org--tiny")["detail"]


def test_old_revision_is_pruned_and_the_named_one_stays(serving: Daemon, lfs_hub: FakeHub) -> None:
    serving.wait_operation(pull(serving))
    repo = lfs_repo(3_000_000)
    repo.revisions["main"] = _OTHER
    lfs_hub.repos["org/tiny"] = repo
    serving.wait_operation(pull(serving))
    assert [row["revision"] for row in listed(serving)] == [SHA, _OTHER]
    (gone,) = serving.api("POST", "/v1/models/prune", {})["pruned"]
    assert gone["size_bytes"] > 3_900_000
    (row,) = listed(serving)
    assert row["revision"] == _OTHER
    assert serving.swap("org/tiny")["state"] == "done"


def test_hub_is_not_asked_for_what_is_on_disk(serving: Daemon, lfs_hub: FakeHub) -> None:
    serving.wait_operation(pull(serving))
    asked = len(lfs_hub.seen)
    lfs_hub.tokens = frozenset()  # the token is a bad one from now on
    assert serving.swap("org/tiny")["state"] == "done"
    assert serving.change("restart")["state"] == "done"
    assert len(lfs_hub.seen) == asked


def test_failed_pull_says_why_and_what_to_do(serving: Daemon) -> None:
    done = serving.ctl("pull", "org/tinny")
    assert done.returncode == 1
    assert "no repo org/tinny that this token may read" in done.stderr
    serving.wait_operation(pull(serving))
    assert "operation 1 (pull): failed: the hub has no repo org/tinny" in serving.log.read_text()
    assert "did you mean" not in serving.ctl("pull", "org/tiny@v9").stderr
    assert "did you mean org/tiny" in serving.ctl("pull", "org/tinny").stderr


def test_directory_of_the_users_is_listed_and_never_deleted(serving: Daemon) -> None:
    done = serving.ctl("models", "--json")
    rows = {row["repo"]: row for row in json.loads(done.stdout)["models"]}
    assert (rows["org/a"]["is_serving"], rows["org/b"]["is_serving"]) == (True, False)
    directory = Path(rows["org/b"]["path"])
    assert rows["org/b"]["size_bytes"] == (directory / "model.safetensors").stat().st_size
    assert f"in {directory}" in serving.ctl("models").stdout
    refusal = serving.ctl("rm", "org/b")
    assert refusal.returncode == 1
    assert f"it is in a directory of yours, {directory}" in refusal.stderr
    assert (directory / "model.safetensors").exists()
