"""All studies: their presets, configs and flags, and how a run of each is run and opened.

>>> make_config("lab", k=20).k
20
"""

from __future__ import annotations

import argparse
import difflib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from helpers.config import RunConfig, _extra
from helpers.data.questions import Question
from helpers.errors import UserError
from helpers.progress import Progress
from helpers.studies.reasoning.config import REASONING_PRESETS
from helpers.studies.semantic_entropy.config import MAIN_PRESETS
from helpers.studies.semantic_entropy.open_run import open_run
from helpers.studies.study import REASONING, stages_of

# --- presets -------------------------------------------------------------------------------------


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


# --- configs and flags ---------------------------------------------------------------------------


RUN_FLAG = "--run"
"""Tells a notebook to start without waiting for its button."""


def all_fields() -> dict[str, FieldInfo]:
    """The config fields of all studies, by name; those that all have come first."""
    own = {name: config_class(name).model_fields for name in ("lab", "lab-think")}
    return own["lab-think"] | own["lab"]


def study_fields() -> list[str]:
    """The fields that only the study of reasoning models has."""
    return [name for name in all_fields() if name not in RunConfig.model_fields]


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


OF_THE_MACHINE = ("device", "threads", "cache_dir", "out")
"""Fields that stay as they are when another preset is chosen."""


def with_preset(asked: RunConfig, preset: str) -> RunConfig:
    """The asked config, or another preset on the same machine."""
    if preset == asked.preset:
        return asked
    return make_config(preset, **{name: getattr(asked, name) for name in OF_THE_MACHINE})


# --- notebooks of the studies --------------------------------------------------------------------
#
# A study is a notebook of its own, embedded in the page when its tab is opened and not before.


PAGE = "probe_training_auto.py"
"""The notebook of the main study."""
STUDY_NOTEBOOKS = {REASONING: "helpers/studies/reasoning/notebook.py"}
"""The notebook of each further study, from the repository's root."""
FIRST_PRESETS = {REASONING: next(iter(REASONING_PRESETS))}
"""The preset with which a further study starts."""


def notebook_of(study: str) -> str:
    """The notebook of a study, from the repository's root."""
    return STUDY_NOTEBOOKS.get(study, PAGE)


def notebook_path(study: str) -> Path:
    """The file of a study's notebook; raises `UserError` where only the package is installed."""
    path = Path(__file__).resolve().parents[2] / notebook_of(study)
    if not path.is_file():
        raise UserError(
            f"{path} is missing: reports and studies are made from the notebooks, which are part "
            "of the repository and not of the installed package; work in a copy of the repository"
        )
    return path


def open_any(folder: Path, study: str) -> Any:
    """The run of a folder, as the record of its study; raises `UserError` as the readers do."""
    if study == REASONING:
        from helpers.studies.reasoning.run_files import open_study

        return open_study(folder)
    return open_run(folder)


def study_config(config: RunConfig, study: str) -> RunConfig:
    """The config with which a study starts, on the machine of the page's config."""
    return with_preset(config, FIRST_PRESETS[study]) if study else config


def _app(path: Path) -> Any:
    """The marimo app of a notebook file; its cells have not run."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # the file's name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


# --- running and summarising ---------------------------------------------------------------------


def run_study(config: RunConfig, progress: Progress, *, until: str = "") -> Any | None:
    """Run the stages of the study that a config belongs to, up to `until` (default: the last).

    Returns the run of that study; None when stopped before its scores.
    """
    last = until or stages_of({"study": config.study})[-1]
    if config.study == REASONING:
        from helpers.studies.reasoning.stages import run_reasoning

        return run_reasoning(config, progress, until=last)
    from helpers.studies.semantic_entropy.stages import run

    return run(config, progress, until=last)


def chosen_questions(config: RunConfig) -> list[Question]:
    """The questions of the study that a config belongs to; raises `UserError` as its reader does.

    Sources that are not on this machine are fetched.
    """
    if config.study == REASONING:
        from helpers.progress import silent_progress
        from helpers.studies.reasoning.runs import study_questions

        return study_questions(config, silent_progress())  # type: ignore[arg-type]
    from helpers.generation.samples import choose_questions

    return choose_questions(config)


def summarise_run(finished: Any) -> str:
    """What a terminal shows of a finished run of any study."""
    from helpers.studies.semantic_entropy.records import Run

    if isinstance(finished, Run):
        from helpers.studies.semantic_entropy.views import summarise

        return summarise(finished)
    from helpers.studies.reasoning.views import summarise_study

    config, n = finished.config, len(finished.table)
    heading = (
        f"Uncertainty signals of reasoning models: {config.model}, T = {config.temperature:g}, "
        f"{n:,} valid runs"
    )
    return summarise_study(
        finished.table, finished.probes, finished.assessment, finished.counts, heading=heading
    )
