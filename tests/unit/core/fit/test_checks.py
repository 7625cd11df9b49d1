"""What a configuration says against the options and the engine."""

from dataclasses import replace

import pytest

from cahoots_vllm.core.fit.checks import Check, check_architecture, check_gpus, worth_telling
from cahoots_vllm.core.level import Level

from .test_fit import LAUNCH, QWEN3_32B, shape_of

KNOWN = frozenset({"Qwen3ForCausalLM", "LlamaForCausalLM"})


@pytest.mark.parametrize(
    ("name", "implemented", "level"),
    [
        ("Qwen3ForCausalLM", KNOWN, Level.OK),
        ("NewForCausalLM", KNOWN, Level.WARN),
        ("NewForCausalLM", frozenset[str](), Level.OK),
        ("", KNOWN, Level.OK),
    ],
    ids=["known", "unknown", "an engine that cannot be read", "no name"],
)
def test_architecture_is_looked_for_in_the_engine(
    name: str, implemented: frozenset[str], level: Level
) -> None:
    shape = replace(shape_of(QWEN3_32B), architecture=name)
    found = check_architecture(shape, LAUNCH, implemented)
    assert found.level is level
    assert bool(found.remedy) is (level is Level.WARN)


def test_implementation_that_was_chosen_is_not_doubted() -> None:
    shape = replace(shape_of(QWEN3_32B), architecture="NewForCausalLM")
    launch = LAUNCH.with_option("model-impl", "transformers")
    assert check_architecture(shape, launch, KNOWN).level is Level.OK


@pytest.mark.parametrize(
    ("options", "count", "is_refused"),
    [
        ({"tensor-parallel-size": 2}, 1, True),
        ({"tensor-parallel-size": 2, "pipeline-parallel-size": 2}, 3, True),
        ({"tensor-parallel-size": 2}, 2, False),
        ({}, 1, False),
        ({"tensor-parallel-size": 2}, 0, False),
        ({"tensor-parallel-size": 2, "distributed-executor-backend": "ray"}, 1, False),
        ({"tensor-parallel-size": 2, "nnodes": 2}, 1, False),
    ],
)
def test_more_gpus_than_there_are_are_refused(
    options: dict[str, str | int], count: int, *, is_refused: bool
) -> None:
    launch = LAUNCH
    for name, value in options.items():
        launch = launch.with_option(name, value)
    found = list(check_gpus(launch, count))
    assert bool(found) is is_refused
    assert all(check.level is Level.FAIL for check in found)


def test_warnings_and_whether_it_fits_are_worth_telling() -> None:
    context, gpus = Check("context", Level.OK, "fine"), Check("gpus", Level.WARN, "few")
    memory = Check("memory", Level.OK, "fits")
    assert worth_telling((context, gpus, memory)) == (gpus, memory)
