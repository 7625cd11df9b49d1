"""Writes synthetic models for fit_error.py, with random weights. Runs in the engine's Python.

Arguments: a kind (dense, mixture, window, latent) and the directory to write.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

_SIZES: dict[str, Any] = {
    "vocab_size": 2000,  # no multiple of 64: the engine pads it
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
_KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "dense": ("Qwen3Config", "Qwen3ForCausalLM", {}),
    "mixture": (
        "Qwen3MoeConfig", "Qwen3MoeForCausalLM",
        {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256,
         "decoder_sparse_step": 1, "mlp_only_layers": []},
    ),
    "window": (
        "Gemma3TextConfig", "Gemma3ForCausalLM",
        {"sliding_window": 512, "tie_word_embeddings": True,
         "layer_types": (["sliding_attention"] * 2 + ["full_attention"]) * 2},
    ),
    "latent": (
        "DeepseekV2Config", "DeepseekV2ForCausalLM",
        {"kv_lora_rank": 512, "q_lora_rank": None, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128,
         "v_head_dim": 128, "num_key_value_heads": 8, "first_k_dense_replace": 1,
         "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
         "moe_intermediate_size": 128, "head_dim": 64},
    ),
}  # fmt: skip


def main() -> None:
    """Write the model."""
    kind, target = sys.argv[1], Path(sys.argv[2])
    config_name, model_name, more = _KINDS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, config_name)(**{**_SIZES, **more})
    model = getattr(transformers, model_name)(config).to(torch.float16)
    model.save_pretrained(target)
    path = target / "config.json"
    said = json.loads(path.read_text())
    said["architectures"] = [model_name]
    path.write_text(json.dumps(said))


if __name__ == "__main__":
    main()
