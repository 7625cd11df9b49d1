"""One vLLM worker: its process tree, output, health and end."""
