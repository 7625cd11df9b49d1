"""bfloat16 needs a GPU that has it: the engine refuses it elsewhere, or takes another dtype."""

from dataclasses import replace

import pytest

from cahoots_vllm.core.evidence import Device
from cahoots_vllm.core.fit.checks import Check
from cahoots_vllm.core.fit.dtypes import check_dtype, fallback_dtype
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.level import Level

from .test_fit import LAUNCH, QWEN3_32B, RTX5090, shape_of

T4 = replace(RTX5090, name="GPU 0 (Tesla T4)", capability=(7, 5))
L4 = replace(RTX5090, name="GPU 0 (L4)", capability=(8, 9))
SILENT = RTX5090


def launch(dtype: str | None) -> LaunchSpec:
    return LAUNCH if dtype is None else LAUNCH.with_option("dtype", dtype)


def found(dtype: str | None, kind: str, stored: str, *devices: Device) -> Check | None:
    shape = shape_of(QWEN3_32B, model_type=kind, torch_dtype=stored)
    return next(check_dtype(shape, launch(dtype), devices), None)


@pytest.mark.parametrize(
    ("dtype", "kind", "remedy"),
    [
        ("bfloat16", "qwen3", "set dtype to half"),
        ("bfloat16", "gemma3", "set dtype to float32, which takes twice the memory"),
        ("half", "gemma3", "set dtype to float32, which takes twice the memory"),
    ],
)
def test_dtype_that_the_engine_refuses_on_an_old_gpu(dtype: str, kind: str, remedy: str) -> None:
    check = found(dtype, kind, "bfloat16", T4)
    assert check is not None
    assert (check.level, check.remedy) == (Level.FAIL, remedy)


def test_refusal_names_the_gpu_and_what_it_has() -> None:
    check = found("bfloat16", "qwen3", "bfloat16", T4, L4)
    assert check is not None
    assert "bfloat16 needs compute capability 8.0" in check.sentence
    assert "GPU 0 (Tesla T4) has 7.5" in check.sentence


@pytest.mark.parametrize(
    ("dtype", "kind", "stored", "device"),
    [
        ("bfloat16", "qwen3", "bfloat16", L4),
        ("bfloat16", "qwen3", "bfloat16", SILENT),
        ("bfloat16", "gemma3", "bfloat16", L4),
        ("half", "qwen3", "bfloat16", T4),
        ("auto", "gemma3", "bfloat16", L4),
        (None, "qwen3", "float16", T4),
        (None, "qwen3", "float32", T4),
        ("float32", "gemma3", "bfloat16", T4),
    ],
)
def test_dtype_that_is_no_matter(dtype: str | None, kind: str, stored: str, device: Device) -> None:
    assert found(dtype, kind, stored, device) is None
    assert found(dtype, kind, stored) is None or dtype == "half"


def test_engine_that_takes_float16_by_itself_is_fine() -> None:
    check = found(None, "qwen3", "bfloat16", T4)
    assert check is not None
    assert (check.level, check.remedy) == (Level.OK, "")
    assert "takes float16 for bfloat16" in check.sentence


def test_engine_that_takes_float32_by_itself_is_a_warning() -> None:
    check = found("auto", "gemma3", "bfloat16", T4)
    assert check is not None
    assert check.level is Level.WARN
    assert "twice as large" in check.sentence


def test_float16_is_refused_for_what_is_not_exact_enough_in_it_on_any_device() -> None:
    for devices in ((), (L4,)):
        check = found("float16", "gemma2", "bfloat16", *devices)
        assert check is not None
        assert (check.level, "bfloat16" in check.remedy) == (Level.FAIL, True)


@pytest.mark.parametrize(
    ("dtype", "kind", "stored", "expected"),
    [
        (None, "qwen3", "bfloat16", "float16"),
        ("auto", "gemma3", "bfloat16", "float32"),
        (None, "gemma3", "float32", "float32"),
        ("float16", "qwen3", "bfloat16", None),
        (None, "qwen3", "float16", None),
    ],
)
def test_what_the_engine_takes_in_place_of_bfloat16(
    dtype: str | None, kind: str, stored: str, expected: str | None
) -> None:
    shape = shape_of(QWEN3_32B, model_type=kind, torch_dtype=stored)
    assert fallback_dtype(shape, launch(dtype), (T4,)) == expected
    assert fallback_dtype(shape, launch(dtype), (L4,)) is None
