"""Looks before anything is stopped: does this engine know the options that it would be given?

`vllm serve` ends on the first unknown option, after seconds of importing; a worker that serves must
not be stopped for that.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping

from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory.sizes import SIZE_OPTIONS
from cahoots_vllm.core.settings import EngineInfo
from cahoots_vllm.host.engine_options import EngineOptions

# Known for years, and to stay: for these alone the engine is not asked.
STABLE = SIZE_OPTIONS | {
    "chat-template", "download-dir", "dtype", "enable-auto-tool-choice", "enable-prefix-caching",
    "enforce-eager", "generation-config", "kv-cache-dtype", "load-format", "pipeline-parallel-size",
    "quantization", "reasoning-parser", "seed", "tensor-parallel-size", "tokenizer",
    "tool-call-parser", "trust-remote-code",
}  # fmt: skip


class OptionCheck:
    """Asks an engine once, keeps the answer on disk, and names what is unknown to it."""

    def __init__(self, options: EngineOptions) -> None:
        """`options` asks the engine."""
        self._options = options

    async def check(
        self,
        goal: LaunchSpec,
        engine: EngineInfo,
        env: Mapping[str, str],
        progress: Callable[[str, float | None], None],
    ) -> Diagnosis | None:
        """Return what is wrong, None where nothing is or the engine does not tell."""
        names = [name for name, _ in goal.options]
        if all(name in STABLE for name in names):
            return None
        progress("asking the engine for its options", None)
        known = await self._options.ask(engine, env)
        found = unknown_option(names, known) if known is not None else None
        if found is not None:  # a plugin that came later may know it: only a fresh answer refuses
            known = await self._options.ask(engine, env, is_anew=True)
            found = unknown_option(names, known) if known is not None else None
        if found is None:
            return None
        evidence = f"vLLM {engine.version} knows no option --{found}"
        remedy = f"mend it where it is set{nearest(found, known or ())}: cahootsctl config show"
        return Diagnosis(Cause.BAD_ARGUMENTS, evidence, remedy, is_retryable=False)


def unknown_option(names: Iterable[str], known: Iterable[str]) -> str | None:
    """Return the first option that is unknown; `a.b` is a key inside the JSON of `a`."""
    here = frozenset(known)
    for name in names:
        plain = name.partition(".")[0].replace("_", "-")
        if plain not in here and plain.removeprefix("no-") not in here and name not in STABLE:
            return name
    return None


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the option that was probably meant, as part of a sentence; empty if none is near."""
    near = difflib.get_close_matches(name.replace("_", "-"), list(known), n=1, cutoff=0.7)
    return f" (did you mean {near[0]}?)" if near else ""
