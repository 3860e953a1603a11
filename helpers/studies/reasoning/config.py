"""`ReasoningConfig`: the fields, with their defaults, and the presets of the study of reasoning
models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from helpers.config import Preset, RunConfig

STUDY_NAME = "reasoning"
PREPARED = {"data/math_raw.jsonl": "math-500", "data/ood_raw.jsonl": "gsm8k@test"}
"""Files of questions that are made where they are missing, and the source of each."""

_MATH: dict[str, Any] = {
    "questions": "data/math_raw.jsonl",
    "ood_questions": "data/ood_raw.jsonl",
    "limit": 500,
    "judge_model": "cross-encoder/nli-deberta-v3-small",
    "condition_on_question": True,
    "top_p": 0.95,
    "judge_device": "cpu",
}
PRESETS = {
    "lab-think": Preset(
        "study of reasoning models, embedded: thinking on, other stories out of distribution; no "
        "network",
        seconds={
            "samples": 56.2, "meanings": 9.7, "hidden": 12.5, "tables": 0.1, "probes": 0.7,
            "evaluation": 3.1, "analysis": 22.0,
        },
    ),
    "qwen3-0.6b-math": Preset(
        "study of reasoning models: Qwen3-0.6B on MATH-500, GSM8K out of distribution; 6 GB GPU",
        {"model": "Qwen/Qwen3-0.6B", **_MATH, "max_new_tokens": 4096, "batch_size": 8},
    ),
    "qwen3-4b-math": Preset(
        "the same with Qwen3-4B; 16 GB GPU, better with --backend vllm",
        {"model": "Qwen/Qwen3-4B", **_MATH, "max_new_tokens": 8192, "batch_size": 4},
    ),
}  # fmt: skip


class ReasoningConfig(RunConfig):
    """Everything that determines a run of the study of reasoning models."""

    study: ClassVar[str] = STUDY_NAME
    presets: ClassVar[Mapping[str, Preset]] = PRESETS
    with_greedy: ClassVar[bool] = False

    preset: str = Field("lab-think", description="the preset that the other values started from")
    limit: int = Field(600, ge=1, le=1_000_000, description="number of questions")
    temperature: float = Field(0.6, ge=0, le=10, description="sampling temperature")
    max_new_tokens: int = Field(96, ge=1, le=131_072, description="longest run, in tokens")
    chat: bool = Field(True, description="wrap the prompt in the tokenizer's chat template")
    thinking: bool = Field(True, description="ask the chat template for thinking before answering")
    ood_questions: str | None = Field(
        "lab:ood",
        description="questions out of distribution, which no choice sees (a source as --questions; "
        "'none' for none)",
    )
    ood_limit: int = Field(200, ge=1, le=1_000_000, description="number of those questions")
    min_runs: int = Field(
        4,
        ge=2,
        le=1000,
        description="valid runs that a question must have to be kept; all, where --runs is smaller",
    )
    entropy_of: Literal["final-answer", "answer"] = Field(
        "final-answer",
        description="whose semantic entropy makes the label: the final answers', compared as "
        "numbers, or the whole answers', compared by the judge; the other one is measured too",
    )

    @property
    def question_sources(self) -> dict[str, int]:
        """The sources in and out of distribution; of a file that is still to be made, its own."""
        sources = {self.questions: self.limit}
        if self.ood_questions:
            sources[self.ood_questions] = self.ood_limit
        return {
            PREPARED[name] if name in PREPARED and not Path(name).exists() else name: limit
            for name, limit in sources.items()
        }

    @property
    def states_per_question(self) -> int:
        """One for each run."""
        return self.k

    @model_validator(mode="before")
    @classmethod
    def _none_is_none(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("ood_questions") in ("none", ""):
            values = {**values, "ood_questions": None}
        return values

    @model_validator(mode="after")
    def _study_combinations(self) -> ReasoningConfig:
        if self.ood_questions == self.questions:
            raise ValueError(
                f"ood_questions is {self.questions!r}, like questions: name another source, or none"
            )
        if self.thinking and not self.chat:
            raise ValueError(
                "thinking is asked of the chat template, and chat is off; use --chat, or "
                "--no-thinking"
            )
        return self
