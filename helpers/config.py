"""One `RunConfig` for the form, the command line, the cache key and the manifest.

>>> make_config("lab", k=20).k
20
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from helpers.errors import UserError

# The presets belong to this module's face; they live in a file of their own for its length.
from helpers.presets import PRESET_NOTES as PRESET_NOTES
from helpers.presets import PRESETS as PRESETS
from helpers.presets import REASONING_PRESETS
from helpers.uncertainty import choose_estimators

RUN_FLAG = "--run"
"""Tells a notebook to start without waiting for its button."""

ANALYSES = ("curves", "audit", "conformance", "protocols")
POSITIONS = ("tbg", "answer_last", "answer_second_last", "answer_mean", "think_end")


def execution_field(default: Any, **kwargs: Any) -> Any:
    """A field that changes how fast or where something runs, and nothing in the results."""
    return Field(default, json_schema_extra={"execution": True}, **kwargs)


class RunConfig(BaseModel):
    """Everything that determines a run, and where and how it is executed."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    study: ClassVar[str] = ""
    """The study that the run belongs to, as its manifest names it; "" is the main one."""

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
    n_bootstrap: int = Field(2000, ge=100, le=100_000, description="resamples for each interval")
    n_permutations: int = Field(2000, ge=1000, le=100_000, description="permutations for p-values")

    analyses: tuple[str, ...] = execution_field(
        ("all",), description="what follows the evaluation: all, none, or " + ", ".join(ANALYSES)
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
    return bool(_extra(all_fields()[field]).get("execution"))


def all_fields() -> dict[str, FieldInfo]:
    """The config fields of all studies, by name; those that all have come first."""
    own = {name: config_class(name).model_fields for name in ("lab", "lab-think")}
    return own["lab-think"] | own["lab"]


def study_fields() -> list[str]:
    """The fields that only the study of reasoning models has."""
    return [name for name in all_fields() if name not in RunConfig.model_fields]


def _extra(field: FieldInfo) -> dict[str, Any]:
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {}


def config_class(preset: str) -> type[RunConfig]:
    """The class of a preset's config: a study may have fields of its own."""
    if preset in REASONING_PRESETS:
        from helpers.studies.reasoning.config import ReasoningConfig

        return ReasoningConfig
    return RunConfig


def stored_config(fields: Mapping[str, Any]) -> RunConfig:
    """The config that a manifest or a task holds; raises pydantic's `ValidationError`."""
    return config_class(str(fields.get("preset", "lab")))(**fields)


def make_config(preset: str = "lab", **overrides: Any) -> RunConfig:
    """The preset's config with some fields changed.

    Raises `UserError` for an unknown preset or field, or a value out of range, with the remedy.
    """
    if preset not in PRESETS:
        raise UserError(f"preset {preset!r} is unknown; there are: {', '.join(PRESETS)}")
    kind = config_class(preset)
    for name in overrides:
        if name in kind.model_fields:
            continue
        if name in all_fields():
            raise UserError(
                f"{name} (--{name.replace('_', '-')}) belongs to the study of reasoning models, "
                f"and preset {preset!r} does not; use --preset {', '.join(REASONING_PRESETS)}"
            )
        close = difflib.get_close_matches(name, kind.model_fields, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "`sep run --help` lists the fields"
        raise UserError(f"config field {name!r} is unknown; {hint}")
    try:
        return kind(**{**PRESETS[preset], **overrides, "preset": preset})
    except ValidationError as error:
        raise UserError("; ".join(_explain(e) for e in error.errors())) from error


def _explain(error: Any) -> str:
    """One plain sentence for one pydantic error."""
    field = str(error["loc"][0]) if error["loc"] else ""
    message = str(error["msg"]).removeprefix("Value error, ")
    if not field:
        return message
    flag = f"{field} (--{field.replace('_', '-')})"
    return f"{flag} is {error['input']!r}: {message[0].lower()}{message[1:]}"


def add_arguments(parser: argparse.ArgumentParser, preset: str = "lab") -> None:
    """Add one flag per config field, with its description and default, to a parser.

    `preset` is the one that is meant where none is named, unless a flag of its study says so.
    """
    notes = "; ".join(f"{name}: {note}" for name, note in PRESET_NOTES.items())
    words = f"starting values; default {preset}"
    if preset == "lab":
        words += ", or lab-think where a flag of its study is given"
    parser.add_argument("--preset", default=argparse.SUPPRESS, help=f"{words} ({notes})")
    parser.set_defaults(default_preset=preset)
    own = parser.add_argument_group("only in the study of reasoning models")
    for name, field in all_fields().items():
        if name != "preset":
            _add_flag(own if name in study_fields() else parser, name, field)


def _add_flag(parser: Any, name: str, field: FieldInfo) -> None:
    flags = ["--" + name.replace("_", "-"), *filter(None, [_extra(field).get("also")])]
    shown = field.default if field.default not in ((), None, "") else "none"
    text = f"{field.description} (default: {shown})".replace("%", "%%")
    kwargs: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text, "dest": name}
    if field.annotation is bool:
        parser.add_argument(*flags, action=argparse.BooleanOptionalAction, **kwargs)
    elif get_origin(field.annotation) is tuple:
        parser.add_argument(*flags, nargs="*", metavar="TEXT", **kwargs)
    elif get_origin(field.annotation) is Literal:
        metavar = "{" + ",".join(get_args(field.annotation)) + "}"
        parser.add_argument(*flags, metavar=metavar, **kwargs)
    else:
        parser.add_argument(*flags, metavar=name.upper(), **kwargs)


def config_from_namespace(namespace: argparse.Namespace) -> RunConfig:
    """The config that parsed flags ask for (flags of other names are left alone)."""
    given = {k: v for k, v in vars(namespace).items() if k in all_fields()}
    usual = getattr(namespace, "default_preset", "lab")
    if usual == "lab" and any(name in given for name in study_fields()):
        usual = "lab-think"
    return make_config(given.pop("preset", usual), **given)


def config_from_arguments(
    arguments: Sequence[str], program: str = "probe_training_auto.py", preset: str = "lab"
) -> RunConfig:
    """The config that command-line flags ask for, as a notebook reads them.

    Raises `UserError` for a flag that does not exist; `--help` prints all and exits.
    """
    parser = PlainParser(
        prog=program,
        description="Sample a language model, measure its semantic entropy, train probes on its "
        "hidden states, and say how well they work. Writes a run folder below --out.",
    )
    parser.add_argument(
        RUN_FLAG,
        action="store_true",
        help="opened or exported as a notebook: start at once (as a script it always does)",
    )
    add_arguments(parser, preset)
    return config_from_namespace(parser.parse_args([a for a in arguments if a != "--"]))


class PlainParser(argparse.ArgumentParser):
    """Says what is wrong with a flag as every other mistake is said."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the flags")
