"""The look before a start: what it refuses, what it tells, and whose figures it takes for whose."""

import json
from dataclasses import replace
from pathlib import Path

from cahoots_vllm.control.fit_check import FitCheck
from cahoots_vllm.control.fit_records import FitRecord, FitRecords
from cahoots_vllm.control.gate import Gate
from cahoots_vllm.core.diagnosis import Cause
from cahoots_vllm.core.fit.checks import Check
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.settings import EngineInfo
from cahoots_vllm.host.gpu import Gpu
from cahoots_vllm.host.model_files import ModelFiles

from .test_fit_records import START
from .test_wanted import SETTINGS as WANTED

GIB = 1 << 30
SETTINGS = replace(WANTED, engine=EngineInfo("/no/engine", "0.32.0"))
CONFIG: dict[str, object] = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 256, "torch_dtype": "bfloat16",
    "max_position_embeddings": 2048,
}  # fmt: skip


class OneGpu:
    """A free GPU of 40 GiB."""

    async def read(self) -> tuple[Gpu, ...]:
        return (Gpu(0, "A", 40 * GIB, 0, None, None, (), "GPU-1"),)


class Looks:
    """A look at one GPU, and what came of it."""

    def __init__(self) -> None:
        self.saved: list[tuple[FitRecord, ...]] = []
        self.log: list[str] = []
        self.told: list[tuple[str, tuple[Check, ...]]] = []
        records = FitRecords((), self.saved.append)
        self.check = FitCheck(Gate(OneGpu(), "mark"), records, self.log.append)
        self.check.listen(lambda model, checks: self.told.append((model, checks)))

    def start(self, launch: LaunchSpec, generation: int = 1) -> None:
        for text in START:
            self.check.line(generation, text, launch)

    @property
    def sources(self) -> list[str]:
        return [record.key.source for record in self.saved[-1]] if self.saved else []


def model(directory: Path, config: object = CONFIG, **options: str | int) -> LaunchSpec:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    asked = tuple((name.replace("_", "-"), value) for name, value in options.items())
    return LaunchSpec(f"org/{directory.name}", str(directory), "/no/engine", options=asked)


async def test_start_that_may_go_tells_whether_it_fits(tmp_path: Path) -> None:
    looks = Looks()
    assert await looks.check.refuse(model(tmp_path / "a"), SETTINGS) is None
    ((name, checks),) = looks.told
    assert name == "org/a"
    assert [check.name for check in checks] == ["memory"]
    assert "fits" in checks[0].sentence
    assert looks.log == []


async def test_warning_is_told_and_logged_with_what_to_do(tmp_path: Path) -> None:
    looks = Looks()
    large = {**CONFIG, "num_hidden_layers": 9000, "max_position_embeddings": 40960}
    launch = model(tmp_path / "a", large, max_model_len=40960)
    assert await looks.check.refuse(launch, SETTINGS) is None
    (line,) = looks.log
    assert line.startswith("org/a: memory: ")
    assert "does not fit" in line
    assert looks.told[0][1][0].sentence in line


async def test_goal_that_is_refused_tells_nothing_and_files_no_figures(tmp_path: Path) -> None:
    looks = Looks()
    refused = model(tmp_path / "b", quantization="awq")
    found = await looks.check.refuse(refused, SETTINGS)
    assert found is not None
    assert (found.cause, found.is_retryable) == (Cause.BAD_ARGUMENTS, False)
    assert looks.told == []
    looks.start(refused)  # as if it had started: where, is not known
    assert looks.sources == []


async def test_figures_of_a_start_are_its_own_whatever_is_asked_about_meanwhile(
    tmp_path: Path,
) -> None:
    looks = Looks()
    started, other = model(tmp_path / "a"), model(tmp_path / "b", tensor_parallel_size=4)
    assert await looks.check.refuse(started, SETTINGS) is None
    newer = replace(SETTINGS, engine=EngineInfo("/no/engine", "0.99.0"))
    await looks.check.look(other, newer, ModelFiles(CONFIG, (), 0))
    assert await looks.check.refuse(other, newer) is not None
    looks.start(started)
    (record,) = looks.saved[-1]
    assert (record.key.source, record.key.engine) == (started.source, "0.32.0")
    assert record.key.devices == ("GPU-1",)


async def test_late_line_of_an_older_worker_is_ignored(tmp_path: Path) -> None:
    looks = Looks()
    old, new = model(tmp_path / "a"), model(tmp_path / "b")
    assert await looks.check.refuse(new, SETTINGS) is None
    looks.check.line(2, START[0], new)
    looks.start(old, generation=1)
    assert looks.sources == []
    looks.start(new, generation=2)
    assert looks.sources == [new.source]
    assert looks.saved[-1][0].seen.weights_bytes == 6 * GIB


async def test_configuration_without_sizes_is_a_warning_and_no_reason_to_refuse(
    tmp_path: Path,
) -> None:
    looks = Looks()
    assert await looks.check.refuse(model(tmp_path / "a", {}), SETTINGS) is None
    ((_, checks),) = looks.told
    assert "does not tell its size" in checks[0].sentence
    assert looks.log == []  # a stranger's file is told to who asks, at each start it would be noise
