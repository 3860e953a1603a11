"""`sep`: the stages of a run without a notebook.

sep run                                  everything, on the embedded lab
sep run --preset gpt2-gsm8k --limit 200  everything, with gpt2 on GSM8K
sep run --preset lab-think               another study, by its preset
sep entropy --samples FILE.jsonl         semantic entropy of answers that you already have
sep score "How many apples …?"           one forward pass with the probes of a run
sep estimators                           what every uncertainty estimator is, by formula
sep explain auroc                        what any one number of a report is
sep transfer RUN RUN                     probes of one run asked about the questions of another
sep compare RUN RUN                      two runs side by side, paired where questions are the same
sep report RUN                           the run as one HTML file that opens without a network
sep doctor                               what is installed, cached and reachable
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.formatting import size_text
from helpers.progress import run_safely, terminal_progress
from helpers.store.run_folder import read_manifest
from helpers.studies.registry import (
    PlainParser,
    add_arguments,
    all_studies,
    config_from_namespace,
    run_study,
    stored_config,
    study_of,
    summarise_run,
)
from helpers.studies.study import Study

RUN = "run"  # the command that runs a study to its end


def _report(options: argparse.Namespace) -> None:
    from helpers.app.report import finished_run, write_report

    run = finished_run(Path(options.folder))
    path = write_report(run, options.out, code=options.code, progress=terminal_progress())
    print(f"{path}  {size_text(path.stat().st_size)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (2: a problem that the message explains)."""

    def job() -> None:
        options = build_parser().parse_args(arguments)
        options.job(options)

    return run_safely(job)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `sep`; each command brings the function that runs it."""
    parser = PlainParser(
        prog="sep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, job: Callable[[argparse.Namespace], None], text: str) -> Any:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(job=job)
        return added

    stages = {name: command(name, _stages, text) for name, text in stage_commands().items()}
    for name, parser_of_stage in stages.items():
        able = [study for study in all_studies() if last_stage(study, name)]
        if any(stage.command == name and stage.takes_run for s in able for stage in s.stages):
            words = "run folder (default: that of the config which the flags describe)"
            parser_of_stage.add_argument("folder", metavar="RUN", nargs="?", type=Path, help=words)
        add_arguments(parser_of_stage, able)
    for study in all_studies():
        if study.add_commands:
            study.add_commands(command, stages)
    text = "one HTML file with the prose, tables and figures of a run; it loads nothing"
    report = command("report", _report, text)
    report.add_argument("folder", metavar="RUN", help="run folder")
    words = "file to write (default: report.html in the run folder)"
    report.add_argument("--out", metavar="FILE", type=Path, help=words)
    report.add_argument("--code", action="store_true", help="the notebook's code too, folded")
    text = "every uncertainty estimator: formula, units, source, names elsewhere"
    estimators = command("estimators", _estimators, text)
    estimators.add_argument("names", metavar="NAME", nargs="*", help="only these")
    text = "what a number of a report is: an estimator, a metric, a probe, a position, a tripwire"
    command("explain", _explain, text).add_argument("names", metavar="NAME", nargs="+")
    _add_lab(commands)
    add_arguments(command("doctor", _doctor, "what is installed, cached and reachable"))
    return parser


def _add_lab(commands: Any) -> None:
    lab = commands.add_parser("lab", help="the embedded models")
    lab_commands = lab.add_subparsers(dest="lab_command", required=True, metavar="COMMAND")
    train = lab_commands.add_parser("train", help="rebuild the embedded models from nothing")
    train.set_defaults(job=_lab_train)
    train.add_argument("--only", choices=("language-model", "judge"), help="train just this one")
    train.add_argument("--steps", type=int, help="training steps (default: the recipe's)")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as many as are free")
    train.add_argument("--into", type=Path, help="folder for the weights (default: in the package)")
    check = lab_commands.add_parser(
        "check", help="how well the embedded models do on held-out data"
    )
    check.set_defaults(job=_lab_check)
    check.add_argument("--n", type=int, default=1000, help="problems (default: 1000)")
    check.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as many as are free")


def stage_commands() -> dict[str, str]:
    """The commands that run the stages up to one of them, each with its help, in their order."""
    found = {RUN: "all stages; prints the scores and the run folder"}
    for study in all_studies():
        found |= {s.command: s.help for s in study.stages if s.command and s.command not in found}
    return found


def last_stage(study: Study, command: str) -> str:
    """The last stage of a study that a command runs; "" where the study has none of the kind."""
    if command == RUN:
        return study.stage_names[-1]
    return next((stage.name for stage in study.stages if stage.command == command), "")


def _stages(options: argparse.Namespace) -> None:
    config = config_from_namespace(options)
    if getattr(options, "folder", None) is not None:
        config = _config_of(options.folder, config)
    study, command = study_of(config), options.command
    last = last_stage(study, command)
    if not last:
        able = [each for each in all_studies() if last_stage(each, command)]
        raise UserError(
            f"`sep {command}` belongs to the study “{'”, “'.join(each.title for each in able)}”; "
            "use one of its presets: "
            + ", ".join(preset for each in able for preset in each.config.presets)
        )
    run_to(config, last)


def _config_of(folder: Path, machine: RunConfig) -> RunConfig:
    """The config of a run folder, executed as the flags say."""
    folder = folder.expanduser()
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder} is no run folder (it has no manifest.json); name one of outputs")
    kind = study_of(manifest).config
    fields = [name for name in kind.execution_fields() if name in type(machine).model_fields]
    same = {name: getattr(machine, name) for name in fields} | {"out": folder.parent}
    config = stored_config(folder, manifest, kind).model_copy(update=same)
    if config.run_folder.name != folder.name:
        raise UserError(
            f"{folder} is not named as its run is ({config.run_name()}): results would be written "
            "elsewhere; repeat the command that made it"
        )
    return config


def _estimators(options: argparse.Namespace) -> None:
    from helpers.cli.explain import describe_estimators

    print(describe_estimators(options.names or None))


def _explain(options: argparse.Namespace) -> None:
    from helpers.cli.explain import explain

    print("\n\n".join(explain(name) for name in options.names))


def _doctor(options: argparse.Namespace) -> None:
    from helpers.cli.doctor import examine

    print(examine(config_from_namespace(options)))


def _lab_train(options: argparse.Namespace) -> None:
    from helpers.lab.models import train_lab

    train_lab(
        options.into, only=options.only, steps=options.steps, seed=options.seed,
        threads=options.threads,
    )  # fmt: skip


def _lab_check(options: argparse.Namespace) -> None:
    from helpers.lab.models import check_lab

    print(check_lab(options.n, options.threads))


def run_to(config: RunConfig, until: str) -> None:
    """Run a config's study up to a stage in a terminal, and print what came out."""
    finished = run_study(config, terminal_progress(), until=until)
    if finished:
        print(summarise_run(finished))
    print(f"\nrun folder: {config.run_folder}")
