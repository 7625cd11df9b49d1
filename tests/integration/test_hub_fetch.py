"""The downloader against a hub that speaks the real protocol to the real huggingface_hub."""

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cahoots_vllm.core.diagnosis import Diagnosis
from cahoots_vllm.host.children import Children
from cahoots_vllm.host.hub import Fetched, FetchReport, ProcessHub
from fake_hub import FakeHub, Fault, lfs_repo, running_hub

from .harness import Json, wait_for

_TOKEN = "hf_" + "averysecrettoken"
_WEIGHTS = "model.safetensors"


@pytest.fixture
def lfs_hub() -> Iterator[FakeHub]:
    with running_hub() as hub:
        hub.repos["org/tiny"] = lfs_repo()
        yield hub


def environment(hub: FakeHub, home: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": hub.endpoint, **more}


def launch(
    hub: FakeHub, home: Path, *args: str, repo: str = "org/tiny", **more: str
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cahoots_vllm.host.hub_fetch", repo, *args]
    return subprocess.Popen(
        command, env=environment(hub, home, **more), stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def fetch(hub: FakeHub, home: Path, *args: str, repo: str = "org/tiny", **more: str) -> Json:
    """Return the last thing it says."""
    with launch(hub, home, *args, repo=repo, **more) as process:
        said, _ = process.communicate(timeout=40)
    last: Json = json.loads(said.splitlines()[-1])
    return last


def blobs(home: Path) -> dict[str, int]:
    folder = home / "hub" / "models--org--tiny" / "blobs"
    return {path.name: path.stat().st_size for path in folder.glob("*")}


def weights_ranges(hub: FakeHub) -> list[tuple[int, int]]:
    return [(start, sent) for name, start, sent in hub.ranges if name == _WEIGHTS]


@pytest.mark.parametrize("percent", [10, 50, 99])
def test_killed_download_goes_on_where_it_was(
    lfs_hub: FakeHub, tmp_path: Path, percent: int
) -> None:
    size = len(lfs_hub.repos["org/tiny"].files[_WEIGHTS])
    lfs_hub.faults[_WEIGHTS] = [Fault("stall", at=size * percent // 100)]
    least = size * percent // 100 - (1 << 18)
    with launch(lfs_hub, tmp_path) as process:
        wait_for(lambda: max(blobs(tmp_path).values(), default=0) > max(0, least))
        process.send_signal(signal.SIGKILL)
    had = max(blobs(tmp_path).values())
    said = fetch(lfs_hub, tmp_path)
    assert (Path(said["path"]) / _WEIGHTS).read_bytes() == lfs_hub.repos["org/tiny"].files[_WEIGHTS]
    assert weights_ranges(lfs_hub)[1:] == [(had, size - had)]
    assert not [name for name in blobs(tmp_path) if "incomplete" in name]


def test_whole_files_are_not_read_again(lfs_hub: FakeHub, tmp_path: Path) -> None:
    fetch(lfs_hub, tmp_path)
    before = list(lfs_hub.ranges)
    assert "path" in fetch(lfs_hub, tmp_path)
    assert lfs_hub.ranges == before


def test_cut_connection_is_gone_on_with(lfs_hub: FakeHub, tmp_path: Path) -> None:
    lfs_hub.faults[_WEIGHTS] = [Fault("cut", at=1_400_000)]
    assert "path" in fetch(lfs_hub, tmp_path)
    (_, first), (start, rest) = weights_ranges(lfs_hub)
    assert 0 < start <= first
    assert start + rest == len(lfs_hub.repos["org/tiny"].files[_WEIGHTS])


@pytest.mark.parametrize("name", [_WEIGHTS, "config.json"])
def test_flipped_byte_is_found_and_the_file_fetched_again(
    lfs_hub: FakeHub, tmp_path: Path, name: str
) -> None:
    lfs_hub.faults[name] = [Fault("flip", at=20)]
    said = fetch(lfs_hub, tmp_path)
    assert (Path(said["path"]) / name).read_bytes() == lfs_hub.repos["org/tiny"].files[name]
    assert [start for n, start, _ in lfs_hub.ranges if n == name] == [0, 0]


@pytest.mark.parametrize("name", [_WEIGHTS, "config.json"])
def test_byte_that_stays_flipped_is_said_and_nothing_kept(
    lfs_hub: FakeHub, tmp_path: Path, name: str
) -> None:
    lfs_hub.faults[name] = [Fault("flip", at=20, times=-1)]
    said = fetch(lfs_hub, tmp_path)
    assert said["cause"] == "corrupt_weights"
    assert "came twice" in said["evidence"]
    bad = lfs_hub.repos["org/tiny"].files[name]
    assert len(bad) not in blobs(tmp_path).values()


@pytest.mark.parametrize(
    ("fault", "token", "cause", "evidence", "remedy"),
    [
        (Fault("", status=401), _TOKEN, "hub_auth", "refuses the token", "HUGGINGFACE_API_KEY"),
        (Fault("", status=401), "", "hub_auth", "asks for a token", "settings/tokens"),
        ("GatedRepo 403", _TOKEN, "hub_auth", "gated", "https://huggingface.co/org/tiny"),
        ("GatedRepo 401", "", "hub_auth", "gated", "then put a token"),
        ("RepoNotFound 404", _TOKEN, "hub_not_found", "this token may read", "check the name"),
        ("RepoNotFound 401", "", "hub_not_found", "no public repo", "a private one needs a token"),
        (Fault("", status=403), _TOKEN, "hub_auth", "forbids", "HUGGINGFACE_API_KEY"),
        (Fault("", status=503, times=-1), "", "hub_network", "503 again and again", "later"),
        (
            Fault("", status=429, times=-1, headers={"Retry-After": "900"}),
            "", "hub_network", "too often", "in 900 s",
        ),
    ],
)  # fmt: skip
def test_refusal_becomes_a_sentence(
    lfs_hub: FakeHub, tmp_path: Path, *,
    fault: Fault | str, token: str, cause: str, evidence: str, remedy: str,
) -> None:  # fmt: skip
    if isinstance(fault, str):
        code, _, status = fault.partition(" ")
        fault = Fault("", status=int(status), times=-1, headers={"X-Error-Code": code})
    # `times` is counted down while it is served: a copy for this test.
    lfs_hub.refusals["org/tiny"] = [Fault("", status=fault.status, times=-1, headers=fault.headers)]
    said = fetch(lfs_hub, tmp_path, HF_TOKEN=token)
    assert said["cause"] == cause, said
    assert evidence in said["evidence"], said
    assert remedy in said["remedy"], said
    assert _TOKEN not in json.dumps(said)


def test_missing_revision_is_named(lfs_hub: FakeHub, tmp_path: Path) -> None:
    said = fetch(lfs_hub, tmp_path, "v7")
    assert said["cause"] == "hub_not_found"
    assert said["evidence"] == "org/tiny has no revision v7"


@pytest.mark.parametrize(
    "fault",
    [Fault("", status=429, times=2, headers={"Retry-After": "1"}), Fault("", status=502, times=2)],
)
def test_hub_that_asks_for_patience_gets_it(lfs_hub: FakeHub, tmp_path: Path, fault: Fault) -> None:
    lfs_hub.refusals["org/tiny"] = [fault]
    assert "path" in fetch(lfs_hub, tmp_path)
    assert fault.times == 0


@pytest.mark.parametrize(
    ("more", "evidence"),
    [
        ({"HF_ENDPOINT": "http://nowhere.invalid"}, "nowhere.invalid cannot be resolved"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "refused"),
    ],
)
def test_ways_not_to_reach_the_hub_are_told_apart(
    lfs_hub: FakeHub, tmp_path: Path, more: dict[str, str], evidence: str
) -> None:
    said = fetch(lfs_hub, tmp_path, **more)
    assert (said["cause"], said["retry"]) == ("hub_network", True)
    assert evidence in said["evidence"], said


def test_token_is_shown_to_the_hub_and_not_to_the_cdn(lfs_hub: FakeHub, tmp_path: Path) -> None:
    lfs_hub.rate = 2_000_000
    with launch(lfs_hub, tmp_path, HF_TOKEN=_TOKEN) as process:
        wait_for(lambda: weights_ranges(lfs_hub))
        assert _TOKEN.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        said, _ = process.communicate(timeout=30)
    assert _TOKEN not in said
    assert {token for _, token in lfs_hub.authorizations} == {_TOKEN}


def test_stalled_download_goes_on_in_a_new_process(lfs_hub: FakeHub, tmp_path: Path) -> None:
    lfs_hub.faults[_WEIGHTS] = [Fault("stall", at=1_400_000)]
    reports = asyncio.run(_fetched(lfs_hub, tmp_path))
    assert isinstance(reports[-1], Fetched)
    (_, first), (start, _) = weights_ranges(lfs_hub)
    assert 0 < start <= first


def test_download_that_stalls_for_good_is_given_up(lfs_hub: FakeHub, tmp_path: Path) -> None:
    lfs_hub.faults[_WEIGHTS] = [Fault("stall", at=1000, times=-1)]
    last = asyncio.run(_fetched(lfs_hub, tmp_path))[-1]
    assert isinstance(last, Diagnosis)
    assert "stood still for 3 s, 3 times" in last.evidence
    assert len(weights_ranges(lfs_hub)) == 3


async def _fetched(hub: FakeHub, home: Path) -> list[FetchReport]:
    env = environment(hub, home)
    return [report async for report in ProcessHub(Children(), 3.0).fetch("org/tiny", None, env)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["/bin/mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mount is not possible here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["/bin/umount", "--lazy", str(place)], check=True)


def test_model_too_large_for_the_disk_is_refused_before(lfs_hub: FakeHub, small_disk: Path) -> None:
    lfs_hub.repos["org/tiny"] = lfs_repo(8 << 20)
    said = fetch(lfs_hub, small_disk)
    assert said["cause"] == "disk_full"
    assert "needs 8.0 MiB more, 4.0 MiB are free" in said["evidence"]
    assert (weights_ranges(lfs_hub), blobs(small_disk)) == ([], {})


def test_disk_that_gets_full_meanwhile_ends_with_the_numbers_and_a_clean_cache(
    lfs_hub: FakeHub, small_disk: Path
) -> None:
    lfs_hub.repos["org/tiny"] = lfs_repo(3 << 20)
    lfs_hub.rate = 1 << 20
    with launch(lfs_hub, small_disk) as process:
        wait_for(lambda: weights_ranges(lfs_hub))
        wait_for(lambda: blobs(small_disk))
        _fill(small_disk / "other", 3 << 20)
        words, _ = process.communicate(timeout=30)
    said = json.loads(words.splitlines()[-1])
    assert said["cause"] == "disk_full", said
    assert "its part file was deleted" in said["evidence"]
    assert blobs(small_disk) == {}


def _fill(path: Path, size: int) -> None:
    try:
        path.write_bytes(bytes(size))
    except OSError as error:
        assert error.errno == errno.ENOSPC  # noqa: PT017 (full is what it was to become)
