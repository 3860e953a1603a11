"""The curves of the study, and the spread of its label: figures with a panel for each split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from helpers.curves import ReliabilityCurve
from helpers.figure_style import (
    BLUE,
    GREY,
    VERMILLION,
    add_bars,
    add_mark,
    framed,
    say_instead,
    score_notes,
)
from helpers.studies.reasoning.figures import splits_of, title_of
from helpers.studies.reasoning.panels import (
    SPLIT_WORDS,
    add_line,
    axes,
    legend_rows,
    panels,
    say_in,
)
from helpers.studies.reasoning.predictors import AGREEMENT
from helpers.studies.reasoning.probes import ENTROPY
from helpers.studies.reasoning.records import OOD, RunTable, StudyAssessment


def roc_figure(found: StudyAssessment) -> go.Figure:
    """The ROC curve of every predictor that is defined, each split in a panel of its own."""
    splits = splits_of(found.correctness)
    notes = ["correct runs told from incorrect ones; grey: chance; numbers: AUROC"]
    fig = panels("ROC", splits, "false positive rate", "true positive rate", notes)
    for number, split in enumerate(splits):
        add_line(fig, number, [0, 1], [0, 1], "chance")
        if not found.roc.get(split):
            say_in(fig, splits, split, _why_none(found, split))
    for style, name in enumerate(_drawn(found, found.roc)):
        areas = [found.correctness[split][name]["auroc"].value for split in splits]
        label = f"{title_of(name)}: {_of_splits(areas, splits, 2)}"
        for number, split in enumerate(splits):
            curve = found.roc.get(split, {}).get(name)
            if curve is not None:
                add_line(
                    fig, number, curve.false_positive_rate, curve.true_positive_rate,
                    label, style,
                )  # fmt: skip
    if splits:
        fig.update_xaxes(range=[-0.02, 1.02]).update_yaxes(range=[-0.02, 1.02])
    return legend_rows(fig)


def risk_figure(found: StudyAssessment) -> go.Figure:
    """Share of incorrect runs among those kept, as the least certain are left out."""
    splits = splits_of(found.correctness)
    notes = ["grey: runs kept at random; numbers: area under the curve, lower is better"]
    fig = panels(
        "Keeping only the surest runs", splits, "coverage (share of runs kept)",
        "risk (share of them incorrect)", notes,
    )  # fmt: skip
    for number, split in enumerate(splits):
        curves = found.risk_coverage.get(split, {})
        for rate in sorted({curve.error_rate for curve in curves.values()})[:1]:
            add_line(fig, number, [0, 1], [rate, rate], "at random")
        if not curves:
            say_in(fig, splits, split, _why_none(found, split))
    for style, name in enumerate(_drawn(found, found.risk_coverage)):
        named = [found.risk_coverage.get(split, {}).get(name) for split in splits]
        areas = [curve.aurc if curve else None for curve in named]
        label = f"{title_of(name)}: {_of_splits(areas, splits, 3)}"
        for number, curve in enumerate(named):
            if curve is not None:
                add_line(
                    fig, number, curve.coverage, curve.risk,
                    label, style,
                )  # fmt: skip
    if splits:
        fig.update_xaxes(range=[-0.02, 1.02]).update_yaxes(rangemode="tozero")
    return legend_rows(fig)


def _drawn(found: StudyAssessment, curves: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The predictors of which any split has a curve, in the order of the scores.

    There are six colours: agreement, which is much like semantic entropy, is left to the table.
    """
    names = dict.fromkeys(name for row in found.correctness.values() for name in row)
    there = [name for name in names if any(name in row for row in curves.values())]
    return [name for name in there if name != AGREEMENT]


def _why_none(found: StudyAssessment, split: str) -> str:
    reasons = (scores["auroc"].undefined for scores in found.correctness[split].values())
    return f"undefined: {next(filter(None, reasons), 'there is no score')}"


def _of_splits(values: Sequence[float | None], splits: Sequence[str], digits: int) -> str:
    """A number for each split, for a legend."""
    texts = ["undefined" if value is None else f"{value:.{digits}f}" for value in values]
    if len(texts) == 1:
        return texts[0]
    return ", ".join(
        f"{text} {'out' if split == OOD else 'in'}"
        for text, split in zip(texts, splits, strict=True)
    )


def reliability_figure(found: StudyAssessment, name: str) -> go.Figure:
    """Observed share against a probe's probability, each split in a panel of its own."""
    splits = splits_of(found.correctness)
    label = "high semantic entropy" if name == ENTROPY else "correct"
    scores = found.high_entropy if name == ENTROPY else found.correctness
    notes: list[str] = []
    for split in splits:
        row = scores.get(split, {}).get(name, {})
        parts = {key: score for key, score in row.items() if key in ("brier", "ece")}
        notes += [f"{SPLIT_WORDS[split]}: {line}" for line in score_notes(parts)]
    fig = panels(
        f"Calibration: {title_of(name)}", splits, f"probability of {label}", "observed share", notes
    )
    for number, split in enumerate(splits):
        add_line(fig, number, [0, 1], [0, 1], "perfectly calibrated")
        curve = found.reliability.get(split, {}).get(name)
        if curve is None:
            auroc = scores.get(split, {}).get(name, {}).get("auroc")
            reason = auroc.undefined if auroc and auroc.undefined else "it gives no probability"
            say_in(fig, splits, split, f"undefined: {reason}")
        else:
            _add_reliability(fig, number, curve)
    if splits:
        fig.update_xaxes(range=[-0.05, 1.05]).update_yaxes(range=[-0.05, 1.05])
    return fig.update_layout(showlegend=False)


def _add_reliability(fig: go.Figure, number: int, curve: ReliabilityCurve) -> None:
    x, y = axes(number)
    size = 6 + 14 * np.sqrt(curve.counts / curve.counts.max())
    fig.add_scatter(
        x=curve.mean_predicted,
        y=curve.observed,
        xaxis=x,
        yaxis=y,
        mode="markers",
        marker={"size": size, "opacity": 0.85, "color": BLUE},
        error_y={
            "array": curve.observed_high - curve.observed,
            "arrayminus": curve.observed - curve.observed_low,
            "width": 0,
            "thickness": 2,
        },
        customdata=np.column_stack([curve.observed_low, curve.observed_high, curve.counts]),
        hovertemplate="predicted %{x:.3f}<br>observed %{y:.3f} "
        "[%{customdata[0]:.3f}, %{customdata[1]:.3f}]<br>%{customdata[2]:.0f} runs<extra></extra>",
    )


def entropy_figure(table: RunTable, k: int) -> go.Figure:
    """How semantic entropy is spread over the kept questions, and where it counts as high."""
    _, first = np.unique(table.question_id, return_index=True)
    values, outside = table.semantic_entropy[first], table.split[first] == OOD
    most = math.log(k)
    x_title = f"semantic entropy (nats, at most ln {k} = {most:.2f})"
    fig = framed("Semantic entropy", x_title, "questions")
    if not len(values):
        return say_instead(fig, "No question has a semantic entropy.")
    edges = np.linspace(0.0, max(float(values.max()), most), 31)
    for split, rows, colour in (("test", ~outside, BLUE), (OOD, outside, VERMILLION)):
        if rows.any():
            add_bars(fig, values[rows], edges, "nats", "questions", colour)
            fig.data[-1].update(name=SPLIT_WORDS[split], marker={"opacity": 1})
    marks = (
        ("best split", table.threshold, "dash"),
        ("median of train", table.threshold_median, "dot"),
    )
    for number, (words, value, dash) in enumerate(marks):
        if value is not None:
            share = 100 * float(np.mean(values > value))
            add_mark(fig, value, f"{words}: {value:.2f}, {share:.0f} % above", GREY, dash)
            # The two may lie close together, and so would their labels.
            fig.layout.annotations[-1].yshift = 17 * number
    fig.layout.margin.t += 17
    fig.layout.height += 17
    return legend_rows(fig).update_layout(barmode="stack", legend={"traceorder": "normal"})
