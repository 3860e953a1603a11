"""Sampling answers: transformers, vLLM, or an OpenAI-compatible endpoint."""
