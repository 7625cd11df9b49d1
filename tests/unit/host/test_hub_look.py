"""The look at a repo, as the program is run: one line of JSON, whatever the hub answers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.host.children import Children
from cahoots_vllm.host.hub_answer import HubSight, ProcessHubLook
from fake_hub import FakeHub, Fault, lfs_repo, running_hub
from fake_hub.hub import SHA


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running_hub() as one:
        one.repos["org/tiny"] = lfs_repo(1000)
        yield one


def environment(hub: FakeHub) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    # Nowhere that can be written: it needs no room.
    return kept | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": "/proc/none", "TMPDIR": "/proc/none"}


def look(hub: FakeHub, *args: str) -> dict[str, object]:
    command = [sys.executable, "-m", "cahoots_vllm.host.hub_look", *args]
    done = subprocess.run(
        command, env=environment(hub), capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.count("\n") == 1
    said: dict[str, object] = json.loads(done.stdout)
    return said


def test_repo_is_seen_with_sizes_and_configuration(hub: FakeHub) -> None:
    said = look(hub, "org/tiny")
    assert (said["sha"], said["gated"]) == (SHA, False)
    assert said["config"] == {"max_position_embeddings": 1024}
    files = said["files"]
    assert isinstance(files, dict)
    assert files["model.safetensors"] == len(hub.repos["org/tiny"].files["model.safetensors"])
    assert not [path for _, path in hub.seen if "safetensors" in path]  # nothing is fetched


@pytest.mark.parametrize("config", [b"{", b"[]", b"", b"\xff", b"[" * 100_000, None])
def test_configuration_that_says_nothing_is_empty(hub: FakeHub, config: bytes | None) -> None:
    files = hub.repos["org/tiny"].files
    if config is None:
        del files["config.json"]
    else:
        files["config.json"] = config
    assert look(hub, "org/tiny")["config"] == {}


@pytest.mark.parametrize(
    ("args", "fault", "cause"),
    [
        (("org/none",), None, "hub_not_found"),
        (("org/tiny", "v9"), None, "hub_not_found"),
        (("org/tiny", "../../x"), None, "hub_not_found"),
        (("a/b/c",), None, "hub_not_found"),
        (("ü/x",), None, "hub_not_found"),
        (("org/tiny",), Fault("status", status=503), "hub_network"),
        (("org/tiny",), Fault("status", status=429), "hub_network"),
        (
            ("org/tiny",),
            Fault("status", status=403, headers={"X-Error-Code": "GatedRepo"}),
            "hub_auth",
        ),
    ],
)
def test_refusal_has_its_cause_and_a_remedy(
    hub: FakeHub, args: tuple[str, ...], fault: Fault | None, cause: str
) -> None:
    if fault is not None:
        fault.times = -1
        hub.refusals["org/tiny"] = [fault]
    said = look(hub, *args)
    assert said["cause"] == cause
    assert said["remedy"]


def test_hub_that_hangs_up_is_a_refusal_too(hub: FakeHub) -> None:
    hub.is_down = True
    assert look(hub, "org/tiny")["cause"] == "hub_network"


async def test_daemon_reads_the_line(hub: FakeHub) -> None:
    asks = ProcessHubLook(Children())
    seen = await asks.look("org/tiny", None, environment(hub))
    assert isinstance(seen, HubSight)
    assert seen.files["config.json"] > 0
    refused = await asks.look("org/none", None, environment(hub))
    assert isinstance(refused, Diagnosis)
    assert refused.cause is Cause.HUB_NOT_FOUND


async def test_program_that_ends_without_a_word_is_a_sentence() -> None:
    asks = ProcessHubLook(Children())
    found = await asks.look("org/tiny", None, {"PYTHONHOME": "/nowhere"})
    assert isinstance(found, Diagnosis)
    assert "without an answer" in found.evidence
    assert found.remedy


@pytest.mark.parametrize("depth", [300, 900, 980, 5000])
async def test_configuration_of_many_levels_is_no_surprise(hub: FakeHub, depth: int) -> None:
    config = '{"a":' + "[" * depth + "]" * depth + "}"
    hub.repos["org/tiny"].files["config.json"] = config.encode()
    found = await ProcessHubLook(Children()).look("org/tiny", None, environment(hub))
    assert isinstance(found, HubSight | Diagnosis)
