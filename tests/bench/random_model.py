"""Writes a Qwen3 of 1.55 GB with random weights: a model whose weights take time to load.

Runs in the engine's own Python, takes half a minute. Argument: the directory to write.
"""

import sys
from pathlib import Path

import torch
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.make_tiny import (
    CONTEXT,
    END,
    PAD,
    VOCAB_SIZE,
    make_tokenizer,
)


def main() -> None:
    """Write tokenizer, configuration and weights."""
    target = Path(sys.argv[1])
    tokenizer = make_tokenizer()
    end = tokenizer.convert_tokens_to_ids(END)
    config = Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=16,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=128,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        eos_token_id=end,
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)  # as the tiny one: bfloat16 needs an AMX that works
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=end, pad_token_id=config.pad_token_id, do_sample=False
    )
    tokenizer.save_pretrained(target)
    model.save_pretrained(target)


if __name__ == "__main__":
    main()
