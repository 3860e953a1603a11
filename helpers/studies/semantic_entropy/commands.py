"""The commands of `sep` that only this study has: analyses of its runs, and its probes in use."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from helpers.config import RunConfig
from helpers.studies.registry import add_arguments, config_from_namespace
from helpers.studies.semantic_entropy.study import STUDY

ANALYSIS_COMMANDS = {
    "curves": "how many samples, labels and answers are enough; when to abstain",
    "audit": "how much the grouping of answers by meaning depends on the rule",
}
"""Command of a run folder to its help."""
_RUN_HELP = "run folder (default: that of the config which the flags describe)"


def add_commands(command: Callable[..., Any], stages: Mapping[str, Any]) -> None:
    """Add them to the parser of `sep`; `command` makes one of its name, its job and its help."""
    _add_samples(stages["entropy"])
    for name, text in ANALYSIS_COMMANDS.items():
        analysis = command(name, _analysis, text)
        analysis.add_argument("folder", metavar="RUN", nargs="?", help=_RUN_HELP)
        add_arguments(analysis, [STUDY])
    text = "probes of one run asked about the questions of others, and the other way round"
    transfer = command("transfer", _transfer, text)
    transfer.add_argument("folders", metavar="RUN", nargs="+", help="run folders of one model")
    add_arguments(transfer, [STUDY])
    _add_compare(command)
    text = "predict semantic entropy and p(wrong) of a question in one forward pass"
    score = command("score", _score, text)
    score.add_argument("prompt", help="the question; the run's prompt template is put around it")
    score.add_argument("--run", help="run folder whose probes to use (default: this config's)")
    score.add_argument("--raw", action="store_true", help="take the prompt as it is, no template")
    add_arguments(score, [STUDY])


def _add_samples(entropy: Any) -> None:
    """`sep entropy --samples`, which does without a model."""
    of_a_model = entropy.get_default("job")

    def job(options: argparse.Namespace) -> None:
        of_a_model(options) if options.samples is None else _own_samples(options)

    entropy.add_argument(
        "--samples",
        metavar="FILE.jsonl",
        help="score these answers instead of sampling a model: one JSON object a line, "
        "{id, question, samples: [...], answer?, logprobs?}; the judge is then "
        "final-answer unless --judge says otherwise",
    )
    entropy.set_defaults(job=job)


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


def _own_samples(options: argparse.Namespace) -> None:
    from helpers.studies.semantic_entropy.own_samples import run_on_samples

    config = config_from_namespace(options)
    if not {"judge", "judge_model"} & set(vars(options)):
        config = config.model_copy(update={"judge": "final-answer"})
    print(run_on_samples(Path(options.samples).expanduser(), config))


def _score(options: argparse.Namespace) -> None:
    from helpers.studies.semantic_entropy.asking import describe_score, score_prompt

    config = config_from_namespace(options)
    folder = Path(options.run) if options.run else config.run_folder
    model = getattr(options, "model", None)
    readings = score_prompt(folder, options.prompt, config, raw=options.raw, model=model)
    print(describe_score(readings))
