"""Whether the GPUs calculate in the model's dtype, and what the engine takes where they do not.

Source: vllm/platforms/cuda.py (supported_dtypes, check_if_supports_dtype) and vllm/config/model.py
(_resolve_auto_dtype, _check_valid_dtype), 0.32. The engine asks the first GPU that it may use.
"""

from collections.abc import Iterator

from cahoots_vllm.core.evidence import Device
from cahoots_vllm.core.fit.checks import Check
from cahoots_vllm.core.fit.shape import ModelShape
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.level import Level

_BFLOAT16, _FLOAT16, _FLOAT32 = "bfloat16", "float16", "float32"
_NEEDED = (8, 0)
# The engine refuses them in float16: "numerical instability".
_NO_FLOAT16 = frozenset({"gemma2", "gemma3", "gemma3_text", "glm4"})
_HALF = ("half", _FLOAT16)


def fallback_dtype(
    shape: ModelShape, launch: LaunchSpec, devices: tuple[Device, ...]
) -> str | None:
    """Return what the engine takes in place of bfloat16 by itself; None: it takes no other."""
    is_free = _asked(launch) == "auto" and shape.dtype in (_BFLOAT16, _FLOAT32)
    if not is_free or _too_old(devices) is None:
        return None
    return _FLOAT32 if shape.kind in _NO_FLOAT16 else _FLOAT16


def check_dtype(
    shape: ModelShape, launch: LaunchSpec, devices: tuple[Device, ...]
) -> Iterator[Check]:
    """Yield a check where the dtype is a matter: a refusal, or another one than the model's."""
    asked, old = _asked(launch), _too_old(devices)
    taken = fallback_dtype(shape, launch, devices)
    if asked in _HALF and shape.kind in _NO_FLOAT16:
        said = f"the engine refuses {shape.kind} in float16, which is not exact enough for it"
        remedy = _set(_FLOAT32) if old else "remove the option dtype, or set it to bfloat16"
        yield Check("dtype", Level.FAIL, said, remedy)
    elif old is not None and asked == _BFLOAT16:
        said = f"bfloat16 needs compute capability 8.0, and {old}"
        yield Check("dtype", Level.FAIL, said, _set(_usable(shape)))
    elif old is not None and taken == _FLOAT32:
        said = f"the engine takes float32, twice as large: {shape.kind} has no float16, and {old}"
        yield Check("dtype", Level.WARN, said, "a GPU with compute capability 8.0 has bfloat16")
    elif old is not None and taken == _FLOAT16 and shape.dtype == _BFLOAT16:
        yield Check("dtype", Level.OK, f"the engine takes float16 for bfloat16: {old}")


def _asked(launch: LaunchSpec) -> str:
    asked = launch.option("dtype")
    return asked.lower() if isinstance(asked, str) else "auto"


def _too_old(devices: tuple[Device, ...]) -> str | None:
    """Return the words for a GPU without bfloat16, None where it has it, or does not say."""
    capability = devices[0].capability if devices else None
    if capability is None or capability >= _NEEDED:
        return None
    return f"{devices[0].name} has {capability[0]}.{capability[1]}"


def _usable(shape: ModelShape) -> str:
    return _FLOAT32 if shape.kind in _NO_FLOAT16 else "half"


def _set(dtype: str) -> str:
    more = ", which takes twice the memory" if dtype == _FLOAT32 else ""
    return f"set dtype to {dtype}{more}"
