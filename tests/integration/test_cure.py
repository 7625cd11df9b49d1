"""What was missing appears, and the daemon goes on by itself: files, a hub, a GPU, space.

Out of `failed` too; and what would be of no use is tried once, or fetched once, and no more.
"""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fake_vllm.gpu_log import gpu_failure
from fake_vllm.script import Behaviour, failure

from .fleet import running_fleet
from .harness import Daemon, Json
from .scripted_gpus import Gpu, ScriptedGpus
from .stub_hub import SHA, WEIGHTS, StubHub

REPO = "org/tiny"
# The watch looks every 5 s.
SOON_S = 12.0


def failed(daemon: Daemon) -> Json:
    found: Json = daemon.status()["last_failure"]
    return found


def weights_of_hub(daemon: Daemon) -> Path:
    """Return the weights of the snapshot: a link to the blob."""
    cache = daemon.cache / "huggingface" / "hub" / "models--org--tiny"
    return cache / "snapshots" / SHA / "model.safetensors"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    """Damage it so that only its hash can tell."""
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def downloads(hub: StubHub) -> int:
    return sum(seen == ("GET", f"/{REPO}/resolve/{SHA}/model.safetensors") for seen in hub.seen)


@pytest.fixture
def downloaded(daemon: Daemon, hub: StubHub) -> Daemon:
    """A stopped daemon whose model is a damaged snapshot of the hub's."""
    daemon.write_env(HF_ENDPOINT=hub.endpoint, LOCAL_LLM_MODEL=REPO)
    daemon.start_ready()
    assert daemon.stop() == 0
    flip(weights_of_hub(daemon).resolve())
    assert downloads(hub) == 1
    return daemon


def test_damaged_file_of_a_snapshot_is_fetched_again_and_served(
    downloaded: Daemon, hub: StubHub
) -> None:
    downloaded.play_next(failure("corrupt_weights"), Behaviour())
    downloaded.start_ready()
    assert downloaded.started() == 1 + 2
    assert downloads(hub) == 2
    assert weights_of_hub(downloaded).read_bytes() == WEIGHTS
    why = failed(downloaded)
    assert (why["cause"], why["model"]) == ("corrupt_weights", REPO)
    assert why["action"] == "looking for the damaged file, to fetch it again"


@pytest.mark.parametrize(
    ("there", "starts"),
    [(b"<html>not found</html>", 1), (WEIGHTS[:-1] + b"?", 2)],
    ids=["seen by its header", "seen by the engine only"],
)
def test_file_that_is_damaged_at_the_hub_too_is_given_up(
    downloaded: Daemon, hub: StubHub, there: bytes, starts: int
) -> None:
    hub.files["model.safetensors"] = there
    downloaded.play_next(failure("corrupt_weights"))
    downloaded.start()
    downloaded.wait_phase("failed")
    assert downloaded.started() == 1 + starts
    assert downloads(hub) == 2
    assert failed(downloaded)["cause"] == "corrupt_weights"


def test_hub_out_of_reach_during_a_repair_is_waited_for(downloaded: Daemon, hub: StubHub) -> None:
    downloaded.play_next(failure("corrupt_weights"), Behaviour())
    hub.refusals[REPO] = (503, {})
    downloaded.start()
    downloaded.wait_phase("backoff")
    assert (failed(downloaded)["cause"], downloaded.started()) == ("hub_network", 1 + 1)
    hub.refusals.clear()
    downloaded.wait_phase("ready")
    assert weights_of_hub(downloaded).read_bytes() == WEIGHTS


def test_whole_snapshot_that_the_engine_cannot_read_is_not_fetched_again(
    downloaded: Daemon, hub: StubHub
) -> None:
    weights_of_hub(downloaded).resolve().write_bytes(WEIGHTS)
    downloaded.play_next(failure("corrupt_weights"))
    downloaded.start()
    downloaded.wait_phase("failed")
    assert (downloaded.started(), downloads(hub)) == (1 + 1, 1)
    assert "no file of org/tiny is damaged" in failed(downloaded)["evidence"]


def test_file_of_a_snapshot_that_was_cut_short_is_fetched_again_without_a_failed_start(
    downloaded: Daemon, hub: StubHub
) -> None:
    truncate(weights_of_hub(downloaded).resolve())
    downloaded.start_ready()
    assert (downloaded.started(), downloads(hub)) == (1 + 1, 2)
    assert weights_of_hub(downloaded).read_bytes() == WEIGHTS


def test_swap_to_weights_that_were_cut_short_stops_nothing(daemon: Daemon) -> None:
    file = daemon.root / "models" / "org-b" / "model.safetensors"
    file.write_bytes(WEIGHTS[:-100])
    daemon.start_ready()
    done = daemon.ctl("swap-model", "org/b")
    assert done.returncode != 0
    size = len(WEIGHTS)
    assert f"model.safetensors: {size - 100} bytes, {size} by its header" in done.stderr
    assert str(file.parent) in done.stderr
    assert (daemon.phase(), daemon.started()) == ("ready", 1)
    checked = daemon.ctl("check", "org/b")
    assert checked.returncode != 0
    assert f"{size} by its header" in checked.stdout


def test_damaged_file_of_a_directory_is_named_kept_and_served_once_it_is_mended(
    daemon: Daemon,
) -> None:
    file = daemon.root / "models" / "org-a" / "model.safetensors"
    file.write_bytes(WEIGHTS[:-100])
    daemon.start()
    daemon.wait_phase("failed")
    why = failed(daemon)
    assert (why["cause"], daemon.started()) == ("corrupt_weights", 0)
    size = len(WEIGHTS)
    assert f"model.safetensors: {size - 100} bytes, {size} by its header" in why["evidence"]
    assert str(file.parent) in why["remedy"]
    assert file.read_bytes() == WEIGHTS[:-100]
    file.write_bytes(WEIGHTS)
    daemon.wait_phase("ready", timeout_s=SOON_S)
    assert daemon.started() == 1


class Nothing:
    """A failure that nothing cures; each other one is cured by `cure`."""

    cause = "missing_dependency"

    def break_(self, daemon: Daemon, gpus: ScriptedGpus) -> None:
        """Let the first start fail."""
        gpus.show(Gpu())
        daemon.play(failure("missing_dependency"), Behaviour())

    def cure(self, daemon: Daemon, gpus: ScriptedGpus) -> None:
        """Bring what was missing."""


class Engine(Nothing):
    """A part that the engine lacks is installed."""

    def cure(self, daemon: Daemon, gpus: ScriptedGpus) -> None:
        gpus.show(Gpu())
        (daemon.engine / "lib" / "python3.11" / "site-packages" / "tensorizer").mkdir()


class Directory(Nothing):
    """The model's directory is mounted, or moved back."""

    cause = "hub_not_found"

    def break_(self, daemon: Daemon, gpus: ScriptedGpus) -> None:
        gpus.show(Gpu())
        (daemon.root / "models" / "org-a").rename(daemon.root / "away")

    def cure(self, daemon: Daemon, gpus: ScriptedGpus) -> None:
        gpus.show(Gpu())
        (daemon.root / "away").rename(daemon.root / "models" / "org-a")


class Memory(Nothing):
    """Memory whose holder nobody can name, so that it has failed, is given back."""

    cause = "gpu_oom_startup_alloc"

    def break_(self, daemon: Daemon, gpus: ScriptedGpus) -> None:
        gpus.show(Gpu(used_mib=2_300))
        gib = {"weights": 21.4, "graphs": 0, "activation_per_1k": 0, "kv_per_1k": 0.05}
        daemon.play(Behaviour(memory=gib))

    def cure(self, daemon: Daemon, gpus: ScriptedGpus) -> None:
        assert daemon.started() > 0
        gpus.show(Gpu())


@pytest.mark.usefixtures("_subreaper")
def test_what_was_missing_is_noticed_and_nothing_else(tmp_path: Path) -> None:
    cases = {case.__name__: case() for case in (Nothing, Engine, Directory, Memory)}
    with running_fleet(tmp_path, cases) as fleet:
        for name, case in cases.items():
            case.break_(fleet.daemons[name], fleet.gpus[name])
        fleet.each(lambda daemon: daemon.start())
        fleet.each(lambda daemon: daemon.wait_phase("failed"))
        assert {n: d.cause() for n, d in fleet.daemons.items()} == {
            name: case.cause for name, case in cases.items()
        }
        time.sleep(5.5)  # the watch looks, and finds nothing new
        assert set(fleet.each(lambda daemon: daemon.phase()).values()) == {"failed"}
        tried = {name: daemon.started() for name, daemon in fleet.daemons.items()}
        for name, case in cases.items():
            case.cure(fleet.daemons[name], fleet.gpus[name])
        for name in cases:
            if name != "Nothing":
                fleet.daemons[name].wait_phase("ready", timeout_s=SOON_S)
        nothing = fleet.daemons["Nothing"]
        assert (nothing.phase(), nothing.started()) == ("failed", tried["Nothing"])


def test_gpu_that_comes_late_at_boot_is_served_on(gpu_daemon: Daemon, gpus: ScriptedGpus) -> None:
    gpus.take_driver_away()
    gpu_daemon.play(Behaviour(memory={}))
    gpu_daemon.start()
    gpu_daemon.wait_phase("backoff")
    why = failed(gpu_daemon)
    assert (why["cause"], why["action"]) == ("cuda_driver", "trying again in 1 s")
    assert "Failed to infer device type" in why["evidence"]
    gpus.show(Gpu())
    gpu_daemon.wait_phase("ready")
    assert gpu_daemon.started() <= 4


@contextmanager
def small_disk(at: Path) -> Iterator[None]:
    """Mount 8 MiB of memory as a disk until the end of the block."""
    at.mkdir(parents=True)
    mount = ["/bin/mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(at)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("may not mount here")
    try:
        yield
    finally:
        subprocess.run(["/bin/umount", "--lazy", str(at)], check=True)


def test_full_disk_is_given_up_and_tried_again_once_there_is_space(daemon: Daemon) -> None:
    with small_disk(daemon.cache):
        filler = daemon.cache / "filler"
        filler.write_bytes(bytes(6 << 20))
        daemon.play(failure("disk_full"), Behaviour())
        daemon.start()
        daemon.wait_phase("failed")
        why = failed(daemon)
        assert (why["cause"], daemon.started()) == ("disk_full", 1)
        assert "No space left on device" in why["evidence"]
        filler.unlink()
        daemon.wait_phase("ready", timeout_s=SOON_S)
        assert daemon.stop() == 0


@pytest.mark.parametrize("when", ["illegal_start", "illegal_serving"])
def test_illegal_access_gets_one_more_start_and_then_a_person(
    gpu_daemon: Daemon, when: str
) -> None:
    gpu_daemon.play(gpu_failure(when))
    gpu_daemon.start()
    gpu_daemon.wait_phase("failed")
    why = failed(gpu_daemon)
    assert (why["cause"], gpu_daemon.started()) == ("cuda_driver", 2)
    assert "illegal memory access" in why["evidence"]
    assert "it came again after a restart" in why["action"]


def test_illegal_access_that_does_not_come_again_is_forgiven(gpu_daemon: Daemon) -> None:
    gpu_daemon.play(gpu_failure("illegal_start"), Behaviour())
    gpu_daemon.start_ready()
    assert failed(gpu_daemon)["action"] == "trying again in 1 s"
    assert gpu_daemon.started() == 2
