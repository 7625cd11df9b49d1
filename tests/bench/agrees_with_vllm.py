"""`cahootsctl bench` and the engine's own `vllm bench serve` on the same load, in turns.

    .venv/bin/python tests/bench/agrees_with_vllm.py --engine .engine --model DIR [--rounds 5]

Both send to the same gateway. Prints a table of the medians over the rounds; whoever is first
changes from round to round. Two minutes a round on two cores, which client and engine share.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from engine.daemon import running_daemon  # noqa: E402 (its place is known only now)
from engine.harness import Daemon  # noqa: E402 (as above)

_NAME = "measured"
_CONCURRENCY, _REQUESTS, _IN, _OUT = 4, 24, 128, 64
_DEADLINE_S = 400
# What is compared: its name, and how each side calls it.
_FIGURES = {
    "generation, tokens/s": ("output_throughput", ("tokens_per_s",)),
    "time to first token, median ms": ("median_ttft_ms", ("ttft_ms", "p50")),
    "time per output token, median ms": ("median_tpot_ms", ("tpot_ms", "p50")),
    "between two tokens, median ms": ("median_itl_ms", ("itl_ms", "p50")),
}


def ours(daemon: Daemon, seed: int) -> dict[str, float]:
    """Return the figures of `cahootsctl bench`."""
    load = ("--concurrency", str(_CONCURRENCY), "--requests", str(_REQUESTS))
    lengths = ("--input-tokens", str(_IN), "--output-tokens", str(_OUT))
    options = (*load, *lengths, "--seed", str(seed), "--json")
    done = daemon.ctl("bench", *options, timeout_s=_DEADLINE_S)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    many = json.loads(done.stdout)["gateway"]["many"]
    return {name: _at(many, path) for name, (_, path) in _FIGURES.items()}


def _at(found: Any, path: tuple[str, ...]) -> float:  # noqa: ANN401 (JSON)
    for key in path:
        found = found[key]
    return float(found)


def theirs(daemon: Daemon, engine: Path, model: Path, seed: int, home: Path) -> dict[str, float]:
    """Return the figures of `vllm bench serve`."""
    result = home / "theirs.json"
    command = [
        str(engine / "bin/vllm"), "bench", "serve", "--backend", "openai",
        "--base-url", f"http://127.0.0.1:{daemon.port}", "--endpoint", "/v1/completions",
        "--model", _NAME, "--tokenizer", str(model), "--dataset-name", "random",
        "--random-input-len", str(_IN), "--random-output-len", str(_OUT), "--ignore-eos",
        "--max-concurrency", str(_CONCURRENCY), "--num-prompts", str(_REQUESTS),
        "--num-warmups", str(_CONCURRENCY), "--seed", str(seed), "--disable-tqdm",
        "--save-result", "--result-dir", str(home), "--result-filename", result.name,
    ]  # fmt: skip
    env = {"PATH": f"{engine}/bin:/usr/bin:/bin", "HOME": str(home), "HF_HUB_OFFLINE": "1",
           "VLLM_NO_USAGE_STATS": "1"}  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_DEADLINE_S, env=env, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    found = json.loads(result.read_text())
    if found["completed"] != _REQUESTS or found["total_output_tokens"] != _REQUESTS * _OUT:
        message = f"another load: {found['completed']} requests, {found['total_output_tokens']}"
        raise RuntimeError(message)
    return {name: float(found[key]) for name, (key, _) in _FIGURES.items()}


def main() -> None:
    """Measure in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    engine, model = asked.engine.absolute(), asked.model.absolute()
    pairs: list[dict[str, tuple[float, float]]] = []
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as runtime:
        home = Path(name)
        with running_daemon(home, Path(runtime), engine, {_NAME: model}) as daemon:
            daemon.wait_ready()
            for number in range(asked.rounds):
                # Seeds that never come again: the prefix cache must know no prompt.
                seeds = (1000 + 2 * number, 1001 + 2 * number)
                if number % 2:
                    other = theirs(daemon, engine, model, seeds[1], home)
                    own = ours(daemon, seeds[0])
                else:
                    own = ours(daemon, seeds[0])
                    other = theirs(daemon, engine, model, seeds[1], home)
                pairs.append({name: (own[name], other[name]) for name in _FIGURES})
                sys.stderr.write(f"  round {number + 1}: {pairs[-1]}\n")
    out = sys.stdout
    out.write(
        "| figure | cahootsctl bench | vllm bench serve | difference | rounds' differences |\n"
    )
    out.write("| --- | --- | --- | --- | --- |\n")
    for name in _FIGURES:
        mine, its = (statistics.median(pair[name][i] for pair in pairs) for i in (0, 1))
        each = sorted(pair[name][0] / pair[name][1] - 1 for pair in pairs)
        spread = f"{each[0]:+.1%} to {each[-1]:+.1%}"
        out.write(f"| {name} | {mine:.1f} | {its:.1f} | {mine / its - 1:+.1%} | {spread} |\n")


if __name__ == "__main__":
    main()
