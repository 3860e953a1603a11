"""`sep`: the stages of a run without a notebook.

sep run                                  everything, on the embedded lab
sep run --preset gpt2-gsm8k --limit 200  everything, with gpt2 on GSM8K
sep entropy --samples FILE.jsonl         semantic entropy of answers that you already have
sep score "How many apples …?"           one forward pass with the probes of a run
sep doctor                               what is installed, cached and reachable
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from helpers.config import PlainParser, RunConfig, add_arguments, config_from_namespace
from helpers.errors import UserError

STAGE_COMMANDS = {
    "run": ("evaluation", "all stages; prints the scores and the run folder"),
    "generate": ("samples", "sample answers to the questions"),
    "entropy": ("meanings", "group answers by meaning and measure semantic entropy"),
    "trace": ("hidden", "read hidden states"),
    "train": ("probes", "train the probes"),
    "eval": ("evaluation", "score the probes on the test questions"),
}
"""Command to the last stage that it runs, and its help; earlier stages run where missing."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (2: a problem that the message explains)."""
    return run_safely(lambda: _dispatch(build_parser().parse_args(arguments)))


def run_safely(job) -> int:  # type: ignore[no-untyped-def]
    """Run a job, with warnings and known problems shown as one line each."""
    warnings.showwarning = show_warning
    try:
        return job() or 0
    except (UserError, KeyboardInterrupt) as problem:
        return explain(problem)


def explain(problem: UserError | KeyboardInterrupt) -> int:
    """Say on standard error what stopped a command; returns the exit status."""
    if isinstance(problem, UserError):
        print(f"error: {problem}", file=sys.stderr)
        return 2
    print(
        "\nstopped; everything finished so far is stored, the same command goes on from here",
        file=sys.stderr,
    )
    return 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of `sep`, one sub-command a stage."""
    parser = PlainParser(
        prog="sep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in STAGE_COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name == "entropy":
            command.add_argument(
                "--samples",
                metavar="FILE.jsonl",
                help="score these answers instead of sampling a model: one JSON object a line, "
                "{id, question, samples: [...], answer?, logprobs?}; the judge is then "
                "final-answer unless --judge says otherwise",
            )
        add_arguments(command)
    score = commands.add_parser(
        "score", help="predict semantic entropy and p(wrong) of a question in one forward pass"
    )
    score.add_argument("prompt", help="the question; the run's prompt template is put around it")
    score.add_argument("--run", help="run folder whose probes to use (default: this config's)")
    score.add_argument("--raw", action="store_true", help="take the prompt as it is, no template")
    add_arguments(score)
    lab = commands.add_parser("lab", help="the embedded models")
    lab_commands = lab.add_subparsers(dest="lab_command", required=True, metavar="COMMAND")
    train = lab_commands.add_parser("train", help="rebuild the embedded models from nothing")
    train.add_argument("--only", choices=("language-model", "judge"), help="train just this one")
    train.add_argument("--steps", type=int, help="training steps (default: the recipe's)")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as many as are free")
    train.add_argument("--into", type=Path, help="folder for the weights (default: in the package)")
    check = lab_commands.add_parser(
        "check", help="how well the embedded models do on held-out data"
    )
    check.add_argument("--n", type=int, default=1000, help="problems (default: 1000)")
    check.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as many as are free")
    doctor = commands.add_parser("doctor", help="what is installed, cached and reachable")
    add_arguments(doctor)
    return parser


def _dispatch(options: argparse.Namespace) -> int:
    if options.command == "lab" and options.lab_command == "check":
        from helpers.lab.check import check_lab

        print(check_lab(options.n, options.threads))
        return 0
    if options.command == "lab":
        from helpers.lab.train import train_lab

        train_lab(
            options.into, only=options.only, steps=options.steps, seed=options.seed,
            threads=options.threads,
        )  # fmt: skip
        return 0
    config = config_from_namespace(options)
    if options.command == "doctor":
        from helpers.doctor import examine

        print(examine(config))
        return 0
    if options.command == "score":
        from helpers.scoring import describe_score, score_prompt

        folder = Path(options.run) if options.run else config.run_folder
        model = getattr(options, "model", None)
        readings = score_prompt(folder, options.prompt, config, raw=options.raw, model=model)
        print(describe_score(readings))
        return 0
    if options.command == "entropy" and options.samples is not None:
        if not {"judge", "judge_model"} & set(vars(options)):
            config = config.model_copy(update={"judge": "final-answer"})
        from helpers.own_samples import run_on_samples

        print(run_on_samples(Path(options.samples).expanduser(), config))
        return 0
    return run_stages(config, STAGE_COMMANDS[options.command][0])


def run_stages(config: RunConfig, until: str) -> int:
    """Run the stages of a config in a terminal, and print what came out."""
    from helpers.progress import terminal_progress
    from helpers.run import run
    from helpers.summary import summarise

    finished = run(config, terminal_progress(), until=until)
    if finished:
        print(summarise(finished))
    print(f"\nrun folder: {config.run_folder}")
    return 0


def show_warning(message, category, filename, lineno, file=None, line=None) -> None:  # type: ignore[no-untyped-def]
    """Show our own warnings as one line, and keep those of libraries off the screen."""
    if issubclass(category, UserWarning) and "helpers" in Path(filename).parts:
        print(f"warning: {message}", file=sys.stderr)
