"""Which model architectures an engine implements, read from its source: importing it takes long."""

import ast
from functools import lru_cache
from pathlib import Path

# One for each kind of model: _TEXT_GENERATION_MODELS, _MULTIMODAL_MODELS, ...
_TABLE_END = "_MODELS"
_NOT_ITS_OWN = ("_PREVIOUSLY_SUPPORTED_MODELS", "_OOT_SUPPORTED_MODELS")
_REGISTRY = "lib/python3*/site-packages/vllm/model_executor/models/registry.py"
_FEWEST = 50  # vLLM 0.32 has over 250: with fewer the file is another than was known


def read_architectures(engine: Path) -> frozenset[str]:
    """Return the names, as config.json says them; none where they cannot be told. Blocking."""
    path = next(iter(sorted(engine.glob(_REGISTRY))), None)
    if path is None:
        return frozenset()
    try:
        return _read(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, SyntaxError, RecursionError):
        return frozenset()


@lru_cache(maxsize=4)  # an engine that was installed anew has another time
def _read(path: Path, _changed_ns: int) -> frozenset[str]:
    names = set()
    for node in ast.parse(path.read_text()).body:
        target, value = _assigned(node)
        if target in _NOT_ITS_OWN or not target.endswith(_TABLE_END):
            continue
        if isinstance(value, ast.Dict):
            names |= {
                key.value
                for key in value.keys
                if isinstance(key, ast.Constant) and isinstance(key.value, str)
            }
    return frozenset(names) if len(names) >= _FEWEST else frozenset()


def _assigned(node: ast.stmt) -> tuple[str, ast.expr | None]:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name, value
        case ast.AnnAssign(target=ast.Name(id=name), value=annotated):
            return name, annotated
        case _:
            return "", None
