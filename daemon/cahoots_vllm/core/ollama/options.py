"""Ollama's `options` as the engine's sampling parameters; what the engine has not is left out.

Values that Ollama's runner takes and vLLM refuses (sampling_params.py, `_verify_args`) become what
they mean to Ollama.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final

from cahoots_vllm.core.ollama.fields import wrong

_ALL_TOKENS: Final = -1
_RANDOM_SEED: Final = -1
_INT64: Final = 2**63
# The smallest nucleus: one token, as with Ollama's 0.
_LEAST_TOP_P: Final = 1e-6

_Reader = Callable[[str, object], object | None]


def sampling(options: object) -> dict[str, object]:
    """Return the engine's parameters. Raises CahootsError (BAD_REQUEST), in Ollama's words."""
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise wrong(what="options must be an object")
    found: dict[str, object] = {}
    for name, (parameter, read) in _READERS.items():
        value = options.get(name)
        if value is not None and (read_value := read(name, value)) is not None:
            found[parameter] = read_value
    return found


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(what=f'option "{name}" must be of type float32')
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise wrong(what=f'option "{name}" must be a finite number')
    return number


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(what=f'option "{name}" must be of type integer')
    if isinstance(value, float) and not math.isfinite(value):
        raise wrong(what=f'option "{name}" must be of type integer')
    number = int(value)  # JSON has no integers to Ollama: 3.7 is 3
    if not -_INT64 <= number < _INT64:
        raise wrong(what=f'option "{name}" must be of type integer')
    return number


def _within(low: float, high: float) -> _Reader:
    def read(name: str, value: object) -> float:
        return min(max(_number(name, value), low), high)

    return read


def _max_tokens(name: str, value: object) -> int | None:
    """-1: no end, -2: as long as the context is."""
    limit = _whole(name, value)
    return limit if limit > 0 else None


def _top_k(name: str, value: object) -> int:
    count = _whole(name, value)
    return count if count > 0 else _ALL_TOKENS


def _seed(name: str, value: object) -> int | None:
    seed = _whole(name, value)
    return None if seed == _RANDOM_SEED else seed


def _repetition(name: str, value: object) -> float | None:
    penalty = _number(name, value)
    return penalty if penalty > 0 else None


def _stop(name: str, value: object) -> list[str] | None:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list):
        raise wrong(what=f'option "{name}" must be of type array')
    if not all(isinstance(stop, str) for stop in stops):
        raise wrong(what=f'option "{name}" must be of an array of strings')
    return [stop for stop in stops if stop] or None


_READERS: Final[Mapping[str, tuple[str, _Reader]]] = {
    "num_predict": ("max_tokens", _max_tokens),
    "temperature": ("temperature", _within(0, math.inf)),
    "top_p": ("top_p", _within(_LEAST_TOP_P, 1)),
    "top_k": ("top_k", _top_k),
    "min_p": ("min_p", _within(0, 1)),
    "stop": ("stop", _stop),
    "seed": ("seed", _seed),
    "repeat_penalty": ("repetition_penalty", _repetition),
    "presence_penalty": ("presence_penalty", _within(-2, 2)),
    "frequency_penalty": ("frequency_penalty", _within(-2, 2)),
}
