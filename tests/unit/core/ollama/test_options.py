"""Ollama's options as the engine's parameters, and what vLLM would refuse of them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.ollama.options import sampling

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
# vllm/sampling_params.py, _verify_args.
BOUNDS = {
    "temperature": (0, math.inf), "top_p": (1e-9, 1), "top_k": (-1, 2**63), "min_p": (0, 1),
    "max_tokens": (1, 2**63), "seed": (-(2**63), 2**63 - 1), "repetition_penalty": (1e-300, 1e309),
    "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2),
}  # fmt: skip
KNOWN = (
    "num_predict", "temperature", "top_p", "top_k", "min_p", "stop", "seed", "repeat_penalty",
    "presence_penalty", "frequency_penalty",
)  # fmt: skip


def test_every_option_that_the_engine_has_is_passed_on() -> None:
    given_options = {
        "num_predict": 100, "temperature": 0.8, "top_p": 0.9, "top_k": 20, "min_p": 0.05,
        "stop": ["\n", "user:"], "seed": 42, "repeat_penalty": 1.2, "presence_penalty": 1.5,
        "frequency_penalty": -1.0,
    }  # fmt: skip
    assert sampling(given_options) == {
        "max_tokens": 100, "temperature": 0.8, "top_p": 0.9, "top_k": 20, "min_p": 0.05,
        "stop": ["\n", "user:"], "seed": 42, "repetition_penalty": 1.2, "presence_penalty": 1.5,
        "frequency_penalty": -1.0,
    }  # fmt: skip


def test_options_that_the_engine_has_not_are_ignored_whatever_they_are() -> None:
    assert sampling({"num_ctx": 1024, "mirostat": "what?", "numa": None, "no_such": [1]}) == {}
    assert sampling(None) == {}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("num_predict", -1, {}),
        ("num_predict", -2, {}),
        ("num_predict", 0, {}),
        ("num_predict", 7.9, {"max_tokens": 7}),
        ("top_k", 0, {"top_k": -1}),
        ("top_p", 0, {"top_p": 1e-6}),
        ("top_p", 1.5, {"top_p": 1}),
        ("temperature", -1, {"temperature": 0}),
        ("min_p", 3, {"min_p": 1}),
        ("seed", -1, {}),
        ("seed", 0, {"seed": 0}),
        ("repeat_penalty", 0, {}),
        ("presence_penalty", 9, {"presence_penalty": 2}),
        ("stop", "end", {"stop": ["end"]}),
        ("stop", ["", "end"], {"stop": ["end"]}),
        ("stop", [""], {}),
        ("temperature", None, {}),
    ],
)
def test_value_means_what_it_means_to_ollama(
    name: str, value: object, expected: dict[str, object]
) -> None:
    assert sampling({name: value}) == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", "hot", 'option "temperature" must be of type float32'),
        ("temperature", True, 'option "temperature" must be of type float32'),
        ("num_predict", "10", 'option "num_predict" must be of type integer'),
        ("seed", 10**30, 'option "seed" must be of type integer'),
        ("top_p", math.nan, 'option "top_p" must be a finite number'),
        ("stop", 5, 'option "stop" must be of type array'),
        ("stop", [5], 'option "stop" must be of an array of strings'),
    ],
)
def test_wrong_type_is_refused_in_ollamas_words(name: str, value: object, message: str) -> None:
    with pytest.raises(CahootsError) as caught:
        sampling({name: value})
    assert (caught.value.kind, caught.value.message) == (Kind.BAD_REQUEST, message)


def test_options_must_be_an_object() -> None:
    with pytest.raises(CahootsError, match="options must be an object"):
        sampling([])


@given(st.dictionaries(st.sampled_from(KNOWN), JSON))
def test_whatever_is_given_is_refused_or_becomes_what_the_engine_takes(
    options: dict[str, object],
) -> None:
    found: dict[str, object] = {}
    kind = Kind.BAD_REQUEST
    try:
        found = sampling(options)
    except CahootsError as error:
        kind = error.kind
    assert kind is Kind.BAD_REQUEST
    stops = found.pop("stop", ["x"])
    assert isinstance(stops, list)
    assert stops
    assert all(isinstance(stop, str) and stop for stop in stops)
    for name, value in found.items():
        low, high = BOUNDS[name]
        assert isinstance(value, int | float)
        assert low <= value <= high
