"""Ollama's API at the gateway: its routes, its answers. The translation is core.ollama's."""
