"""The doctor finds each planted fault, and nothing on a healthy host."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fake_vllm.script import Behaviour

from .examiner import ctl, examine, examine_alone, is_root
from .harness import Daemon, wait_for
from .scripted_gpus import Gpu, ScriptedGpus
from .stub_hub import StubHub

_DEADLINE_S = 5.0
needs_root = pytest.mark.skipif(not is_root(), reason="mounts and networks need root")


def test_healthy_host_has_no_problem_and_is_examined_in_time(daemon: Daemon) -> None:
    daemon.start_ready()
    report = examine(daemon)
    count = len(report.document["findings"])
    sys.stdout.write(f"\n{count} findings in {report.document['seconds']} s\n")
    assert report.problems == []
    assert report.document["healthy"] is True
    assert report.document["examined_by"] == "daemon"
    # The doctor's own deadlines bound it, however slow this host is.
    assert report.document["seconds"] < _DEADLINE_S
    said = ctl(daemon, "doctor")
    assert said.returncode == 0
    assert said.stdout.splitlines()[-1].startswith("healthy: ")
    assert daemon.status()["findings"] == []


def test_daemon_down_is_a_finding_and_no_exit_4(daemon: Daemon) -> None:
    said = ctl(daemon, "doctor", "--json")
    assert said.returncode == 1
    document = json.loads(said.stdout)
    assert document["examined_by"] == "cahootsctl"
    [down] = [f for f in document["findings"] if f["check"] == "daemon"]
    assert down["level"] == "fail"
    assert "nothing listens on" in down["sentence"]
    assert "systemctl start" in down["remedy"]
    assert "journalctl" in down["remedy"]
    text = ctl(daemon, "doctor")
    assert text.stdout.startswith("no daemon answers")
    assert "failed" in text.stdout.splitlines()[-1]


def test_broken_settings_while_no_daemon_is_there(daemon: Daemon) -> None:
    daemon.write_env(LLM_PROVIDER="lcoal")
    assert "did you mean local?" in examine_alone(daemon).found("settings", "fail")


def test_port_of_another_process_is_named(daemon: Daemon) -> None:
    code = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1])));"
        "print('listening', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(daemon.port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        said = examine_alone(daemon).found("port", "fail")
        other.kill()
    assert f"port {daemon.port} is held by python" in said
    assert f"kill {other.pid}" in said


def test_env_file_that_everybody_may_read(daemon: Daemon) -> None:
    daemon.write_env(HUGGINGFACE_API_KEY="hf_secretsecret")
    (daemon.root / ".env").chmod(0o644)
    report = examine_alone(daemon)
    assert "everybody on this host may read it (0644)" in report.found("env-file", "warn")
    assert "hf_secretsecret" not in json.dumps(report.document)
    (daemon.root / ".env").chmod(0o640)
    assert report.of("env-file") != examine_alone(daemon).of("env-file")


def test_keys_at_odds(daemon: Daemon) -> None:
    daemon.write_env(HUGGINGFACE_API_KEY="hf_one_token", HF_TOKEN="hf_two", VLLM_API_KEY="k1")  # noqa: S106 (planted)
    found = [f["sentence"] for f in examine_alone(daemon).of("env-keys")]
    assert any("hold different tokens" in text for text in found)
    assert any("VLLM_API_KEY is set" in text for text in found)


def test_refused_token(daemon: Daemon, hub: StubHub) -> None:
    daemon.write_env(HF_ENDPOINT=hub.endpoint, HUGGINGFACE_API_KEY="hf_refused_one")
    hub.refusals["api/whoami-v2"] = (401, {})
    assert "refuses the token (401)" in examine_alone(daemon).found("token", "fail")
    assert "Bearer hf_refused_one" in hub.tokens


def test_clock_that_is_wrong(daemon: Daemon, hub: StubHub) -> None:
    daemon.write_env(HF_ENDPOINT=hub.endpoint)
    hub.clock_ahead_s = 600.0
    assert "the clock is 10 min behind" in examine_alone(daemon).found("clock", "warn")


@pytest.mark.parametrize(
    ("endpoint", "proxy", "why"),
    [
        ("http://127.0.0.1:1", "", "refused"),
        ("http://no-such-hub.invalid", "", "its name does not resolve"),
        ("http://no-such-hub.invalid", "http://me:word@127.0.0.1:1", "through the proxy"),
        ("https://127.0.0.1:{port}", "", "TLS fails"),
    ],
)
def test_hub_out_of_reach_where_the_model_is_not_here(
    daemon: Daemon, hub: StubHub, endpoint: str, proxy: str, why: str
) -> None:
    port = hub.endpoint.rpartition(":")[2]
    daemon.write_env(HF_ENDPOINT=endpoint.format(port=port), LOCAL_LLM_MODEL="org/elsewhere")
    environment = {"HTTP_PROXY": proxy, "http_proxy": proxy} if proxy else {}
    said = examine_alone(daemon, environment=environment).found("hub", "fail")
    assert why in said
    assert "word" not in said


def test_model_that_no_hub_has(daemon: Daemon, hub: StubHub) -> None:
    daemon.write_env(HF_ENDPOINT=hub.endpoint, LOCAL_LLM_MODEL="org/nowhere")
    hub.refusals["org/nowhere"] = (404, {})
    assert "no such model is on the hub" in examine_alone(daemon).found("model", "fail")


def plant_engine(daemon: Daemon, **modules: str) -> Path:
    """Give the engine a Python of its own with these modules."""
    engine = daemon.engine
    target = engine / "bin" / "python"
    target.symlink_to(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
    (engine / "pyvenv.cfg").write_text(f"home = {sys.base_prefix}/bin\n")
    version = f"python3.{sys.version_info.minor}"
    for name, text in modules.items():
        package = engine / "lib" / version / "site-packages" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(text)
    return engine


def test_engine_whose_import_breaks(daemon: Daemon) -> None:
    lost = 'raise ImportError("libcudart.so.13: cannot open shared object file")'
    plant_engine(daemon, torch=lost, vllm="")
    said = examine_alone(daemon).found("engine", "fail")
    assert "cannot be imported: ImportError: libcudart.so.13" in said


def test_engine_that_imports(daemon: Daemon) -> None:
    plant_engine(daemon, torch='__version__ = "2.13.0"', vllm="")
    assert "torch 2.13.0; it imports" in examine_alone(daemon).found("engine", "ok")


def test_engine_whose_import_takes_too_long_is_not_waited_for(daemon: Daemon) -> None:
    plant_engine(daemon, torch='__version__ = "2.13.0"', vllm="import time; time.sleep(60)")
    report = examine_alone(daemon)
    assert "was not waited for" in report.found("engine", "ok")
    assert report.document["seconds"] < _DEADLINE_S


def test_engine_whose_python_is_gone(daemon: Daemon) -> None:
    script = daemon.engine / "bin" / "vllm"
    script.write_text(f"#!{daemon.engine}/bin/python3\n")
    (daemon.engine / "bin" / "python").symlink_to("/usr/bin/python3.0")
    assert "its Python is gone" in examine_alone(daemon).found("engine", "fail")


@needs_root
def test_small_shared_memory_and_full_disk(daemon: Daemon) -> None:
    daemon.cache.mkdir(parents=True)
    tmp = "mount -t tmpfs -o"
    shm, cache = f"{tmp} size=32m tmpfs /dev/shm", f"{tmp} size=16m tmpfs {daemon.cache}"
    inside = f"{shm}; {cache}; head -c 16000000 /dev/zero > {daemon.cache}/big"
    report = examine_alone(daemon, inside=inside)
    assert "too small for vLLM's processes" in report.found("shm", "fail")
    assert "the cache" in report.found("disk", "fail")


@needs_root
def test_cache_that_cannot_be_written_and_runs_no_programs(daemon: Daemon) -> None:
    daemon.cache.mkdir(parents=True)
    report = examine_alone(daemon, inside=f"mount -t tmpfs -o ro,noexec tmpfs {daemon.cache}")
    assert "cannot write the cache" in report.found("writable", "fail")
    assert "noexec" in report.found("disk", "warn")


@needs_root
def test_containers_that_cannot_reach_loopback(daemon: Daemon) -> None:
    inside = (
        "mount -t sysfs sysfs /sys; ip link set lo up; ip link add docker0 type bridge; "
        "ip addr add 172.17.0.1/16 dev docker0; ip link add v0 type veth peer name v1; "
        "ip link set v0 master docker0; ip link set v0 up; ip link set v1 up; "
        "ip link set docker0 up; sleep 0.3"
    )
    said = examine_alone(daemon, inside=inside).found("docker", "warn")
    assert "containers are on docker0" in said
    assert '"172.17.0.1"' in said


@pytest.mark.parametrize(
    ("url", "level", "why"),
    [
        ("http://localhost:{port}", "warn", "OpenAI clients expect /v1"),
        ("http://localhost/v1", "warn", "that is port 80"),
        ("http://192.0.2.7:{port}/v1", "fail", "is another host"),
        ("http://0.0.0.0:{port}/v1", "warn", "no address to connect to"),
    ],
)
def test_url_that_makes_no_sense(daemon: Daemon, url: str, level: str, why: str) -> None:
    daemon.write_env(LOCAL_LLM_URL=url.format(port=daemon.port))
    assert why in examine_alone(daemon).found("url", level)


def test_failed_worker_is_told_with_its_diagnosis(daemon: Daemon) -> None:
    daemon.play(Behaviour(log="missing_dependency", die_at="config"))
    daemon.start()
    daemon.wait_phase("failed")
    report = examine(daemon)
    assert report.found("worker", "fail").startswith("failed: missing_dependency: ")
    assert report.document["healthy"] is False


# --- GPUs --------------------------------------------------------------------------------------


def test_healthy_gpu_host_has_no_problem(gpu_daemon: Daemon, gpus: ScriptedGpus) -> None:
    gpus.show(Gpu(clock_reasons=0x4), cuda=13000)  # at its own power limit: busy, not ill
    gpu_daemon.start_ready()
    assert examine(gpu_daemon).problems == []


def test_gpu_engine_without_gpu(gpu_daemon: Daemon, gpus: ScriptedGpus) -> None:
    gpus.take_driver_away()
    said = examine_alone(gpu_daemon).found("driver", "fail")
    assert "no NVIDIA GPU is on this host's bus" in said


def test_driver_too_old_for_the_engines_cuda(gpu_daemon: Daemon, gpus: ScriptedGpus) -> None:
    torch = gpu_daemon.engine / "lib" / "python3.11" / "site-packages" / "torch"
    torch.mkdir()
    text = "__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\n"
    (torch / "version.py").write_text(text)
    gpus.show(Gpu(), cuda=12040)
    said = examine_alone(gpu_daemon).found("cuda", "fail")
    assert "built for CUDA 13.0" in said
    assert "runs up to 12.4" in said
    gpus.show(Gpu(capability=(7, 0)), cuda=13000)
    assert "begins at 7.5" in examine_alone(gpu_daemon).found("gpu", "fail")


def test_stranger_on_the_gpu(
    gpu_daemon: Daemon, gpus: ScriptedGpus, holder: "subprocess.Popen[bytes]"
) -> None:
    gpus.show(Gpu().held_by(holder.pid, 9000))
    said = examine_alone(gpu_daemon).found("vram", "warn")
    assert f"sleep (pid {holder.pid}, user " in said
    assert "9000 MiB" in said


def test_hot_gpu_and_capped_gpu(gpu_daemon: Daemon, gpus: ScriptedGpus) -> None:
    gpu_daemon.start_ready()
    gpus.show(Gpu(clock_reasons=0x4 | 0x20, power_limit_w=200))
    found = wait_for(lambda: gpu_daemon.status()["findings"], what="findings in status")
    texts = [finding["sentence"] for finding in found]
    assert any("slowed by heat at 41 °C" in text for text in texts)
    assert any("power limit of 200 W" in text for text in texts)
    examine(gpu_daemon).found("throttling", "warn")
    assert "slow        GPU 0 (Scripted 24) is slowed by heat" in ctl(gpu_daemon, "status").stdout


def test_cpu_engine_beside_a_gpu(daemon: Daemon, gpus: ScriptedGpus) -> None:
    cpu_engine = daemon.engine
    daemon.give_gpus(gpus)
    daemon.engine = cpu_engine
    said = examine_alone(daemon).found("engine-on-cpu", "warn")
    assert "this host has Scripted 24" in said


def test_stuck_driver_is_a_warning_in_time(gpu_daemon: Daemon, gpus: ScriptedGpus) -> None:
    gpus.show(Gpu(hangs_s={"nvmlDeviceGetHandleByIndex": 60}))
    report = examine_alone(gpu_daemon)
    assert "did not answer in" in report.found("driver", "warn")
    assert report.document["seconds"] < _DEADLINE_S


def test_visible_device_that_is_not_there(gpu_daemon: Daemon) -> None:
    gpu_daemon.write_env(CUDA_VISIBLE_DEVICES="3")
    assert "this host has 1 GPUs" in examine_alone(gpu_daemon).found("env-keys", "fail")


def test_preempted_requests(daemon: Daemon) -> None:
    daemon.play(Behaviour(preempts=4))
    daemon.start_ready()

    def findings_after_a_request() -> list[dict[str, str]]:
        assert daemon.chat("a long one").status == 200
        return list(daemon.status()["findings"])

    # Two looks make a growth, and a look is a second old at most: so requests go on.
    found = wait_for(findings_after_a_request, what="findings in status")
    assert "requests were preempted" in found[0]["sentence"]
    examine(daemon).found("kv-cache", "warn")
