"""The real engine fails, and the daemon knows why and does the right thing. Times are printed.

Each story has a daemon of its own, since its settings are what fails; one engine at a time.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.daemon import free_port, started
from engine.harness import DEMO, TINY, Daemon, is_alive, tree, wait_for
from integration.stub_hub import running_hub

pytestmark = pytest.mark.timeout(600)
BASE = 'enforce-eager = true\nkv-cache-memory-bytes = "256M"\nmax-model-len = 2048\n'
MEMORY = Path("/sys/fs/cgroup/memory")


class Story:
    """The files of one daemon that will fail."""

    def __init__(self, home: Path, engine: Path, runtime: Path) -> None:
        self.home, self.engine = home, engine
        self.port = free_port()
        self.profiles = home / "config" / "cahoots-vllm" / "models.d"
        self.profiles.mkdir(parents=True)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "CAHOOTS_"))}
        self.env |= {f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CONFIG", "STATE")}
        self.env["XDG_RUNTIME_DIR"] = str(runtime)
        self.env["XDG_CACHE_HOME"] = str(home / "cache")

    def profile(self, name: str, source: str, options: str) -> None:
        path = self.profiles / f"{name.replace('/', '-').lower()}.toml"
        path.write_text(f'name = "{name}"\nsource = "{source}"\n[options]\n{options}')

    def write_env(self, model: str, **more: str) -> None:
        values = {
            "LLM_PROVIDER": "local",
            "LOCAL_LLM_URL": f"http://localhost:{self.port}/v1",
            "LOCAL_LLM_MODEL": model,
            **more,
        }
        text = "".join(f"{name}={value}\n" for name, value in values.items())
        (self.home / ".env").write_text(text)

    @contextmanager
    def running(self) -> Iterator[Daemon]:
        with started(self.home, self.env, self.engine, self.port) as daemon:
            assert wait_for(lambda: daemon.ctl("status").returncode != 4, 20)
            yield daemon


@pytest.fixture
def story(engine: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(tmp_path, engine, tmp_path_factory.mktemp("run"))


def wait_state(daemon: Daemon, *states: str, timeout_s: float = 240.0) -> dict[str, Any]:
    """Return the status once the state is one of these."""
    found: dict[str, Any] = {}

    def is_there() -> bool:
        found.update(daemon.status())
        return found["state"] in states

    assert wait_for(is_there, timeout_s), f"{found.get('state')}: {daemon.log.read_text()[-3000:]}"
    return found


def answers(daemon: Daemon, model: str) -> str:
    answer = daemon.client().completions.create(
        model=model, prompt="The capital of France is", temperature=0, max_tokens=3
    )
    return answer.choices[0].text


def lessons(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(daemon.ctl("memory", "--json").stdout)["memory"]
    return found


def say(what: str, started: float) -> None:
    print(f"\n    {what}: {time.monotonic() - started:.1f} s")  # noqa: T201 (a figure, not a log)


def test_share_that_the_host_has_not_free_is_served_lower_with_the_reason(
    story: Story, demo_model: Path
) -> None:
    started = time.monotonic()
    story.profile(
        DEMO, str(demo_model),
        "enforce-eager = true\nmax-model-len = 2048\ngpu-memory-utilization = 0.999\n",
    )  # fmt: skip
    story.write_env(DEMO)
    with story.running() as daemon:
        status = wait_state(daemon, "ready", "failed")
        say("from 0.999 to ready", started)
        assert status["state"] == "ready", status["last_failure"]
        worker = status["worker"]
        assert worker["gpu_memory_utilization"] < 0.95
        (adapted,) = worker["adapted"]
        assert (adapted["option"], adapted["asked"]) == ("gpu-memory-utilization", 0.999)
        assert adapted["used"] == worker["gpu_memory_utilization"]
        assert "GiB free" in adapted["reason"]
        print(f"    {adapted}")  # noqa: T201 (a figure)
        assert answers(daemon, DEMO)
        assert lessons(daemon)[-1]["has_worked"]


def test_share_too_small_for_the_context_goes_up_and_serves(story: Story, demo_model: Path) -> None:
    started = time.monotonic()
    story.profile(
        DEMO, str(demo_model),
        "enforce-eager = true\nmax-model-len = 8192\ngpu-memory-utilization = 0.02\n",
    )  # fmt: skip
    story.write_env(DEMO)
    with story.running() as daemon:
        status = wait_state(daemon, "ready", "failed", timeout_s=400)
        say("from 0.02 to ready", started)
        assert status["state"] == "ready", status["last_failure"]
        assert status["worker"]["gpu_memory_utilization"] > 0.02
        assert status["worker"]["max_model_len"] == 8192
        assert status["last_failure"]["cause"] in {"kv_cache_none", "kv_cache_too_small"}
        change = status["last_failure"]["changed"][0]
        assert change["option"] == "gpu-memory-utilization"
        assert change["after"] > change["before"]
        print(f"    {status['worker']['generation']} starts, {status['last_failure']}")  # noqa: T201
        assert answers(daemon, DEMO)


def test_refused_option_costs_no_start_a_refused_value_one_and_a_reload_recovers(
    story: Story, tiny_model: Path
) -> None:
    story.profile(TINY, str(tiny_model), f"{BASE}max-num-seq = 4\n")
    story.write_env(TINY)
    with story.running() as daemon:
        failure = wait_state(daemon, "failed")["last_failure"]
        assert failure["cause"] == "bad_arguments"
        assert "knows no option --max-num-seq" in failure["evidence"]
        assert "did you mean max-num-seqs?" in failure["remedy"]
        assert starts(daemon) == 0
        story.profile(TINY, str(tiny_model), f'{BASE}dtype = "float15"\n')
        assert daemon.ctl("reload").returncode != 0
        failure = daemon.status()["last_failure"]
        assert failure["cause"] == "bad_arguments"
        assert "float15" in failure["evidence"]
        assert starts(daemon) == 1
        story.profile(TINY, str(tiny_model), BASE)
        reloaded = daemon.ctl("reload")
        assert reloaded.returncode == 0, reloaded.stderr
        assert daemon.status()["state"] == "ready"


def starts(daemon: Daemon) -> int:
    """Return how often the engine was started: each start has a generation of its own."""
    path = Path(daemon.env["XDG_STATE_HOME"]) / "cahoots-vllm" / "state.json"
    return int(json.loads(path.read_text())["generation"]) if path.exists() else 0


def test_missing_repo_fails_without_a_start_and_recovers_when_it_is_there(
    story: Story, tiny_model: Path
) -> None:
    with running_hub() as hub:
        hub.files = {path.name: path.read_bytes() for path in tiny_model.iterdir()}
        hub.refusals["org/tiny"] = (404, {"X-Error-Code": "RepoNotFound"})
        story.profile("org/tiny", "org/tiny", BASE)
        story.write_env("org/tiny", HF_ENDPOINT=hub.endpoint)
        with story.running() as daemon:
            failure = wait_state(daemon, "failed")["last_failure"]
            assert failure["cause"] == "hub_not_found"
            assert "org/tiny" in failure["remedy"]
            assert starts(daemon) == 0
            del hub.refusals["org/tiny"]
            started = daemon.ctl("start")
            assert started.returncode == 0, started.stderr
            assert daemon.status()["state"] == "ready"


def test_truncated_weights_are_refused_and_served_once_the_hub_has_them(
    story: Story, tiny_model: Path
) -> None:
    with running_hub() as hub:
        whole = {path.name: path.read_bytes() for path in tiny_model.iterdir()}
        hub.files = whole | {"model.safetensors": whole["model.safetensors"][:-1000]}
        story.profile("org/tiny", "org/tiny", BASE)
        story.write_env("org/tiny", HF_ENDPOINT=hub.endpoint)
        with story.running() as daemon:
            # The hub itself has a damaged file: no engine need find that out.
            failure = wait_state(daemon, "failed")["last_failure"]
            assert failure["cause"] == "corrupt_weights"
            assert "by its header" in failure["evidence"]
            assert starts(daemon) == 0
            hub.files = whole
            started = daemon.ctl("start")
            assert started.returncode == 0, started.stderr
            assert daemon.status()["state"] == "ready"
            assert starts(daemon) == 1


def test_weights_that_only_the_engine_finds_damaged_are_fetched_again(
    story: Story, tiny_model: Path
) -> None:
    with running_hub() as hub:
        hub.files = {path.name: path.read_bytes() for path in tiny_model.iterdir()}
        story.profile("org/tiny", "org/tiny", BASE)
        story.write_env("org/tiny", HF_ENDPOINT=hub.endpoint)
        with story.running() as daemon:
            wait_state(daemon, "ready")
            stopped = daemon.ctl("stop")
            assert stopped.returncode == 0, stopped.stderr
            weights = next((story.home / "cache").rglob("snapshots/*/model.safetensors"))
            overlap_tensors(weights.resolve())
            started = daemon.ctl("start")
            assert started.returncode == 0, started.stderr
            status = daemon.status()
            assert status["state"] == "ready"
            assert status["last_failure"]["cause"] == "corrupt_weights"
            assert status["last_failure"]["action"].startswith("looking for the damaged file")
            print(f"    {status['last_failure']['evidence']}")  # noqa: T201 (what an admin reads)
            assert starts(daemon) == 3
            assert weights.read_bytes() == hub.files["model.safetensors"]


def overlap_tensors(path: Path) -> None:
    """Damage the header of a safetensors file so that its length is right all the same."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    first = min(
        (tensor for name, tensor in header.items() if name != "__metadata__"),
        key=lambda tensor: tensor["data_offsets"],
    )
    first["data_offsets"][1] -= 2
    text = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    assert len(text) == length
    path.write_bytes(data[:8] + text + data[8 + length :])


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """Make a memory cgroup (version 1 or 2) that holds 4 MiB; root only, as CI is."""
    v2 = Path("/sys/fs/cgroup/cgroup.controllers")
    root = MEMORY if MEMORY.is_dir() else Path("/sys/fs/cgroup")
    if not MEMORY.is_dir() and not (v2.exists() and "memory" in v2.read_text()):
        pytest.fail("no memory cgroups on this host: the kernel's OOM killer cannot be played")
    path = root / f"cahoots-test-{os.getpid()}"
    path.mkdir()
    limit = "memory.limit_in_bytes" if MEMORY.is_dir() else "memory.max"
    (path / limit).write_text(str(4 << 20))
    yield path
    wait_for(lambda: not (path / "cgroup.procs").read_text().split(), 10)
    path.rmdir()


def test_kernels_oom_kill_is_told_from_a_plain_sigkill(
    story: Story, tiny_model: Path, small_cgroup: Path
) -> None:
    story.profile(TINY, str(tiny_model), BASE)
    story.write_env(TINY)
    with story.running() as daemon:
        wait_state(daemon, "ready")
        os.kill(_worker(daemon), signal.SIGKILL)
        generation = daemon.status()["worker"]["generation"] if daemon.status()["worker"] else 1
        assert wait_for(lambda: daemon.status()["state"] != "ready", 10)
        plain = daemon.wait_ready(after=generation)["last_failure"]
        assert plain["cause"] == "engine_dead_other", plain

        victim = _worker(daemon)
        (small_cgroup / "cgroup.procs").write_text(str(victim))
        # It is what kills the worker, and it is answered: by the next one, which has room.
        answer = daemon.client().completions.create(model=TINY, prompt="x " * 900, max_tokens=900)
        assert answer.choices[0].finish_reason in ("stop", "length")
        assert not is_alive(victim)
        killed = daemon.wait_ready(after=generation + 1)["last_failure"]
        assert killed["cause"] == "host_oom", killed
        print(f"    {killed['evidence']}")  # noqa: T201 (what an admin reads)


def _worker(daemon: Daemon) -> int:
    found = tree(daemon.process.pid)
    return next(pid for pid, title in found.items() if title.startswith("VLLM::Worker"))
