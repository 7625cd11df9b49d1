"""A scripted stand-in for `vllm serve`: its processes, log and HTTP, and none of its weights."""
