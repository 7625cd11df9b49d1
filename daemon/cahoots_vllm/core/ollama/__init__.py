"""Ollama's API in terms of OpenAI's: pure translation of requests, answers and listings.

Ollama 0.12, `api/types.go` and `server/routes.go`; the engine's side is vLLM 0.10 to 0.33.
"""
