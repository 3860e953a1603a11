"""All studies: their presets, configs and flags, and how a run of each is run and opened.

>>> make_config("lab", k=20).k
20
"""

from __future__ import annotations

import argparse
import difflib
import functools
import importlib
import importlib.util
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from helpers.config import Preset, RunConfig, field_extra
from helpers.errors import UserError
from helpers.progress import Progress
from helpers.store.run_folder import RunEntry, read_manifest, stored_runs
from helpers.studies.study import Study, run_stages

STUDIES = {
    "semantic-entropy": "helpers.studies.semantic_entropy.study",
    "reasoning": "helpers.studies.reasoning.study",
}
"""Name of a study, as manifests have it, to the module that defines it; the first one is meant
where none is named."""
Config = TypeVar("Config", bound=RunConfig)
AGAIN = "repeat the command that made it: what is stored is not computed twice"


@functools.cache
def study_named(name: str = "") -> Study:
    """A study by its name, "" for the first one; raises `UserError` for an unknown name."""
    name = name or next(iter(STUDIES))
    if name not in STUDIES:
        raise UserError(f"study {name!r} is unknown; there are: {', '.join(STUDIES)}")
    study: Study = importlib.import_module(STUDIES[name]).STUDY
    return study


def all_studies() -> list[Study]:
    """Every study, in the order of the registry."""
    return [study_named(name) for name in STUDIES]


def study_of(of: Mapping[str, Any] | RunConfig) -> Study:
    """The study that a manifest, or a config, belongs to."""
    return study_named(str(of.get("study", "")) if isinstance(of, Mapping) else of.study)


def study_with_preset(preset: str) -> Study:
    """The study that a preset belongs to; raises `UserError` where there is no such preset."""
    for study in all_studies():
        if preset in study.config.presets:
            return study
    raise UserError(f"preset {preset!r} is unknown; there are: {', '.join(all_presets())}")


def all_presets() -> dict[str, Preset]:
    """The presets of all studies, by name."""
    return {name: p for study in all_studies() for name, p in study.config.presets.items()}


# --- configs -------------------------------------------------------------------------------------


def all_fields() -> dict[str, FieldInfo]:
    """The config fields of all studies, by name; those that all have come first."""
    fields = dict(RunConfig.model_fields)
    for study in all_studies():
        own = study.config.model_fields
        fields |= {name: field for name, field in own.items() if name not in fields}
    return fields


def make_config(preset: str = "", **overrides: Any) -> RunConfig:
    """The preset's config ("" for the first one) with some fields changed.

    Raises `UserError` for an unknown preset or field, or a value out of range, with the remedy.
    """
    preset = preset or study_named().default_preset
    kind = study_with_preset(preset).config
    for name in overrides:
        if name not in kind.model_fields:
            raise UserError(_no_such_field(name, preset))
    try:
        return kind(**{**kind.presets[preset].changes, **overrides, "preset": preset})
    except ValidationError as error:
        raise UserError("; ".join(_explain(e) for e in error.errors())) from error


def _no_such_field(name: str, preset: str) -> str:
    owners = [study for study in all_studies() if name in study.config.model_fields]
    if owners:
        presets = [preset for study in owners for preset in study.config.presets]
        return (
            f"{name} (--{name.replace('_', '-')}) belongs to the study "
            f"“{'”, “'.join(study.title for study in owners)}”, and preset {preset!r} does not; "
            f"use --preset {', '.join(presets)}"
        )
    close = difflib.get_close_matches(name, study_with_preset(preset).config.model_fields, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "`sep run --help` lists the fields"
    return f"config field {name!r} is unknown; {hint}"


def _explain(error: Any) -> str:
    """One plain sentence for one pydantic error."""
    field = str(error["loc"][0]) if error["loc"] else ""
    message = str(error["msg"]).removeprefix("Value error, ")
    if not field:
        return message
    flag = f"{field} (--{field.replace('_', '-')})"
    return f"{flag} is {error['input']!r}: {message[0].lower()}{message[1:]}"


def check_study(folder: Path, manifest: Mapping[str, Any], name: str) -> None:
    """Raises `UserError` where a run folder belongs to another study than the one of this name."""
    study = study_of(manifest)
    if study.name != name:
        raise UserError(
            f"{folder} is a run of another study ({study.title}); open it in {study.notebook}"
        )


def stored_config(folder: Path, manifest: Mapping[str, Any], kind: type[Config]) -> Config:
    """The config of a run folder; raises `UserError` where it is of another study or version."""
    check_study(folder, manifest, kind.study)
    try:
        return kind(**manifest["config"])
    except (ValidationError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{folder / 'manifest.json'} holds a config that this version does not know "
            f"({reason}); {AGAIN}"
        ) from error


def repeat_command(settings: Mapping[str, Any]) -> str:
    """The command line that repeats a run, from its manifest's config.

    Only flags that differ from the preset stand in it. Raises `UserError` where no command says
    the same: the preset is unknown here, or a value cannot be typed as a flag.

    >>> repeat_command({"preset": "lab", "k": 20, "chat": True, "stop": ["\\n\\n"]})
    "uv run sep run --preset lab --k=20 --chat '--stop=\\n\\n'"
    """
    preset = str(settings.get("preset") or study_named().default_preset)
    words = ["uv", "run", "sep", "run", "--preset", preset]
    base = make_config(preset).results_fields()
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


OF_THE_MACHINE = ("device", "threads", "cache_dir", "out")
"""Fields that stay as they are when another preset is chosen."""


def with_preset(asked: RunConfig, preset: str) -> RunConfig:
    """The asked config, or another preset on the same machine."""
    if preset == asked.preset:
        return asked
    return make_config(preset, **{name: getattr(asked, name) for name in OF_THE_MACHINE})


def study_config(config: RunConfig, name: str) -> RunConfig:
    """The config with which a study starts, on the machine of the page's config."""
    return with_preset(config, study_named(name).default_preset) if name else config


# --- flags ---------------------------------------------------------------------------------------


RUN_FLAG = "--run"
"""Tells a notebook to start without waiting for its button."""


class PlainParser(argparse.ArgumentParser):
    """Says what is wrong with a flag as every other mistake is said."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the flags")


def add_arguments(parser: argparse.ArgumentParser, studies: Sequence[Study] = ()) -> None:
    """Add one flag per config field of these studies (default: all) to a parser.

    Where no preset is named, the first study is meant that has all flags which are given.
    """
    studies = studies or all_studies()
    usual, *others = (study.default_preset for study in studies)
    words = f"starting values; default {usual}"
    if others:
        words += f", or {', '.join(others)} where a flag of its study is given"
    notes = "; ".join(
        f"{name}: {preset.note}" for s in studies for name, preset in s.config.presets.items()
    )
    parser.add_argument("--preset", default=argparse.SUPPRESS, help=f"{words} ({notes})")
    parser.set_defaults(studies=tuple(study.name for study in studies))
    added = {"preset"}
    common = RunConfig.model_fields
    for study in studies:
        group = parser.add_argument_group(f"only in the study “{study.title}”")
        for name, field in study.config.model_fields.items():
            if name not in added:
                _add_flag(parser if name in common else group, name, field)
                added.add(name)


def _add_flag(parser: Any, name: str, field: FieldInfo) -> None:
    flags = ["--" + name.replace("_", "-"), *filter(None, [field_extra(field).get("also")])]
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
    studies = [study_named(name) for name in getattr(namespace, "studies", ("",))]
    fitting = [study for study in studies if set(given) <= set(study.config.model_fields)]
    usual = (fitting or studies)[0].default_preset
    return make_config(given.pop("preset", usual), **given)


def config_from_arguments(
    arguments: Sequence[str], program: str = "probe_training_auto.py", preset: str = ""
) -> RunConfig:
    """The config that command-line flags ask for, as the notebook of a preset's study reads them.

    Raises `UserError` for a flag that does not exist; `--help` prints all and exits.
    """
    own = study_with_preset(preset) if preset else study_named()
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
    add_arguments(parser, [own, *(study for study in all_studies() if study is not own)])
    return config_from_namespace(parser.parse_args([a for a in arguments if a != "--"]))


# --- notebooks -----------------------------------------------------------------------------------
#
# A study is a notebook of its own, embedded in the page when its tab is opened and not before.


ROOT = Path(__file__).resolve().parent.parent.parent
"""Of the repository, where the notebooks are part of what is installed."""


def notebook_path(study: Study) -> Path:
    """The file of a study's notebook; raises `UserError` where only the package is installed."""
    path = ROOT / study.notebook
    if not path.is_file():
        raise UserError(
            f"{path} is missing: reports and studies are made from the notebooks, which are part "
            "of the repository and not of the installed package; work in a copy of the repository"
        )
    return path


def notebook_app(study: Study) -> Any:
    """The marimo app of a study's notebook; its cells have not run."""
    path = notebook_path(study)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # the file's name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


# --- runs ----------------------------------------------------------------------------------------


def open_run(folder: Path) -> Any:
    """The run of a folder, as the record of its study; raises `UserError` as the readers do."""
    return study_of(read_manifest(folder) or {}).open(folder)


def runs_of(out: Path, study: Study) -> list[RunEntry]:
    """A study's runs under a folder, and those too damaged to say of which study, the newest first.

    A run whose manifest names no study is of the first one.
    """
    names = (study.name, "") if study is study_named() else (study.name,)
    return [entry for entry in stored_runs(out) if entry.damaged or entry.study in names]


def run_study(
    config: RunConfig,
    progress: Progress,
    *,
    until: str = "",
    on_stage: Callable[[str], None] = lambda name: None,
) -> Any | None:
    """Run the stages of the study that a config belongs to, as `run_stages` does."""
    return run_stages(study_of(config), config, progress, until=until, on_stage=on_stage)


def summarise_run(finished: Any) -> str:
    """What a terminal shows of a run of any study that has its scores."""
    return study_of(finished.config).summarise(finished)
