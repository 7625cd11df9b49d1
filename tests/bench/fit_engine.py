"""Loads a model in the engine and says what it takes. Runs in the engine's Python.

Arguments: the model's directory, max-model-len, bytes for the KV cache. Prints as its last line
one JSON object: the bytes of the weights, the cache's size in tokens, what it may hold in bytes.
"""

import json
import sys

from vllm import LLM


def main() -> None:
    """Load, ask, print."""
    directory, length, kv_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    engine = LLM(
        directory, max_model_len=length, kv_cache_memory_bytes=kv_bytes, enforce_eager=True,
        skip_tokenizer_init=True, max_num_batched_tokens=2048, max_num_seqs=128,
        worker_extension_cls="fit_weights.Weights",
    )  # fmt: skip
    cache = engine.llm_engine.vllm_config.cache_config
    said = {
        "weights": engine.collective_rpc("loaded_bytes")[0],
        "tokens": cache.kv_cache_size_tokens,
        "kv_bytes": kv_bytes,
    }
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
