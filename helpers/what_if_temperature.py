"""Runs that differ in temperature only, side by side."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from helpers.analyses.cluster_agreement import mean_score
from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.evaluation import Score, score_metric
from helpers.figure_style import (
    BLUE,
    GREY,
    add_notes,
    arm_length,
    framed,
    plain,
    say_instead,
    score_hover,
)
from helpers.metrics import auroc
from helpers.provenance import repeat_command
from helpers.report_tables import html_table
from helpers.summary import cell
from helpers.what_if_rules import AnyRun

FOLLOWS = ("temperature", "preset")
"""Fields in which the runs may differ: the preset only says which values a run started from."""
FOLDERS = ("cache_dir", "out")
PANELS = (
    ("entropy", "entropy (nats)"),
    ("accuracy", "samples right"),
    ("wrong_answer", "AUROC"),
)
N_BOOT = 2000


@dataclass(frozen=True)
class TemperatureRow:
    """One run, on its test questions."""

    run: str
    temperature: float
    config: RunConfig
    accuracy: Score
    """Share of the sampled answers that are right, of those that state an answer."""
    entropy: Score
    """Mean semantic entropy, nats."""
    wrong_answer: Score
    """AUROC of semantic entropy for a wrong most likely answer; that answer has no temperature."""


def temperature_runs(runs: Sequence[AnyRun]) -> tuple[TemperatureRow, ...]:
    """Those runs that equal the first of them in everything but temperature, coldest first.

    Everything: the model's and tokenizer's contents and every field of the config that changes
    results. Of several runs with one temperature the first counts. No runs, no rows.
    """
    if not runs:
        return ()
    alike = {float(run.manifest["config"]["temperature"]): run for run in reversed(runs)
             if _without_temperature(run) == _without_temperature(runs[0])}  # fmt: skip
    return tuple(_row(alike[temperature]) for temperature in sorted(alike))


def _without_temperature(run: AnyRun) -> dict[str, Any]:
    fields = {k: v for k, v in run.manifest["config"].items() if k not in FOLLOWS}
    return {"config": fields, "hashes": run.manifest.get("hashes")}


def _row(run: AnyRun) -> TemperatureRow:
    targets, config = run.targets, run.config
    test, seed = targets.rows("test"), config.seed
    entropy, wrong = targets.semantic_entropy, targets.wrong
    shares = np.full(len(test), np.nan) if targets.wrong_share is None else targets.wrong_share
    graded, stated = targets.rows("test", wrong), targets.rows("test", shares)
    # The share of a question counts once, however many of its samples state an answer.
    right = 1.0 - shares[stated]
    return TemperatureRow(
        run=run.folder.name,
        temperature=config.temperature,
        config=config.model_copy(update={"out": run.folder.parent}),
        accuracy=mean_score("accuracy", right, n_boot=N_BOOT, seed=seed),
        entropy=mean_score("semantic entropy", entropy[test], n_boot=N_BOOT, seed=seed),
        wrong_answer=score_metric(
            auroc(entropy[graded], wrong[graded], "wrong"), N_BOOT, N_BOOT, seed
        ),
    )


def another_run(config: RunConfig, temperature: float) -> str:
    """The command that makes the same run at another temperature.

    Folders stand in it only where they are relative: an absolute one says more of this machine than
    of the run. Raises `UserError` where no command says the same.
    """
    settings = {k: v for k, v in config.results_fields().items() if k != "temperature"}
    folders = [f"--{name.replace('_', '-')}={getattr(config, name)}" for name in FOLDERS
               if _unusual(config, name) and not getattr(config, name).is_absolute()]  # fmt: skip
    return f"{repeat_command(settings)} {shlex.join([*folders, '--temperature'])} {temperature:g}"


def _unusual(config: RunConfig, name: str) -> bool:
    """Whether a folder is another than the default."""
    usual: Path = RunConfig.model_fields[name].default
    return getattr(config, name).expanduser().resolve() != usual.expanduser().resolve()


def only_one(rows: Sequence[TemperatureRow]) -> str:
    """Why there is nothing to compare, and the command that would change it; empty if there is."""
    if len(rows) > 1:
        return ""
    if not rows:
        return "There is no run to compare: make one with `uv run sep run`."
    config, other = rows[0].config, 0.7 if rows[0].temperature != 0.7 else 1.0
    said = f"There is one run of these settings, at temperature {rows[0].temperature:g}. "
    try:
        command = another_run(config, other)
    except UserError as reason:
        return f"{said}No command makes another one here: {reason}."
    beside = config.out.is_absolute() and _unusual(config, "out")
    same = ", with the --out and --cache-dir of this one," if beside else ","
    return f"{said}Another temperature samples anew{same} as a run of its own:\n{command}"


def temperature_figure(rows: Sequence[TemperatureRow]) -> go.Figure:
    """Semantic entropy, accuracy and AUROC against temperature, with 95 % intervals.

    With one run alone, words that say so, and the command that makes another.
    """
    fig = framed("Temperature", "sampling temperature", "", height=520)
    if message := only_one(rows):
        return say_instead(framed("Temperature", "sampling temperature", ""), message)
    gap, height = 0.06, (1 - 2 * 0.06) / 3
    for number, (field, title) in enumerate(PANELS):
        axis = "y" if number == 0 else f"y{number + 1}"
        top = 1 - number * (height + gap)
        fig.layout["yaxis" + axis[1:]] = {
            "domain": [max(0.0, top - height), top], "title": {"text": title}, "nticks": 4,
            "anchor": "x", "automargin": True,
        }  # fmt: skip
        known = [row for row in rows if getattr(row, field).value is not None]
        scores = [getattr(row, field) for row in known]
        fig.add_scatter(
            x=[row.temperature for row in known],
            y=[score.value for score in scores],
            yaxis=axis,
            mode="lines+markers",
            line={"color": GREY, "width": 1, "dash": "dot"},
            marker={"color": BLUE, "size": 9},
            error_y={
                "array": [arm_length(s.value, s.high) for s in scores],
                "arrayminus": [arm_length(s.value, s.low) for s in scores],
                "color": BLUE,
                "thickness": 2,
                "width": 0,
            },
            customdata=[
                score_hover(f"{row.run}, {title}", s) for row, s in zip(known, scores, strict=True)
            ],
            hovertemplate="%{customdata}<extra></extra>",
            showlegend=False,
        )
        if not known:
            reason = getattr(rows[0], field).undefined
            fig.add_annotation(
                text=plain(f"undefined: {reason}"),
                xref="paper",
                yref="paper",
                x=0.5,
                y=top - height / 2,
            )
    fig.update_xaxes(anchor="y3", tickvals=[row.temperature for row in rows])
    notes = [
        "mean semantic entropy; share of samples right; AUROC of semantic entropy for a wrong "
        "answer. Test questions, 95 % bootstrap intervals; each dot is a run"
    ]
    return add_notes(fig, notes)


def temperature_table(rows: Sequence[TemperatureRow]) -> str:
    """The same numbers, one run a row: HTML, escaped."""
    cells = [
        (
            f"{row.temperature:g}",
            row.run,
            cell(row.entropy),
            cell(row.accuracy),
            cell(row.wrong_answer),
            row.entropy.n,
        )
        for row in rows
    ]
    heads = ("temperature", "run", "mean semantic entropy (nats)", "samples right",
             "AUROC for a wrong answer", "n")  # fmt: skip
    note = (
        "Equal in everything but temperature. The most likely answer has no temperature: whether "
        "it is wrong is the same question in every row. Test questions, 95 % bootstrap intervals."
    )
    missing = {s.undefined for row in rows for s in (row.accuracy, row.wrong_answer) if s.undefined}
    note += f" Undefined: {'; '.join(sorted(missing))}." if missing else ""
    return html_table(heads, cells, f"{note} {only_one(rows)}".strip())
