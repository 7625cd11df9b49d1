"""The body of a check: sizes within reason, options by vLLM's names, nothing else."""

import pytest
from pydantic import ValidationError

from cahoots_vllm.api.check import CheckBody


def test_options_have_vllms_names_and_only_those_that_were_given() -> None:
    body = CheckBody.model_validate(
        {"model": "org/a", "max-model-len": 4096, "kv-cache-dtype": "fp8", "dtype": "half"}
    )
    assert body.options == (("max-model-len", 4096), ("kv-cache-dtype", "fp8"), ("dtype", "half"))
    assert CheckBody.model_validate({"model": "org/a"}).options == ()


@pytest.mark.parametrize(
    "more",
    [
        {"max-model-len": 0},
        {"max-model-len": 1 << 40},
        {"max-num-seqs": -1},
        {"tensor-parallel-size": 100_000},
        {"gpu-memory-utilization": 0},
        {"gpu-memory-utilization": 1.5},
        {"gpu-memory-utilization": float("nan")},
        {"dtype": "x" * 65},
        {"model": ""},
        {"model": "x" * 5000},
        {"max_model_len": 4096},
        {"host": "localhost"},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CheckBody.model_validate({"model": "org/a"} | more)
