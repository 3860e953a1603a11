"""`RunConfig`: everything that determines a run, and where and how it is executed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo


def execution_field(default: Any, description: str, **kwargs: Any) -> Any:
    """A field that changes how fast or where something runs, and nothing in the results."""
    extra = {"execution": True, **kwargs.pop("json_schema_extra", {})}
    return Field(default, description=description, json_schema_extra=extra, **kwargs)


@dataclass(frozen=True)
class Preset:
    """Starting values of a config."""

    note: str
    """What it is and what it takes, in words."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Of the config's defaults."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage to what it takes on one CPU core, from an empty cache; empty where nobody measured."""


class RunConfig(BaseModel):
    """What every study's config has: what determines a run, and where and how it is executed."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    study: ClassVar[str] = ""
    """The study that the run belongs to, as its manifest names it."""
    presets: ClassVar[Mapping[str, Preset]] = {}
    """Those of the study; the first one is its default."""
    with_greedy: ClassVar[bool] = True
    """Whether the most likely answer is generated beside the samples."""

    preset: str = Field("lab", description="the preset that the other values started from")
    model: str = Field("lab", description="language model: 'lab', a hub name, or a local folder")
    questions: str = Field(
        "lab",
        description="'lab', 'lab:ood', a hub data set such as 'openai/gsm8k', or a JSONL file",
    )
    limit: int = Field(600, ge=1, le=1_000_000, description="number of questions")
    k: int = Field(
        10,
        ge=2,
        le=1000,
        description="answers sampled for each question",
        json_schema_extra={"also": "--runs"},
    )
    temperature: float = Field(1.0, ge=0, le=10, description="sampling temperature")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus: smallest set with this probability")
    max_new_tokens: int = Field(32, ge=1, le=32_768, description="longest answer, in tokens")
    seed: int = Field(0, ge=0, description="seed of the subset, the samples and the resampling")
    prompt_template: str = Field(
        "Question: {question}\nAnswer:", description="prompt; {question} stands for the question"
    )
    chat: bool = Field(False, description="wrap the prompt in the tokenizer's chat template")
    thinking: bool = Field(False, description="ask the chat template for thinking before answering")
    stop: tuple[str, ...] = Field((), description="texts that end an answer (they are cut off)")
    judge: Literal["nli", "cosine", "final-answer"] = Field(
        "nli", description="who says whether two answers mean the same"
    )
    judge_model: str = Field("lab", description="NLI classifier: 'lab', a hub name, or a folder")
    embedding_model: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2", description="sentence encoder of the cosine judge"
    )
    entailment: Literal["strict", "no-contradiction"] = Field(
        "strict",
        description="same meaning: both entail each other; or no contradiction, not both neutral",
    )
    condition_on_question: bool = Field(
        False, description="put the question in front of both answers before judging"
    )
    cosine_threshold: float | None = Field(
        None,
        gt=-1,
        lt=1,
        description="similarity that counts as same; default: chosen on validation",
    )
    backend: Literal["hf", "vllm", "openai"] = Field(
        "hf",
        description="what generates: transformers, vLLM in this process, or an OpenAI-compatible "
        "completions endpoint",
    )
    served_model: str = Field("", description="the model's name at the endpoint; default: --model")
    n_bootstrap: int = Field(2000, ge=100, le=100_000, description="resamples for each interval")
    n_permutations: int = Field(2000, ge=1000, le=100_000, description="permutations for p-values")

    endpoint: str = execution_field(
        "http://127.0.0.1:8000/v1", "address of --backend openai, up to /v1"
    )
    api_key_variable: str = execution_field(
        "OPENAI_API_KEY", "environment variable that holds the endpoint's key"
    )
    requests_at_once: int = execution_field(8, "requests to the endpoint at a time", ge=1, le=1024)
    gpu_mem_utilization: float = execution_field(
        0.9, "share of the GPU's memory that vLLM takes", gt=0, le=1
    )
    max_num_seqs: int = execution_field(
        256, "sequences that vLLM works on at once", ge=1, le=65_536
    )
    enforce_eager: bool = execution_field(False, "vLLM without CUDA graphs: less memory, slower")
    tensor_parallel: int = execution_field(1, "GPUs over which vLLM spreads the model", ge=1, le=64)
    batch_size: int = execution_field(256, "sequences generated at once", ge=1, le=65_536)
    judge_batch_size: int = execution_field(64, "pairs judged at once", ge=1, le=65_536)
    hidden_backend: Literal["nnsight", "plain"] = execution_field(
        "nnsight", "how hidden states are read: through nnsight or by plain hooks"
    )
    hidden_batch_tokens: int = execution_field(
        16_384, "tokens in a batch whose hidden states are read", ge=64, le=10_000_000
    )
    device: str = execution_field("auto", "auto, cpu, cuda, cuda:1, mps")
    judge_device: str = execution_field("cpu", "where the judge runs: cpu, cuda, auto, …")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="number type of the model; auto: float32 on CPU, else the checkpoint's"
    )
    threads: int = execution_field(0, "CPU threads; 0: as many as are free", ge=0, le=1024)
    cache_dir: Path = execution_field(
        Path(".cache/uncertainty-probes"), "folder of stored results, for resuming"
    )
    out: Path = execution_field(Path("outputs"), "folder in which the run folder is made")

    @model_validator(mode="after")
    def _combinations(self) -> RunConfig:
        if self.temperature == 0:
            raise ValueError(
                f"temperature is 0 with k = {self.k}: every sample would be the same answer; "
                "use a temperature above 0 (the most likely answer is computed anyway)"
            )
        if "{question}" not in self.prompt_template:
            raise ValueError("prompt_template has no {question} in it; add it")
        return self

    @property
    def question_sources(self) -> dict[str, int]:
        """Where the questions come from, and how many are taken of each source at most."""
        return {self.questions: self.limit}

    @property
    def answers_per_question(self) -> int:
        """The samples, and the most likely answer where it is wanted."""
        return self.k + self.with_greedy

    @property
    def states_per_question(self) -> int:
        """Hidden states, each of all layers, that are kept for a question."""
        return 1

    @classmethod
    def execution_fields(cls) -> list[str]:
        """The fields that only say how or where to execute."""
        return [n for n, field in cls.model_fields.items() if field_extra(field).get("execution")]

    def results_fields(self) -> dict[str, Any]:
        """The fields that determine the results, without those that only say how to execute."""
        return self.model_dump(mode="json", exclude=set(self.execution_fields()))

    def run_name(self) -> str:
        """The run folder's name: what was run on what, and eight digits of the config's hash.

        The preset's name stands for its model and questions; a run with others names those.
        """
        text = json.dumps(self.results_fields(), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        changes = self.presets[self.preset].changes if self.preset in self.presets else {}
        usual = {name: changes.get(name, "lab") for name in ("model", "questions")}
        if usual == {"model": self.model, "questions": self.questions}:
            return f"{self.preset}-{digest}"
        parts = (Path(self.model).name, Path(self.questions).stem)
        return "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", part) for part in (*parts, digest))

    @property
    def run_folder(self) -> Path:
        """Where the run is written."""
        return self.out / self.run_name()


def field_extra(field: FieldInfo) -> dict[str, Any]:
    """What a field says of itself beside its type: whether it is `execution`, another flag (`also`)
    by which it is given, and the `choices` of which several can be named."""
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {}
