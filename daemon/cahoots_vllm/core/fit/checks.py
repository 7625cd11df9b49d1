"""The checks before a model is served that need no more than its files and the options. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cahoots_vllm.core.fit import words
from cahoots_vllm.core.fit.estimate import Fit, Verdict, parallel
from cahoots_vllm.core.fit.shape import ModelShape
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.level import Level
from cahoots_vllm.core.memory.sizes import CONTEXT, read_sizes

MEMORY = "memory"
# Methods whose weights were quantized before: the engine refuses them for plain weights, and for
# those of another (vllm/config/model.py, _verify_quantization).
_STORED = frozenset({"awq", "gptq", "compressed-tensors", "modelopt", "auto-round", "mxfp4"})


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `remedy` is "" where nothing has to be done."""

    name: str
    level: Level
    sentence: str
    remedy: str = ""


def worth_telling(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Return what to tell of a look that lets a model start: warnings, and whether it fits."""
    return tuple(check for check in checks if check.level is Level.WARN or check.name == MEMORY)


def model_checks(
    shape: ModelShape, launch: LaunchSpec, implemented: frozenset[str]
) -> Iterator[Check]:
    """Yield what the configuration says against the options and the engine's own models."""
    yield check_architecture(shape, launch, implemented)
    yield check_quantization(shape, launch)
    yield check_context(shape, launch)


def check_architecture(shape: ModelShape, launch: LaunchSpec, implemented: frozenset[str]) -> Check:
    """Look for the model's class among those of the engine; none are known: nothing can be said.

    Never a fail: the engine runs what it does not know through Transformers where it can, and
    plugins bring more (vllm/model_executor/models/registry.py).
    """
    name = shape.architecture
    if not name or not implemented:
        return Check("engine", Level.OK, f"whether it knows {name or 'the model'} cannot be told")
    if name in implemented or launch.option("model-impl") is not None:
        return Check("engine", Level.OK, f"it knows {name}")
    said = f"{name} is not among this engine's own models: it may run through Transformers, slowly"
    return Check("engine", Level.WARN, said, "use a newer vLLM: cahoots-vllm-engine install")


def check_gpus(launch: LaunchSpec, count: int) -> Iterator[Check]:
    """Compare the GPUs that are asked for with those of this host; other hosts may bring more."""
    tensor, pipeline = parallel(launch)
    is_here = launch.option("distributed-executor-backend") != "ray" and not launch.option("nnodes")
    if count and is_here and tensor * pipeline > count:
        said = f"{tensor * pipeline} GPUs are asked for, and {count} can be used here"
        remedy = "lower tensor-parallel-size or pipeline-parallel-size"
        yield Check("gpus", Level.FAIL, said, remedy)


def check_quantization(shape: ModelShape, launch: LaunchSpec) -> Check:
    """Compare --quantization with what the repo's weights are."""
    asked = launch.option("quantization")
    stored = shape.quantization.method if shape.quantization else None
    what = f"the weights are {stored}" if stored else "the weights are not quantized"
    if not isinstance(asked, str):
        return Check("quantization", Level.OK, what)
    family = asked.lower().removesuffix("_marlin")
    clashes = family in _STORED and family != (stored or "").removesuffix("_marlin")
    if not clashes or (stored is not None and stored not in _STORED):
        return Check("quantization", Level.OK, f"{what}; {asked} is asked for")
    remedy = f"remove the option quantization, or serve a repo whose weights are {family}"
    return Check("quantization", Level.FAIL, f"{what}, but {asked} is asked for", remedy)


def check_context(shape: ModelShape, launch: LaunchSpec) -> Check:
    """Compare --max-model-len with the model's own length: the engine refuses a longer one."""
    asked, own = read_sizes(launch).max_model_len, shape.context
    if own is None:
        return Check("context", Level.OK, "the configuration tells no context length")
    if asked is None or asked <= own or CONTEXT in launch.fitted:
        tokens = min(asked or own, own)
        return Check("context", Level.OK, f"{tokens:,} of the model's own {own:,} tokens")
    said = f"max-model-len {asked:,} is more than the model's own {own:,} tokens"
    # Read from a longer length by RoPE scaling, or allowed by the person.
    may_stretch = shape.is_stretched or any(
        name.partition(".")[0] in ("hf-overrides", "rope-scaling") for name, _ in launch.options
    )
    if may_stretch or "VLLM_ALLOW_LONG_MAX_MODEL_LEN" in dict(launch.env):
        return Check("context", Level.WARN, said, "the engine decides by its RoPE scaling")
    return Check("context", Level.FAIL, said, f"set max-model-len to {own} or less")


def check_memory(fit: Fit | None, *, is_cpu: bool) -> Check:
    """Return what the memory says; a fail only where no shorter context could help."""
    if fit is None:
        remedy = "see cahootsctl doctor for why no GPU is seen"
        return Check(MEMORY, Level.WARN, "no GPU is seen: whether it fits cannot be told", remedy)
    level = {
        Verdict.FITS: Level.OK,
        Verdict.SHORTER: Level.WARN,
        Verdict.TOO_LARGE: Level.WARN,
        Verdict.IMPOSSIBLE: Level.FAIL,
        Verdict.UNKNOWN: Level.WARN,
    }[fit.verdict]
    return Check(MEMORY, level, words.sentence(fit), words.remedy(fit, is_cpu=is_cpu))
