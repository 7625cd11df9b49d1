"""Writes a tiny random-weight Qwen3 that really serves: a second model for swaps, 2 MB, in seconds.

Runs in the engine's own Python (torch, transformers, tokenizers). What it says is noise, but the
same noise for the same prompt at temperature 0. Argument: the directory to write.
"""

import sys
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

VOCAB_SIZE = 2048
CONTEXT = 4096
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on transformers' own sources: they are there wherever this runs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    package = Path(transformers.__file__).parent
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(path) for path in sorted(package.glob("*.py"))], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        model_max_length=CONTEXT,
        chat_template=CHATML,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Build the network; the fixed seed makes two runs write the same weights."""
    torch.manual_seed(0)
    end = tokenizer.convert_tokens_to_ids(END)
    config = Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        eos_token_id=end,
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
    )
    # Not bfloat16: where a virtual machine shows AMX and does not let it be used, vLLM 0.32's CPU
    # attention ends with an illegal instruction for this shape.
    model = Qwen3ForCausalLM(config).to(torch.float16)
    model.generation_config = GenerationConfig(
        eos_token_id=end, pad_token_id=config.pad_token_id, do_sample=False
    )
    return model


def main() -> None:
    """Write tokenizer, configuration and weights to the directory named on the command line."""
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(target)
    make_model(tokenizer).save_pretrained(target)


if __name__ == "__main__":
    main()
