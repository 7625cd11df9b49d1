"""Models on disk: pulled beside what is served, listed, removed, pruned."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cahoots_vllm.ctl.problems import ProblemError
from fake_hub import FakeHub, Fault, lfs_repo, running_hub
from fake_hub import hub as hub_module
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
    assert "more would be free" in serving.ctl("prune", "--dry-run").stdout
    assert listed(serving)
    assert "more are free" in serving.ctl("prune").stdout
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
    assert "org/tiny removed, 3.8 MiB more are free" in done.stdout
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


def test_last_use_is_when_a_worker_served_it_last(serving: Daemon) -> None:
    assert serving.swap("org/tiny")["state"] == "done"
    (row,) = listed(serving)
    config = Path(row["path"], "config.json").resolve()
    assert serving.swap("org/b")["state"] == "done"
    os.utime(config, (0, 0))  # as on a disk that keeps no time of the last look
    (row,) = listed(serving)
    used = datetime.fromisoformat(row["last_used"])
    assert abs((datetime.now(UTC) - used).total_seconds()) < 600
    assert serving.stop() == 0
    serving.start_ready()
    assert listed(serving)[0]["last_used"] == row["last_used"]
    state = serving.read_state()
    assert f"org/tiny@{SHA}" in state["last_used"]
    serving.stop()
    serving.write_state({**state, "last_used": {}})
    serving.start_ready()
    assert listed(serving)[0]["last_used"] is None


@pytest.mark.parametrize("rev", ["", "no-such", "0123456789abcdef0"])
def test_revision_that_is_not_one_alone_is_not_removed(
    serving: Daemon, lfs_hub: FakeHub, rev: str
) -> None:
    serving.wait_operation(pull(serving))
    refused(serving, "DELETE", "/v1/models/org--tiny?rev=")
    lfs_hub.repos["org/tiny"] = lfs_repo(3_000_000)
    lfs_hub.repos["org/tiny"].revisions["main"] = SHA[:-1] + "0"
    serving.wait_operation(pull(serving))
    refused(serving, "DELETE", f"/v1/models/org--tiny?rev={rev}")
    assert len(listed(serving)) == 2
    serving.api("DELETE", f"/v1/models/org--tiny?rev={SHA}")
    assert [row["revision"] for row in listed(serving)] == [SHA[:-1] + "0"]


@pytest.mark.parametrize("name", ["../../../evil", "x/y", "", "g" * 64, "a" * 300])
def test_hub_that_names_content_oddly_writes_nothing(
    serving: Daemon, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    theirs = serving.cache / "huggingface" / "evil.incomplete"
    theirs.parent.mkdir(parents=True, exist_ok=True)
    theirs.write_text("somebody's")
    lfs = {"lfs": {"sha256": name, "size": 4_000_073, "pointerSize": 134}}
    monkeypatch.setattr(hub_module, "_lfs", lambda *_: lfs)
    operation = serving.wait_operation(pull(serving))
    assert operation["state"] == "failed"
    assert operation["problem"]["remedy"]
    assert [path for path in serving.root.rglob("*") if "evil" in path.name] == [theirs]
    assert theirs.read_text() == "somebody's"
    assert [row for row in listed(serving) if row["is_whole"]] == []


def test_hub_with_files_outside_of_the_repo_writes_none_of_them(
    serving: Daemon, lfs_hub: FakeHub
) -> None:
    for name in ("../../../../evil.json", "/etc/evil.json", "a/../../../evil.json"):
        repo = lfs_repo()
        repo.files[name] = b"{}"
        lfs_hub.repos["org/tiny"] = repo
        operation = serving.wait_operation(pull(serving))
        assert operation["state"] in ("done", "failed")
        outside = [p for p in serving.root.rglob("evil*") if "snapshots" not in p.parts]
        assert outside == [], operation


@pytest.mark.parametrize("name", ["x" * 300, "org/" + "x" * 300, "órg/ñame", "org/..", "-x/y"])
def test_name_that_is_not_there_is_not_removed(serving: Daemon, name: str) -> None:
    done = serving.ctl("rm", "--", name)
    assert done.returncode == 1
    assert done.stderr.startswith("cahootsctl: ")
    assert "unexpected" not in done.stderr
    assert serving.ctl("check", "--", name).returncode == 1
    assert serving.ctl("pull", "--", name).returncode == 1
    assert serving.phase() == "ready"


def test_daemon_that_is_stopped_in_the_middle_of_a_pull_ends_it_and_the_next_goes_on(
    serving: Daemon, lfs_hub: FakeHub
) -> None:
    lfs_hub.faults["model.safetensors"] = [Fault("stall", at=2_000_000)]
    with subprocess.Popen(
        [sys.executable, "-m", "cahoots_vllm.ctl.main", "pull", "org/tiny"],
        env=serving.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as client:  # fmt: skip
        wait_for(lambda: [row for row in listed(serving) if row["size_bytes"] > 1_500_000])
        assert serving.stop() == 0
        _, said = client.communicate(timeout=15)
    assert client.returncode == 4
    assert "cannot say how pull org/tiny (operation 1) ended: the daemon went away" in said
    assert not [pid for pid in living() if serving.is_downloader(pid)]
    serving.start_ready()
    assert serving.wait_operation(pull(serving))["state"] == "done"
    assert lfs_hub.ranges[-1][0] != "model.safetensors" or lfs_hub.ranges[-1][1] > 1_500_000


def test_same_model_asked_for_many_times_at_once_is_pulled_once(
    serving: Daemon, lfs_hub: FakeHub
) -> None:
    lfs_hub.rate = 4_000_000
    body = json.dumps({"model": "org/tiny"})
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(serving.request, "POST", "/v1/models/pull", body) for _ in range(8)]
        found = sorted(answer.result().status for answer in asked)
    assert found == [202, *[409] * 7]
    assert serving.wait_operation("1")["state"] == "done"
    assert [name for name, _, _ in lfs_hub.ranges].count("model.safetensors") == 1


def test_removals_and_prunes_at_once_all_end_in_words(serving: Daemon, lfs_hub: FakeHub) -> None:
    for round_ in range(3):
        lfs_hub.rate = None
        assert serving.wait_operation(pull(serving))["state"] == "done"
        asks = [("DELETE", "/v1/models/org--tiny"), ("POST", "/v1/models/prune")] * 3
        asks = [("GET", "/v1/models"), *asks] * 3
        with ThreadPoolExecutor(len(asks)) as pool:
            futures = [pool.submit(serving.request, method, path, "{}") for method, path in asks]
            statuses = {future.result().status for future in futures}
        assert statuses <= {200, 404, 409}, (round_, statuses)
        assert listed(serving) == []


def test_commit_that_a_profile_asks_for_is_not_pruned(daemon: Daemon, lfs_hub: FakeHub) -> None:
    profile = daemon.config / "models.d" / "pinned.toml"
    profile.write_text(f'name = "pinned"\nsource = "org/tiny"\nrevision = "{SHA}"\n')
    daemon.write_env(HF_ENDPOINT=lfs_hub.endpoint)
    daemon.start_ready()
    assert daemon.wait_operation(pull(daemon, "pinned"))["state"] == "done"
    (row,) = listed(daemon)
    assert row["refs"] == []
    assert daemon.api("POST", "/v1/models/prune", {})["pruned"] == []
    assert daemon.change("stop")["state"] == "done"
    assert daemon.api("POST", "/v1/models/prune", {})["pruned"] == []
    profile.unlink()
    assert daemon.change("reload")["state"] == "done"
    (gone,) = daemon.api("POST", "/v1/models/prune", {})["pruned"]
    assert gone["size_bytes"] > 3_900_000
