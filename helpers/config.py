"""`RunConfig`: everything that determines a run, and where and how it is executed."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from helpers.errors import UserError
from helpers.uncertainty import choose_estimators

ANALYSES = ("curves", "audit")
POSITIONS = ("tbg", "answer_last", "answer_second_last", "answer_mean", "think_end")


def execution_field(default: Any, **kwargs: Any) -> Any:
    """A field that changes how fast or where something runs, and nothing in the results."""
    return Field(default, json_schema_extra={"execution": True}, **kwargs)


class RunConfig(BaseModel):
    """Everything that determines a run, and where and how it is executed."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    study: ClassVar[str] = ""
    """The study that the run belongs to, as its manifest names it; "" is the main one."""
    states_per_answer: ClassVar[bool] = False
    """Whether hidden states are kept of every answer, not of one answer to each question."""
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
    positions: tuple[str, ...] = Field(
        ("tbg", "answer_last", "answer_second_last", "answer_mean"),
        description="where hidden states are read: " + ", ".join(POSITIONS),
    )
    estimators: tuple[str, ...] = Field(
        ("all",),
        description="uncertainty estimators to compute, by name (`sep estimators`), or all",
    )
    p_true_shots: int = Field(
        10, ge=0, le=100, description="solved examples in front of the few-shot p(True) question"
    )
    backend: Literal["hf", "vllm", "openai"] = Field(
        "hf",
        description="what generates: transformers, vLLM in this process, or an OpenAI-compatible "
        "completions endpoint",
    )
    served_model: str = Field("", description="the model's name at the endpoint; default: --model")
    n_bootstrap: int = Field(2000, ge=100, le=100_000, description="resamples for each interval")
    n_permutations: int = Field(2000, ge=1000, le=100_000, description="permutations for p-values")

    analyses: tuple[str, ...] = execution_field(
        ("all",), description="what follows the evaluation: all, none, or " + ", ".join(ANALYSES)
    )
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
    batch_size: int = execution_field(
        256, ge=1, le=65_536, description="sequences generated at once"
    )
    judge_batch_size: int = execution_field(64, ge=1, le=65_536, description="pairs judged at once")
    device: str = execution_field("auto", description="auto, cpu, cuda, cuda:1, mps")
    judge_device: str = execution_field(
        "cpu", description="where the judge runs: cpu, cuda, auto, …"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="number type of the model; auto: float32 on CPU, else the checkpoint's"
    )
    threads: int = execution_field(
        0, ge=0, le=1024, description="CPU threads; 0: as many as are free"
    )
    cache_dir: Path = execution_field(
        Path(".cache/uncertainty-probes"), description="folder of stored results, for resuming"
    )
    out: Path = execution_field(
        Path("outputs"), description="folder in which the run folder is made"
    )

    @model_validator(mode="after")
    def _combinations(self) -> RunConfig:
        if self.temperature == 0:
            raise ValueError(
                f"temperature is 0 with k = {self.k}: every sample would be the same answer; "
                "use a temperature above 0 (the most likely answer is computed anyway)"
            )
        if "{question}" not in self.prompt_template:
            raise ValueError("prompt_template has no {question} in it; add it")
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

    @property
    def question_sources(self) -> dict[str, int]:
        """Where the questions come from, and how many are taken of each source at most."""
        return {self.questions: self.limit}

    @property
    def answers_per_question(self) -> int:
        """The samples, and the most likely answer where it is wanted."""
        return self.k + self.with_greedy

    def results_fields(self) -> dict[str, Any]:
        """The fields that determine the results, without those that only say how to execute."""
        fields = self.model_dump(mode="json")
        return {name: fields[name] for name in fields if not is_execution(name)}

    def wants(self, analysis: str) -> bool:
        """Whether an analysis of `ANALYSES` is to follow the evaluation."""
        return analysis in self.analyses or "all" in self.analyses

    def run_name(self) -> str:
        """The run folder's name: what was run on what, and eight digits of the config's hash.

        The preset's name stands for its model and questions; a run with others names those.
        """
        from helpers.studies.registry import PRESETS

        text = json.dumps(self.results_fields(), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        changes = PRESETS.get(self.preset, {})
        usual = {name: changes.get(name, "lab") for name in ("model", "questions")}
        if usual == {"model": self.model, "questions": self.questions}:
            return f"{self.preset}-{digest}"
        parts = (Path(self.model).name, Path(self.questions).stem)
        return "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", part) for part in (*parts, digest))

    @property
    def run_folder(self) -> Path:
        """Where the run is written."""
        return self.out / self.run_name()


def is_execution(field: str) -> bool:
    """Whether a field only says how or where to execute."""
    from helpers.studies.registry import all_fields

    return bool(_extra(all_fields()[field]).get("execution"))


def _extra(field: FieldInfo) -> dict[str, Any]:
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {}


def repeat_command(settings: Mapping[str, Any]) -> str:
    """The command line that repeats a run, from its manifest's config.

    Only flags that differ from the preset stand in it. Raises `UserError` where no command says
    the same: the preset is unknown here, or a value cannot be typed as a flag.

    >>> repeat_command({"preset": "lab", "k": 20, "chat": True, "stop": ["\\n\\n"]})
    "uv run sep run --preset lab --k=20 --chat '--stop=\\n\\n'"
    """
    from helpers.studies.registry import make_config

    words = ["uv", "run", "sep", "run", "--preset", str(settings.get("preset", "lab"))]
    base = make_config(words[-1]).results_fields()
    for name, value in settings.items():
        if name not in base:
            raise UserError(f"this version has no setting {name!r}; use the version that wrote it")
        if value != base[name]:
            words += _flag(name, value)
    return " ".join(shlex.quote(word) for word in words)


def _flag(name: str, value: Any) -> list[str]:
    """The words by which the command line sets a field."""
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if value == "--" or value == ["--"]:
        raise UserError(f"{flag} cannot be --, which ends a command's flags")
    if not isinstance(value, list):
        if value is None:
            raise UserError(f"no flag unsets {name}, which the preset sets")
        return [f"{flag}={value}"]
    if len(value) == 1:
        return [f"{flag}={value[0]}"]
    if any(str(item).startswith("-") for item in value):
        raise UserError(f"{flag} cannot take several texts of which one begins with a dash")
    return [flag, *map(str, value)]
