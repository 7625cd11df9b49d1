"""How far the estimates of core.fit are off, against the CPU engine's own figures.

Usage: `python tests/bench/fit_error.py ENGINE DEMO_MODEL`; takes about a minute for each model.
The models other than the demo one are synthetic (fit_models.py).
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cahoots_vllm.core.fit.estimate import Ask, find_need
from cahoots_vllm.core.fit.shape import read_shape
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.host.model_files import read_model_files

KINDS = ("dense", "mixture", "window", "latent")
LENGTH = 4096
KV_BYTES = 128 << 20
_DEADLINE_S = 240
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Comparison:
    """Estimate and report: weights in bytes, KV cache in bytes a token."""

    name: str
    weights: tuple[int, int]
    per_token: tuple[float, float]

    @property
    def weights_error(self) -> float:
        """Of the report, as a share."""
        return self.weights[0] / self.weights[1] - 1

    @property
    def kv_error(self) -> float:
        """Of the report, as a share."""
        return self.per_token[0] / self.per_token[1] - 1


def make_model(engine: Path, kind: str, directory: Path) -> Path:
    """Write a synthetic model and return its directory."""
    target = directory / kind
    command = [str(engine / "bin/python"), str(_HERE / "fit_models.py"), kind, str(target)]
    subprocess.run(command, check=True, capture_output=True, timeout=_DEADLINE_S)
    return target


def compare(engine: Path, name: str, model: Path) -> Comparison:
    """Load the model in the engine and compare."""
    command = [str(engine / "bin/python"), str(_HERE / "fit_engine.py"), str(model)]
    said = subprocess.run(
        [*command, str(LENGTH), str(KV_BYTES)],
        check=True, capture_output=True, text=True, timeout=_DEADLINE_S,
        env={"PATH": f"{engine}/bin:/usr/bin:/bin", "HOME": str(Path.home()),
             "PYTHONPATH": str(_HERE), "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
    ).stdout  # fmt: skip
    report = json.loads(next(line for line in reversed(said.splitlines()) if line[:1] == "{"))
    files = read_model_files(model)
    shape = read_shape(files.config)
    if shape is None:
        message = f"{model} has no configuration that can be read"
        raise ValueError(message)
    options = (("max-model-len", LENGTH), ("kv-cache-memory-bytes", KV_BYTES))
    launch = LaunchSpec(name, str(model), str(engine), options=options)
    need = find_need(Ask(shape, launch, files.tensors, is_cpu=True), 8 << 30)
    if need.kv is None:
        raise ValueError(need.kv_unknown)
    estimate = KV_BYTES / need.kv.capacity(KV_BYTES, LENGTH)
    weights = (need.weights_bytes, int(report["weights"]))
    return Comparison(name, weights, (estimate, KV_BYTES / int(report["tokens"])))


def row(found: Comparison) -> str:
    """Return a row of the table."""
    weights, kv = found.weights, found.per_token
    return (
        f"| {found.name} | {weights[0] / 1e6:.2f} | {weights[1] / 1e6:.2f} "
        f"| {found.weights_error:+.2%} | {kv[0]:.0f} | {kv[1]:.0f} | {found.kv_error:+.2%} |"
    )


def main() -> None:
    """Print the table."""
    engine, demo = Path(sys.argv[1]), Path(sys.argv[2])
    out = sys.stdout
    out.write("| model | weights est. MB | engine | error | KV est. B/token | engine | error |\n")
    out.write("| --- | --- | --- | --- | --- | --- | --- |\n")
    with tempfile.TemporaryDirectory() as directory:
        models = {"demo": demo}
        models |= {kind: make_model(engine, kind, Path(directory)) for kind in KINDS}
        for name, model in models.items():
            out.write(row(compare(engine, name, model)) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
