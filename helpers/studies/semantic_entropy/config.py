"""`SemanticEntropyConfig`: the fields and the presets of the study of semantic entropy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, model_validator

from helpers.config import Preset, RunConfig, execution_field
from helpers.uncertainty.estimators import ESTIMATORS, choose_estimators

STUDY_NAME = "semantic-entropy"
ANALYSES = ("curves", "audit")
POSITIONS = ("tbg", "answer_last", "answer_second_last", "answer_mean", "think_end")

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
PRESETS = {
    "lab": Preset(
        "embedded word problems, model and judge; no network; two to three minutes on one core",
        seconds={
            "samples": 20.7, "meanings": 13.6, "uncertainty": 71.5, "hidden": 4.7, "probes": 1.6,
            "evaluation": 1.9, "analyses": 4.8,
        },
    ),
    "gpt2-gsm8k": Preset(
        "gpt2 on 300 GSM8K questions, DeBERTa-v3-small judge on the CPU, 4 GB GPU",
        {"model": "openai-community/gpt2", **_GSM8K},
    ),
    "gpt2-medium-gsm8k": Preset(
        "the same with gpt2-medium",
        {"model": "openai-community/gpt2-medium", **_GSM8K, "batch_size": 32},
    ),
}  # fmt: skip


class SemanticEntropyConfig(RunConfig):
    """Everything that determines a run of the study of semantic entropy."""

    study: ClassVar[str] = STUDY_NAME
    presets: ClassVar[Mapping[str, Preset]] = PRESETS

    positions: tuple[str, ...] = Field(
        ("tbg", "answer_last", "answer_second_last", "answer_mean"),
        description="where hidden states are read: " + ", ".join(POSITIONS),
        json_schema_extra={"choices": list(POSITIONS)},
    )
    estimators: tuple[str, ...] = Field(
        ("all",),
        description="uncertainty estimators to compute, by name (`sep estimators`), or all",
        json_schema_extra={"choices": ["all", *ESTIMATORS]},
    )
    p_true_shots: int = Field(
        10, ge=0, le=100, description="solved examples in front of the few-shot p(True) question"
    )
    analyses: tuple[str, ...] = execution_field(
        ("all",),
        description="what follows the evaluation: all, none, or " + ", ".join(ANALYSES),
        json_schema_extra={"choices": ["all", "none", *ANALYSES]},
    )

    @property
    def states_per_question(self) -> int:
        """One for each position in the most likely answer."""
        return len(self.positions)

    def wants(self, analysis: str) -> bool:
        """Whether an analysis of `ANALYSES` is to follow the evaluation."""
        return analysis in self.analyses or "all" in self.analyses

    @model_validator(mode="after")
    def _own_combinations(self) -> SemanticEntropyConfig:
        unknown = [p for p in self.positions if p not in POSITIONS]
        if unknown or not self.positions:
            raise ValueError(
                f"positions has {unknown or 'nothing'}; choose from {', '.join(POSITIONS)}"
            )
        choose_estimators(self.estimators)
        odd = [name for name in self.analyses if name not in ("all", "none", *ANALYSES)]
        if odd or not self.analyses:
            raise ValueError(
                f"analyses has {odd or 'nothing'}; choose from all, none, {', '.join(ANALYSES)}"
            )
        return self
