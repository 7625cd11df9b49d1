"""Driver, GPU and CUDA: each trouble has its own sentence and remedy."""

from dataclasses import replace

import pytest

from cahoots_vllm.core.amounts import GIB
from cahoots_vllm.core.doctor.expectations import expectation_of
from cahoots_vllm.core.doctor.gpus import (
    DriverFacts,
    EngineBuild,
    GpuFacts,
    GpuHolder,
    judge_cuda,
    judge_driver,
    judge_gpus,
    judge_vram,
)
from cahoots_vllm.core.level import Level

CARD = GpuFacts(0, "RTX", 24 * GIB, GIB, (8, 9))
WELL = DriverFacts(1, None, "580.65", "580.65", (13, 0), gpus=(CARD,))
GPU, CPU = EngineBuild(is_cpu=False, cuda=(12, 8)), EngineBuild(is_cpu=True)
GUIDE = expectation_of("Qwen/Qwen3-32B-AWQ")


def levels(facts: DriverFacts, build: EngineBuild = GPU) -> list[Level]:
    return [finding.level for finding in judge_driver(facts, build)]


def test_working_driver_is_ok() -> None:
    assert levels(WELL) == [Level.OK]
    assert "CUDA up to 13.0" in judge_driver(WELL, GPU)[0].sentence


@pytest.mark.parametrize(
    ("facts", "sentence", "remedy"),
    [
        (DriverFacts(), "no NVIDIA GPU is on this host's bus", "CPU engine"),
        (DriverFacts(1, is_nouveau=True), "nouveau drives the GPU", "NVIDIA's driver"),
        (DriverFacts(1), "its driver is not loaded", "dkms status"),
        (DriverFacts(1, module="580.1"), "libnvidia-ml.so.1 is not installed", "same version"),
        (
            DriverFacts(1, "NVMLError_LibRmVersionMismatch", "580.1"),
            "updated under the loaded kernel module (580.1)",
            "reboot",
        ),
        (DriverFacts(1, "NVMLError_NoPermission", "580.1"), "may not use the GPU", "ls -l"),
        (DriverFacts(1, "NVMLError_Unknown", "580.1"), "does not answer (Unknown)", "dmesg"),
        (replace(WELL, closed=("/dev/nvidia0",)), "may not open /dev/nvidia0", "group"),
        (replace(WELL, has_uvm=False), "/dev/nvidia-uvm is not there", "modprobe nvidia_uvm"),
        (replace(WELL, gpus=()), "the driver shows 0", "Xid"),
    ],
)
def test_each_trouble_of_a_driver(facts: DriverFacts, sentence: str, remedy: str) -> None:
    [finding] = judge_driver(facts, GPU)
    assert finding.level is Level.FAIL
    assert sentence in finding.sentence
    assert remedy in finding.remedy


def test_cpu_engine_needs_no_driver() -> None:
    assert levels(DriverFacts(), CPU) == [Level.OK]
    assert levels(DriverFacts(1), CPU) == [Level.WARN]


def test_one_lost_gpu_of_two_warns() -> None:
    assert levels(replace(WELL, on_bus=2)) == [Level.WARN]


@pytest.mark.parametrize(
    ("capability", "cuda", "quantization", "sentence"),
    [
        ((6, 1), (12, 8), None, "vLLM needs 7.0"),
        ((7, 0), (13, 0), None, "begins at 7.5"),
        ((7, 0), (12, 8), "awq", "AWQ needs 7.5"),
        ((12, 0), (12, 6), None, "does not know"),
        ((12, 0), (12, 8), "awq", ""),
        ((8, 9), (13, 0), "awq", ""),
        ((7, 0), (12, 8), None, ""),
    ],
)
def test_capability_against_engine(
    capability: tuple[int, int], cuda: tuple[int, int], quantization: str | None, sentence: str
) -> None:
    facts = replace(WELL, gpus=(replace(CARD, capability=capability),))
    [finding] = judge_gpus(facts, EngineBuild(is_cpu=False, cuda=cuda), quantization)
    assert (finding.level is Level.FAIL) == bool(sentence)
    assert sentence in finding.sentence


@pytest.mark.parametrize(
    ("driver", "engine", "level"),
    [
        ((12, 8), (12, 8), Level.OK),
        ((13, 0), (12, 8), Level.OK),
        ((12, 4), (12, 8), Level.WARN),
        ((12, 8), (13, 0), Level.FAIL),
    ],
)
def test_cuda_of_engine_against_driver(
    driver: tuple[int, int], engine: tuple[int, int], level: Level
) -> None:
    build = EngineBuild(is_cpu=False, cuda=engine)
    [finding] = judge_cuda(replace(WELL, cuda=driver), build)
    assert finding.level is level
    assert level is not Level.FAIL or "580" in finding.remedy


def test_24_gb_matter_to_32b_models_only() -> None:
    small = replace(WELL, gpus=(replace(CARD, memory_total=16 * GIB),))
    assert judge_vram(small, GPU, None, is_ready=False)[0].level is Level.OK
    [finding] = judge_vram(small, GPU, GUIDE, is_ready=False)
    assert "the guide wants 24 GB" in finding.sentence
    # What is sold as 24 GB (L4: 23034 MiB) is enough.
    sold = replace(WELL, gpus=(replace(CARD, memory_total=23034 << 20),))
    assert judge_vram(sold, GPU, GUIDE, is_ready=False)[0].level is Level.OK


@pytest.mark.parametrize(
    ("name", "is_guides"),
    [
        ("Qwen/Qwen3-32B-Instruct", True),
        ("Qwen/Qwen2.5-Coder-32B-Instruct-AWQ", True),
        ("org/Model-3.2B", False),
        ("/srv/models/SmolLM2-135M-Instruct", False),
        ("org/Qwen3-30B-A3B", True),
        ("org/132B", False),
        ("org/K2-1T-A32B", False),
        ("org/fp32Bench", False),
    ],
)
def test_guides_row_by_the_models_name(name: str, is_guides: bool) -> None:  # noqa: FBT001 (parametrized)
    assert (expectation_of(name) is not None) is is_guides


def test_strangers_are_named_and_a_desktop_is_not() -> None:
    desktop = GpuHolder(1, "ann", "Xorg", 300 << 20)
    ours = GpuHolder(2, "me", "VLLM::EngineCore", 20 * GIB, is_ours=True)
    other = GpuHolder(3, "bob", "python train.py", 9 * GIB)
    quiet = replace(WELL, gpus=(replace(CARD, holders=(desktop, ours)),))
    assert judge_vram(quiet, GPU, None, is_ready=True)[0].level is Level.OK
    busy = replace(WELL, gpus=(replace(CARD, holders=(desktop, ours, other)),))
    [finding] = judge_vram(busy, GPU, None, is_ready=True)
    assert finding.sentence.startswith(
        "GPU 0: 9.3 GiB of 24.0 GiB are held by python train.py (pid 3"
    )
    assert "VLLM" not in finding.sentence
    left = GpuHolder(4, "bob", "VLLM::Worker", 9 * GIB)
    [finding] = judge_vram(
        replace(WELL, gpus=(replace(CARD, holders=(left,)),)), GPU, None, is_ready=False
    )
    assert "a vLLM that this daemon does not own" in finding.sentence
    assert finding.remedy == "end it: kill 4"
