"""cahoots-vllm: keeps a vLLM model served on this host."""

__version__ = "0.1.0"
