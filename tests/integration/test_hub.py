"""Models from the hub: fetched by the real downloader before anything is stopped."""

import os
import signal
from pathlib import Path

from cahoots_vllm.host import process_tree

from .harness import Daemon, living, wait_for
from .stub_hub import SHA, StubHub


def use(daemon: Daemon, hub: StubHub, **values: str) -> None:
    daemon.write_env(HF_ENDPOINT=hub.endpoint, **values)


def test_model_is_fetched_and_served_from_disk_ever_after(daemon: Daemon, hub: StubHub) -> None:
    use(daemon, hub, LOCAL_LLM_MODEL="org/tiny")
    daemon.start_ready()
    assert daemon.says("hello", model="org/tiny") == "fake: hello"
    snapshot = daemon.cache / "huggingface" / "hub" / "models--org--tiny" / "snapshots" / SHA
    assert daemon.worker_argv()[1] == str(snapshot)
    assert (snapshot / "model.safetensors").is_file()
    assert not (snapshot / "README.md").exists()
    assert daemon.status()["worker"]["max_model_len"] == 1024
    asked = len(hub.seen)
    assert daemon.change("restart")["state"] == "done"
    assert len(hub.seen) == asked


def test_token_of_the_env_file_reaches_the_hub_and_the_worker_only(
    daemon: Daemon, hub: StubHub
) -> None:
    token = "hf_" + "secretsecret"
    use(daemon, hub, LOCAL_LLM_MODEL="org/tiny", HUGGINGFACE_API_KEY=token)
    daemon.start_ready()
    assert hub.tokens == {f"Bearer {token}"}
    environment = Path(f"/proc/{daemon.main_pid()}/environ").read_bytes()
    assert f"HF_TOKEN={token}".encode() in environment
    assert b"HUGGINGFACE_API_KEY" not in environment
    assert b"HF_HUB_OFFLINE=1" in environment


def test_unreachable_hub_at_start_is_tried_again(daemon: Daemon, hub: StubHub) -> None:
    use(daemon, hub, LOCAL_LLM_MODEL="org/tiny")
    hub.refusals["org/tiny"] = (503, {})
    daemon.start()
    daemon.wait_phase("backoff")
    assert daemon.cause() == "hub_network"
    del hub.refusals["org/tiny"]
    daemon.wait_phase("ready")


def test_download_is_ended_with_the_daemon(daemon: Daemon, hub: StubHub) -> None:
    hub.silent.add("org/slow")
    use(daemon, hub, LOCAL_LLM_MODEL="org/slow")
    daemon.start()
    wait_for(lambda: hub.seen)
    status = daemon.status()
    assert (status["state"], status["worker"]) == ("preparing", None)
    assert daemon.stop() == 0
    assert living() == []


def test_download_does_not_outlive_a_killed_daemon(daemon: Daemon, hub: StubHub) -> None:
    hub.silent_files.add("model.safetensors")
    use(daemon, hub, LOCAL_LLM_MODEL="org/slow")
    daemon.start()
    wait_for(lambda: any("model.safetensors" in path for _, path in hub.seen))
    daemon.kill()
    wait_for(lambda: not living(), 5, what="the downloader ends")


def test_killed_download_is_tried_again(daemon: Daemon, hub: StubHub) -> None:
    hub.silent.add("org/slow")
    use(daemon, hub, LOCAL_LLM_MODEL="org/slow")
    daemon.start()
    wait_for(lambda: hub.seen)
    hub.silent.clear()
    for pid in daemon.tree_pids():
        assert "hub_fetch" in process_tree.title(pid)
        os.kill(pid, signal.SIGKILL)
    daemon.wait_phase("ready")
    assert "downloader ended" in daemon.status()["last_failure"]["evidence"]


def test_half_a_download_is_not_taken_for_a_model(daemon: Daemon, hub: StubHub) -> None:
    """The weights are there, but a model without its tokenizer serves nobody."""
    hub.broken_files.add("tokenizer.json")
    use(daemon, hub, LOCAL_LLM_MODEL="org/tiny")
    daemon.start()
    daemon.wait_phase("backoff")
    assert daemon.cause() == "hub_network"
    hub.broken_files.clear()
    assert daemon.change("start")["state"] == "done"
    assert (Path(daemon.worker_argv()[1]) / "tokenizer.json").is_file()
