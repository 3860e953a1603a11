"""`sep`: the stages of a run without a notebook.

sep run                                  everything, on the embedded lab
sep run --preset gpt2-gsm8k --limit 200  everything, with gpt2 on GSM8K
sep run --preset lab-think               the study of reasoning models, embedded
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.config import RunConfig, is_execution
from helpers.errors import UserError
from helpers.formatting import size_text
from helpers.progress import run_safely
from helpers.studies.reasoning.config import REASONING_PRESETS
from helpers.studies.registry import PlainParser, add_arguments, all_fields, config_from_namespace

# --- commands that read finished runs ------------------------------------------------------------


ANALYSIS_COMMANDS = {
    "curves": "how many samples, labels and answers are enough; when to abstain",
    "audit": "how much the grouping of answers by meaning depends on the rule",
}
"""Command of a run folder to its help."""
_RUN_HELP = "run folder (default: that of the config which the flags describe)"


def add_run_commands(command: Callable[..., Any]) -> None:
    """Add them to the parser of `sep`; `command` makes one of its name, its job and its help."""
    for name, text in ANALYSIS_COMMANDS.items():
        analysis = command(name, _analysis, text)
        analysis.add_argument("folder", metavar="RUN", nargs="?", help=_RUN_HELP)
        add_arguments(analysis)
    text = "probes of one run asked about the questions of others, and the other way round"
    transfer = command("transfer", _transfer, text)
    transfer.add_argument("folders", metavar="RUN", nargs="+", help="run folders of one model")
    add_arguments(transfer)
    _add_compare(command)
    _add_report(command)


def _add_compare(command: Callable[..., Any]) -> None:
    text = "two runs side by side: the same metrics, paired where the test questions are the same"
    compare = command("compare", _compare, text)
    compare.add_argument(
        "folders", metavar="RUN", nargs=2, help="a run's folder, or its name in the folder --out"
    )
    for name in ("out", "n_bootstrap", "n_permutations", "seed"):
        field = RunConfig.model_fields[name]
        flag, words = "--" + name.replace("_", "-"), f"{field.description} ({field.default})"
        compare.add_argument(flag, metavar=name.upper(), default=argparse.SUPPRESS, help=words)
    compare.epilog = (
        "Each run is scored on its own test questions. A − B is taken on the test questions (id "
        "and text) that both have, with a 95 % interval and a p-value over these questions. What "
        "the runs differ in, and whether that makes a comparison unfair, is said as well. Nothing "
        "is computed anew and no model is loaded; the folders stay as they are."
    )


def _add_report(command: Callable[..., Any]) -> None:
    text = "one HTML file with the prose, tables and figures of a run; it loads nothing"
    report = command("report", _report, text)
    report.add_argument("folder", metavar="RUN", help="run folder")
    words = "file to write (default: report.html in the run folder)"
    report.add_argument("--out", metavar="FILE", type=Path, help=words)
    report.add_argument("--code", action="store_true", help="the notebook's code too, folded")


def _analysis(options: argparse.Namespace) -> None:
    from helpers.models.loading import set_threads
    from helpers.progress import terminal_progress
    from helpers.store.cache import Store
    from helpers.studies.semantic_entropy.analyses import analyse
    from helpers.studies.semantic_entropy.run_files import read_run

    config = config_from_namespace(options)
    run = read_run(Path(options.folder) if options.folder else config.run_folder)
    set_threads(config.threads)
    store = Store(config.cache_dir)
    try:
        name = options.command
        print(analyse(name, run, config, store, terminal_progress(), thorough=True).text)
    finally:
        store.close()
    print(f"\nevery number: {run.folder / 'analyses' / name}.json")


def _transfer(options: argparse.Namespace) -> None:
    from helpers.progress import terminal_progress
    from helpers.store.cache import content_key
    from helpers.store.files import write_json
    from helpers.studies.semantic_entropy.analyses.transfer import describe_transfer, transfer
    from helpers.studies.semantic_entropy.run_files import read_run

    config = config_from_namespace(options)
    runs = [read_run(Path(folder)) for folder in options.folders]
    found = transfer(
        runs,
        n_boot=config.n_bootstrap,
        n_perm=config.n_permutations,
        seed=config.seed,
        progress=terminal_progress(),
    )
    print(describe_transfer(found))
    digest = content_key(runs=sorted(run.name for run in runs))[:8]
    path = config.out / f"transfer-{digest}.json"
    write_json(path, found.as_dict())
    print(f"\nevery number: {path}")


def _compare(options: argparse.Namespace) -> None:
    from helpers.progress import terminal_progress
    from helpers.studies.semantic_entropy.compare import compare, describe_comparison
    from helpers.studies.semantic_entropy.run_files import read_run

    config = config_from_namespace(options)
    folders = [Path(name).expanduser() for name in options.folders]
    found = [folder if folder.exists() else config.out / folder for folder in folders]
    compared = compare(
        read_run(found[0]), read_run(found[1]), config.n_bootstrap, config.n_permutations,
        config.seed, terminal_progress(),
    )  # fmt: skip
    print(describe_comparison(compared))


def _report(options: argparse.Namespace) -> None:
    from helpers.app.report import finished_run, write_report
    from helpers.progress import terminal_progress

    run = finished_run(Path(options.folder))
    path = write_report(run, options.out, code=options.code, progress=terminal_progress())
    print(f"{path}  {size_text(path.stat().st_size)}")


@dataclass(frozen=True)
class StageCommand:
    """A command that runs the stages up to one; earlier ones run where they are missing."""

    help: str
    stage: str
    """The last stage, in the main study; "" where it has none of the kind."""
    reasoning_stage: str
    """The last stage, in the study of reasoning models."""


STAGE_COMMANDS = {
    "run": StageCommand(
        "all stages; prints the scores and the run folder", "analyses", "analysis"
    ),
    "generate": StageCommand("sample answers to the questions", "samples", "samples"),
    "entropy": StageCommand(
        "group answers by meaning and measure the uncertainty", "uncertainty", "meanings"
    ),
    "trace": StageCommand("read hidden states", "hidden", "hidden"),
    "datasets": StageCommand(
        "label and split the runs of a reasoning model for its probes", "", "tables"
    ),
    "train": StageCommand("train the probes", "probes", "probes"),
    "eval": StageCommand("score the probes on the test questions", "evaluation", "evaluation"),
    "analysis": StageCommand(
        "write the table that the dashboard reads, one row a run of a reasoning model",
        "", "analysis",
    ),
}  # fmt: skip


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

    for name, described in STAGE_COMMANDS.items():
        stage = command(name, _stages, described.help)
        if name == "entropy":
            stage.add_argument(
                "--samples",
                metavar="FILE.jsonl",
                help="score these answers instead of sampling a model: one JSON object a line, "
                "{id, question, samples: [...], answer?, logprobs?}; the judge is then "
                "final-answer unless --judge says otherwise",
            )
        if name == "analysis":
            words = "run folder (default: that of the config which the flags describe)"
            stage.add_argument("folder", metavar="RUN", nargs="?", type=Path, help=words)
        add_arguments(stage, "lab" if described.stage else "lab-think")
    text = "predict semantic entropy and p(wrong) of a question in one forward pass"
    score = command("score", _score, text)
    score.add_argument("prompt", help="the question; the run's prompt template is put around it")
    score.add_argument("--run", help="run folder whose probes to use (default: this config's)")
    score.add_argument("--raw", action="store_true", help="take the prompt as it is, no template")
    add_arguments(score)
    add_run_commands(command)
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


def _stages(options: argparse.Namespace) -> None:
    config = config_from_namespace(options)
    if getattr(options, "folder", None) is not None:
        config = _config_of(options.folder, config)
    described = STAGE_COMMANDS[options.command]
    if getattr(options, "samples", None) is None:
        last = described.reasoning_stage if config.study else described.stage
        if not last:
            raise UserError(
                f"`sep {options.command}` belongs to the study of reasoning models; use one of its "
                f"presets: {', '.join(REASONING_PRESETS)}"
            )
        run_stages(config, last)
        return
    from helpers.studies.semantic_entropy.own_samples import run_on_samples

    if not {"judge", "judge_model"} & set(vars(options)):
        config = config.model_copy(update={"judge": "final-answer"})
    print(run_on_samples(Path(options.samples).expanduser(), config))


def _config_of(folder: Path, machine: RunConfig) -> RunConfig:
    """The config of a run folder, executed as the flags say."""
    from helpers.studies.reasoning.run_files import open_study

    stored = open_study(folder).config
    same = {name: getattr(machine, name) for name in all_fields() if is_execution(name)}
    same |= {"out": folder.expanduser().parent}
    config = stored.model_copy(update=same)
    if config.run_folder.name != folder.expanduser().name:
        raise UserError(
            f"{folder} is not named as its run is ({config.run_name()}): the table would be "
            "written elsewhere; repeat the command that made it"
        )
    return config


def _score(options: argparse.Namespace) -> None:
    from helpers.studies.semantic_entropy.asking import describe_score, score_prompt

    config = config_from_namespace(options)
    folder = Path(options.run) if options.run else config.run_folder
    model = getattr(options, "model", None)
    readings = score_prompt(folder, options.prompt, config, raw=options.raw, model=model)
    print(describe_score(readings))


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
    from helpers.lab.train import train_lab

    train_lab(
        options.into, only=options.only, steps=options.steps, seed=options.seed,
        threads=options.threads,
    )  # fmt: skip


def _lab_check(options: argparse.Namespace) -> None:
    from helpers.lab.train import check_lab

    print(check_lab(options.n, options.threads))


def run_stages(config: RunConfig, until: str) -> None:
    """Run the stages of a config in a terminal, and print what came out."""
    from helpers.progress import terminal_progress
    from helpers.studies.registry import run_study, summarise_run

    finished = run_study(config, terminal_progress(), until=until)
    if finished:
        print(summarise_run(finished))
    print(f"\nrun folder: {config.run_folder}")
