"""The commands of `sep` that read finished run folders, and load no model."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.config import RunConfig, add_arguments, config_from_namespace

ANALYSIS_COMMANDS = {
    "curves": "how many samples, labels and answers are enough; when to abstain",
    "audit": "how much the grouping of answers by meaning depends on the rule",
    "conformance": "the numbers of other packages beside ours, for the same answers",
    "protocols": "two ways to evaluate, and what leaks between train and test are worth",
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
    words = (
        "also the notebook as marimo exports it, in notebook/ of the run folder, with marimo's "
        "files beside it (29 MB); any web server can show it"
    )
    report.add_argument("--notebook", action="store_true", help=words)


def _analysis(options: argparse.Namespace) -> None:
    from helpers.analyses import analyse
    from helpers.models import set_threads
    from helpers.progress import terminal_progress
    from helpers.store import Store
    from helpers.stored_run import read_run

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
    from helpers.analyses.transfer import describe_transfer, transfer
    from helpers.progress import terminal_progress
    from helpers.store import content_key, write_json
    from helpers.stored_run import read_run

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
    from helpers.compare_runs import compare, describe_comparison
    from helpers.progress import terminal_progress
    from helpers.stored_run import read_run

    config = config_from_namespace(options)
    folders = [Path(name).expanduser() for name in options.folders]
    found = [folder if folder.exists() else config.out / folder for folder in folders]
    compared = compare(
        read_run(found[0]), read_run(found[1]), config.n_bootstrap, config.n_permutations,
        config.seed, terminal_progress(),
    )  # fmt: skip
    print(describe_comparison(compared))


def _report(options: argparse.Namespace) -> None:
    from helpers.progress import terminal_progress
    from helpers.report import finished_run, notebook_path, write_report

    run, progress = finished_run(Path(options.folder)), terminal_progress()
    path = write_report(run, options.out, code=options.code, progress=progress)
    print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    if options.notebook:
        from helpers.marimo_assets import write_notebook_page

        with progress("Exporting the notebook", 1, "page") as stage:
            page = write_notebook_page(run, notebook_path(run), code=options.code)
            stage.advance(1)
        print(f"{page}  opens over http: python -m http.server -d {shlex.quote(str(page.parent))}")
