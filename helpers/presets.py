"""The presets of every study: what each changes of its config's defaults."""

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
_MATH: dict[str, Any] = {
    "questions": "data/math_raw.jsonl",
    "ood_questions": "data/ood_raw.jsonl",
    "limit": 500,
    "judge_model": "cross-encoder/nli-deberta-v3-small",
    "condition_on_question": True,
    "top_p": 0.95,
    "judge_device": "cpu",
}
MAIN_PRESETS: dict[str, dict[str, Any]] = {
    "lab": {},
    "gpt2-gsm8k": {"model": "openai-community/gpt2", **_GSM8K},
    "gpt2-medium-gsm8k": {"model": "openai-community/gpt2-medium", **_GSM8K, "batch_size": 32},
}
"""Presets of the main study."""
REASONING_PRESETS: dict[str, dict[str, Any]] = {
    "lab-think": {},
    "qwen3-0.6b-math": {
        "model": "Qwen/Qwen3-0.6B",
        **_MATH,
        "max_new_tokens": 4096,
        "batch_size": 8,
    },
    "qwen3-4b-math": {
        "model": "Qwen/Qwen3-4B",
        **_MATH,
        "max_new_tokens": 8192,
        "batch_size": 4,
    },
}
"""Presets of the study of reasoning models."""
PRESETS = MAIN_PRESETS | REASONING_PRESETS
"""What each preset changes of the defaults of its study's config."""
PRESET_NOTES = {
    "lab": "embedded word problems, model and judge; no network; two to three minutes on one core",
    "gpt2-gsm8k": "gpt2 on 300 GSM8K questions, DeBERTa-v3-small judge on the CPU, 4 GB GPU",
    "gpt2-medium-gsm8k": "the same with gpt2-medium",
    "lab-think": "study of reasoning models, embedded: thinking on, other stories out of "
    "distribution; no network",
    "qwen3-0.6b-math": "study of reasoning models: Qwen3-0.6B on MATH-500, GSM8K out of "
    "distribution; 6 GB GPU",
    "qwen3-4b-math": "the same with Qwen3-4B; 16 GB GPU, better with --backend vllm",
}
