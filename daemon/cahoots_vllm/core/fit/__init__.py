"""Will a model fit: weights, KV cache and overhead against what the GPUs have. Pure."""
