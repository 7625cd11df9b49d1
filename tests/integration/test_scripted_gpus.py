"""The stand-ins for NVML and for a GPU engine say what the real ones say."""

import json
import os
import subprocess
from pathlib import Path

import pynvml
import pytest

from fake_nvml import pynvml as fake
from fake_vllm.engine_dir import make_engine
from fake_vllm.gpu_log import GPU_FAILURES, gpu_failure
from fake_vllm.script import Behaviour, write_script

from .scripted_gpus import Gpu, ScriptedGpus


def test_names_values_and_bases_are_nvmls_own() -> None:
    names = [name for name in vars(fake) if name.lower().startswith("nvml")]
    assert len(names) > 20
    for name in names:
        ours, theirs = getattr(fake, name), getattr(pynvml, name)
        if isinstance(ours, int):
            assert ours == theirs, name
        elif isinstance(ours, type):
            assert [b.__name__ for b in ours.__mro__] == [b.__name__ for b in theirs.__mro__]
            if issubclass(ours, fake.NVMLError) and ours is not fake.NVMLError:
                assert ours.value == theirs().value, name
        else:
            assert callable(theirs), name


def test_dead_processes_hold_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = ScriptedGpus(tmp_path / "gpus.json")
    monkeypatch.setenv(fake.VARIABLE, str(gpus.path))
    process = subprocess.Popen(["/bin/sleep", "60"])
    gpus.show(Gpu(used_mib=100).held_by(process.pid, 1000).held_by(os.getpid(), None))
    fake.hold("GPU-0", process.pid, 50)
    for used, listed in ((1150, [process.pid, os.getpid(), process.pid]), (100, [os.getpid()])):
        fake.nvmlInit()
        handle = fake.nvmlDeviceGetHandleByIndex(0)
        assert fake.nvmlDeviceGetMemoryInfo(handle).used == used << 20
        rows = fake.nvmlDeviceGetComputeRunningProcesses(handle)
        assert [row.pid for row in rows] == listed
        fake.nvmlShutdown()
        process.kill()
        if not process.returncode:  # a zombie holds nothing either
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    process.wait(5)
    with pytest.raises(fake.NVMLError_Uninitialized):
        fake.nvmlDeviceGetCount()


def play(tmp_path: Path, behaviour: Behaviour, *options: str) -> tuple[int, list[str]]:
    """Run a start that fails to its end; return its exit status and its lines."""
    gpus = ScriptedGpus(tmp_path / "gpus.json")
    script = write_script(tmp_path / "script.json", behaviour)
    engine = make_engine(tmp_path / "engine", version="0.32.0")
    command = [str(engine / "bin" / "vllm"), "serve", "/srv/m", "--uds", str(tmp_path / "s")]
    environment = gpus.environment | {"VLLM_FAKE_SCRIPT": str(script)}
    done = subprocess.run(
        [*command, *options], env=environment, capture_output=True, text=True, timeout=20,
        check=False,
    )  # fmt: skip
    return done.returncode, (done.stdout + done.stderr).splitlines()


@pytest.mark.parametrize("name", [n for n, f in GPU_FAILURES.items() if f.before is not None])
def test_failed_start_says_everything_twice_and_exits_1(tmp_path: Path, name: str) -> None:
    code, lines = play(tmp_path, gpu_failure(name))
    assert code == 1
    said = "\n".join(lines)
    assert "$" not in said, "a figure was left open"
    assert said.count("EngineCore failed to start.") == 1
    assert "RuntimeError: Engine core initialization failed." in said
    core = [line.partition("[core.py:1510] ")[2] for line in lines if "[core.py:1510]" in line]
    root = next(line for line in reversed(core) if line and not line[0].isspace())
    assert root in lines


def test_search_for_sizes_is_answered_with_true_figures(tmp_path: Path) -> None:
    needs = Behaviour(memory={"kv_per_1k": 0.5}, max_model_len=32768)
    _, lines = play(tmp_path, needs, "--gpu-memory-utilization", "0.9")
    assert any("Available KV cache memory: 11.15 GiB" in line for line in lines)
    root = next(line for line in lines if "ValueError: To serve at least one" in line)
    assert "(16.38 GiB KV cache is needed" in root
    length = root.partition("maximum model length is ")[2].partition(".")[0]
    # What the engine estimates fits, one block more does not.
    longer = str(int(length) + 16)
    code, _ = play(tmp_path, needs, "--gpu-memory-utilization", "0.9", "--max-model-len", longer)
    assert code == 1
    assert json.loads((tmp_path / "script.json").read_text())["starts"]
