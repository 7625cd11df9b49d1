"""The gate before each start, on scripted GPUs: who holds the memory, ours or theirs, how much.

Seen from outside: no engine is started in vain, and who is waited for is named everywhere.
"""

import getpass
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fake_vllm.script import Behaviour

from .harness import Daemon, Json, wait_for
from .scripted_gpus import TOTAL_MIB, Gpu, ScriptedGpus

SHARE = "gpu-memory-utilization"
# A model that fits a free GPU of 24 GiB at 0.9.
FITTING = Behaviour(memory={})


def adapted(daemon: Daemon) -> dict[str, tuple[object, object]]:
    """Return what the worker runs with instead of what was asked for."""
    rows: list[Json] = daemon.status()["worker"]["adapted"]
    return {row["option"]: (row["asked"], row["used"]) for row in rows}


def test_foreign_holder_is_named_and_waited_for_without_a_start(
    gpu_daemon: Daemon, gpus: ScriptedGpus, holder: subprocess.Popen[bytes]
) -> None:
    gpus.show(Gpu().held_by(holder.pid, 20_000))
    gpu_daemon.play(FITTING)
    gpu_daemon.start()
    gpu_daemon.wait_phase("backoff")
    status, me = gpu_daemon.status(), getpass.getuser()
    waiting = status["waiting_for"]
    assert waiting["device"] == "GPU 0 (Scripted 24)"
    assert waiting["memory_wanted"] == TOTAL_MIB * 1024 * 1024 * 900 // 1000
    assert waiting["holders"] == [
        {"pid": holder.pid, "user": me, "command": "sleep", "memory_used": 20_000 << 20}
    ]
    failed = status["last_failure"]
    assert (failed["cause"], failed["changed"]) == ("gpu_oom_startup_free", [])
    who = f"sleep (pid {holder.pid}, user {me}, 20000 MiB)"
    assert failed["action"] == "waiting until it is free"
    assert who in failed["evidence"]
    assert who in gpu_daemon.log.read_text()
    text = gpu_daemon.ctl("status").stdout
    assert all(part in text for part in ("sleep", str(holder.pid), me)), text
    assert gpu_daemon.started() == 0
    gpus.show(Gpu())
    gpu_daemon.wait_phase("ready")
    assert gpu_daemon.started_with(SHARE) == ["0.9"]
    status = gpu_daemon.status()
    assert (status["waiting_for"], status["retry_at"]) == (None, None)


def test_holder_that_the_driver_hides_is_waited_for_too(
    gpu_daemon: Daemon, gpus: ScriptedGpus, holder: subprocess.Popen[bytes]
) -> None:
    """Another container's process: no MiB, and what is free tells how much it has."""
    gpus.show(Gpu(used_mib=20_000).held_by(holder.pid, None))
    gpu_daemon.play(FITTING)
    gpu_daemon.start()
    gpu_daemon.wait_phase("backoff")
    [row] = gpu_daemon.status()["waiting_for"]["holders"]
    assert (row["pid"], row["memory_used"]) == (holder.pid, None)
    who = f"(pid {holder.pid}, user {row['user']})"
    assert who in gpu_daemon.status()["last_failure"]["evidence"]
    assert str(holder.pid) in gpu_daemon.ctl("status").stdout
    assert gpu_daemon.started() == 0


def test_share_is_fitted_to_what_is_free_at_the_first_start(
    gpu_daemon: Daemon, gpus: ScriptedGpus, holder: subprocess.Popen[bytes]
) -> None:
    gpus.show(Gpu().held_by(holder.pid, 6_000))
    gpu_daemon.play(FITTING)
    gpu_daemon.start_ready()
    assert gpu_daemon.started_with(SHARE) == ["0.72"]  # 18276 MiB less 512, of 24576
    assert adapted(gpu_daemon) == {SHARE: (0.9, 0.72)}
    [row] = gpu_daemon.status()["worker"]["adapted"]
    assert str(holder.pid) in row["reason"]
    assert "0.72" in gpu_daemon.ctl("status").stdout


def test_orphan_of_ours_is_ended_and_not_waited_for(gpu_daemon: Daemon, gpus: ScriptedGpus) -> None:
    gpu_daemon.play(FITTING)
    gpu_daemon.start_ready()
    gpu_daemon.change("stop")
    mark = {"CAHOOTS_VLLM_WORKER": f"{gpu_daemon.runtime}#7"}
    orphan = subprocess.Popen(["/bin/sleep", "60"], env=mark, start_new_session=True)
    gpus.show(Gpu().held_by(orphan.pid, 20_000))
    began = time.monotonic()
    assert gpu_daemon.change("start")["state"] == "done"
    assert time.monotonic() - began < 10
    assert orphan.wait(5) == -signal.SIGKILL
    assert gpu_daemon.started_with(SHARE) == ["0.9", "0.9"]
    assert f"ended process {orphan.pid}" in str(gpu_daemon.log_entries(100))
    assert gpu_daemon.status()["last_failure"] is None


def test_orphan_of_another_daemon_is_a_foreign_holder(
    gpu_daemon: Daemon, gpus: ScriptedGpus
) -> None:
    mark = {"CAHOOTS_VLLM_WORKER": f"{gpu_daemon.runtime}-2#7"}
    theirs = subprocess.Popen(["/bin/sleep", "60"], env=mark, start_new_session=True)
    gpus.show(Gpu().held_by(theirs.pid, 20_000))
    gpu_daemon.start()
    gpu_daemon.wait_phase("backoff")
    assert theirs.poll() is None
    theirs.kill()
    theirs.wait(5)


def test_memory_that_is_just_coming_back_is_waited_for(
    gpu_daemon: Daemon, gpus: ScriptedGpus
) -> None:
    """The driver frees a dead process's memory bit by bit: neither less is taken, nor a failure."""

    def give_back() -> None:
        for used in range(20_000, -1, -2_500):
            gpus.show(Gpu(used_mib=used))
            time.sleep(0.15)

    gpus.show(Gpu(used_mib=20_000))
    gpu_daemon.play(FITTING)
    gpu_daemon.start()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(give_back)
        gpu_daemon.wait_phase("ready")
    assert gpu_daemon.started_with(SHARE) == ["0.9"]
    assert gpu_daemon.status()["last_failure"] is None


def test_own_workers_memory_is_nobodys_shortage(gpu_daemon: Daemon) -> None:
    """Over a restart, a swap and a crash the next worker gets all that the last one had."""
    gpu_daemon.play(FITTING)
    gpu_daemon.start_ready()
    [gpu] = gpu_daemon.status()["gpus"]
    assert gpu["memory_used"] > 19 << 30
    assert [row["pid"] for row in gpu["processes"]] == [gpu_daemon.pid_of("VLLM::EngineCore")]
    assert gpu_daemon.change("restart")["state"] == "done"
    assert gpu_daemon.swap("org/b")["state"] == "done"
    os.kill(gpu_daemon.main_pid(), signal.SIGKILL)
    gpu_daemon.wait_generation(4)
    assert gpu_daemon.started_with(SHARE) == ["0.9"] * 4
    assert "gpu_oom" not in str(gpu_daemon.status()["last_failure"])


def test_two_gpus_are_as_good_as_the_worse_one(
    gpu_daemon: Daemon, gpus: ScriptedGpus, holder: subprocess.Popen[bytes]
) -> None:
    gpu_daemon.configure(options={"tensor-parallel-size": 2})
    gpus.show(Gpu(), Gpu(uuid="GPU-1").held_by(holder.pid, 9_000), Gpu(uuid="GPU-2"))
    gpu_daemon.play(FITTING)
    gpu_daemon.start_ready()
    assert gpu_daemon.started_with(SHARE) == ["0.6"]
    [lesson] = gpu_daemon.api("GET", "/v1/memory")["memory"]
    assert lesson["devices"] == ["GPU-0", "GPU-1"]


@pytest.mark.parametrize("visible", ["1", "GPU-b"])
def test_gpus_of_the_env_file_are_the_ones_looked_at(
    gpu_daemon: Daemon, gpus: ScriptedGpus, holder: subprocess.Popen[bytes], visible: str
) -> None:
    gpus.show(Gpu(uuid="GPU-a").held_by(holder.pid, 20_000), Gpu(uuid="GPU-b"))
    gpu_daemon.write_env(CUDA_VISIBLE_DEVICES=visible)
    gpu_daemon.start_ready()
    assert gpu_daemon.started_with(SHARE) == ["0.9"]


def test_gpu_that_is_lost_while_serving_does_not_hurt_the_daemon(
    gpu_daemon: Daemon, gpus: ScriptedGpus
) -> None:
    gpu_daemon.play(FITTING)
    gpu_daemon.start_ready()
    gpus.show(Gpu(errors={"nvmlDeviceGetMemoryInfo": "NVMLError_GpuIsLost"}), Gpu(uuid="GPU-1"))
    wait_for(lambda: [gpu["uuid"] for gpu in gpu_daemon.status()["gpus"]] == ["GPU-1"])
    assert gpu_daemon.says("still here") == "fake: still here"
    gpus.take_driver_away()
    wait_for(lambda: gpu_daemon.status()["gpus"] == [])
    assert gpu_daemon.ctl("status").returncode == 0
    assert gpu_daemon.stop() == 0


def test_nvml_that_hangs_holds_up_neither_answers_nor_stop(
    gpu_daemon: Daemon, gpus: ScriptedGpus
) -> None:
    gpu_daemon.start_ready()
    gpus.show(Gpu(hangs_s={"nvmlDeviceGetHandleByIndex": 9}))
    began = time.monotonic()
    assert gpu_daemon.status()["state"] == "ready"
    assert time.monotonic() - began < 4
    assert gpu_daemon.says("still here") == "fake: still here"
    assert gpu_daemon.change("restart")["state"] == "done"
    began = time.monotonic()
    assert gpu_daemon.stop() == 0
    assert time.monotonic() - began < 3


def test_wait_is_told_once_however_often_it_looks(
    gpu_daemon: Daemon, gpus: ScriptedGpus, holder: subprocess.Popen[bytes]
) -> None:
    """A wait may last all night, and what trains on the GPU never has the same MiB twice."""
    gpus.show(Gpu().held_by(holder.pid, 20_000))
    gpu_daemon.start()
    gpu_daemon.wait_phase("backoff")
    gpus.show(Gpu().held_by(holder.pid, 20_037))
    time.sleep(6)
    log = gpu_daemon.log.read_text()
    assert log.count("gpu_oom_startup_free: ") == 1
    assert log.count("backoff org/a") == 1


def test_swap_that_would_wait_for_others_brings_the_old_model_back(
    gpu_daemon: Daemon, gpus: ScriptedGpus, holder: subprocess.Popen[bytes]
) -> None:
    """What serves needs a third of the GPU, what is wanted more than the holder leaves."""
    profile = gpu_daemon.config / "models.d" / "org-a.toml"
    profile.write_text(f"{profile.read_text()}[options]\n{SHARE} = 0.3\n")
    gpus.show(Gpu().held_by(holder.pid, 14_500))
    gpu_daemon.start_ready()
    gpu_daemon.api("POST", "/v1/swap-model", {"model": "org/b"})
    wait_for(lambda: str(holder.pid) in str(gpu_daemon.status()["last_failure"]))
    gpu_daemon.wait_phase("ready", timeout_s=5)
    assert gpu_daemon.status()["model"]["serving"] == "org/a"
    assert gpu_daemon.status()["wanted"]["model"] == "org/b"


def test_what_must_wait_for_others_says_so_and_starts_by_itself_later(
    gpu_daemon: Daemon, gpus: ScriptedGpus, holder: subprocess.Popen[bytes]
) -> None:
    gpus.show(Gpu().held_by(holder.pid, 20_000))
    gpu_daemon.start()
    gpu_daemon.wait_phase("backoff")
    operation = gpu_daemon.change("restart")
    assert operation["state"] == "failed", "nobody's terminal waits all night for a stranger"
    assert f"pid {holder.pid}" in operation["problem"]["detail"]
    assert "starts by itself" in operation["problem"]["remedy"]
    gpus.show(Gpu())
    gpu_daemon.wait_phase("ready")
