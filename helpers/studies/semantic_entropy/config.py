"""The presets of the main study."""

from __future__ import annotations

from typing import Any

_GSM8K: dict[str, Any] = {
    "questions": "openai/gsm8k",
    "judge_model": "cross-encoder/nli-deberta-v3-small",
    "limit": 300,
    "k": 10,
    "temperature": 0.7,
    "top_p": 0.9,
    "max_new_tokens": 128,
    "stop": ("\nQuestion:",),
    "batch_size": 64,
    "judge_batch_size": 64,
    "judge_device": "cpu",
}
MAIN_PRESETS: dict[str, dict[str, Any]] = {
    "lab": {},
    "gpt2-gsm8k": {"model": "openai-community/gpt2", **_GSM8K},
    "gpt2-medium-gsm8k": {"model": "openai-community/gpt2-medium", **_GSM8K, "batch_size": 32},
}
"""Presets of the main study."""
