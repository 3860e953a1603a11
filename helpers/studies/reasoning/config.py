"""`ReasoningConfig`: the main config's fields, with other defaults, and those of this study."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from helpers.config import RunConfig, execution_field
from helpers.stages import REASONING


class ReasoningConfig(RunConfig):
    """Everything that determines a run of the study of reasoning models."""

    study: ClassVar[str] = REASONING

    preset: str = Field("lab-think", description="the preset that the other values started from")
    limit: int = Field(600, ge=1, le=1_000_000, description="number of questions")
    temperature: float = Field(0.6, ge=0, le=10, description="sampling temperature")
    max_new_tokens: int = Field(96, ge=1, le=131_072, description="longest run, in tokens")
    chat: bool = Field(True, description="wrap the prompt in the tokenizer's chat template")
    thinking: bool = Field(True, description="ask the chat template for thinking before answering")
    positions: tuple[str, ...] = Field(
        ("think_end",), description="not used here: states are read where the thinking closes"
    )

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
    backend: Literal["hf", "vllm", "openai"] = Field(
        "hf",
        description="what generates: transformers, vLLM in this process, or an OpenAI-compatible "
        "completions endpoint",
    )
    served_model: str = Field("", description="the model's name at the endpoint; default: --model")

    endpoint: str = execution_field(
        "http://127.0.0.1:8000/v1", description="address of --backend openai, up to /v1"
    )
    api_key_variable: str = execution_field(
        "OPENAI_API_KEY", description="environment variable that holds the endpoint's key"
    )
    requests_at_once: int = execution_field(
        8, ge=1, le=1024, description="requests to the endpoint at a time"
    )
    gpu_mem_utilization: float = execution_field(
        0.9, gt=0, le=1, description="share of the GPU's memory that vLLM takes"
    )
    max_num_seqs: int = execution_field(
        256, ge=1, le=65_536, description="sequences that vLLM works on at once"
    )
    enforce_eager: bool = execution_field(
        False, description="vLLM without CUDA graphs: less memory, slower"
    )
    tensor_parallel: int = execution_field(
        1, ge=1, le=64, description="GPUs over which vLLM spreads the model"
    )
    trace_backend: Literal["nnsight", "plain"] = execution_field(
        "nnsight", description="how hidden states are read: through nnsight or by plain hooks"
    )
    trace_tokens: int = execution_field(
        16_384, ge=64, le=10_000_000, description="tokens in a batch whose hidden states are read"
    )

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
