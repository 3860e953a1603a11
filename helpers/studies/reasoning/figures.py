"""The figures of the study: scores in and out of distribution side by side, and curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from helpers.evaluation.scores import ReliabilityCurve, Score
from helpers.studies.reasoning.predictors import AGREEMENT, NEEDS_OTHER_RUNS, TITLES
from helpers.studies.reasoning.probes import ENTROPY
from helpers.studies.reasoning.records import (
    OOD,
    PREDICTORS,
    SCORED_SPLITS,
    LayerCurve,
    RunTable,
    StudyAssessment,
)
from helpers.studies.reasoning.scores import WITHIN
from helpers.views.charts import SPLIT_WORDS, add_band, add_line, axes, legend_rows, panels, say_in
from helpers.views.intervals import Panel, Row, interval_rows
from helpers.views.style import (
    BLUE,
    GREY,
    VERMILLION,
    add_bars,
    add_mark,
    add_notes,
    arm_length,
    framed,
    plain,
    say_instead,
    score_hover,
    score_notes,
)

ON_ONE_PANEL = {"test": (BLUE, "circle", "solid"), OOD: (VERMILLION, "diamond", "dash")}
"""Colour, symbol and dash of a split where both share a panel."""
OF_LAYERS = {"test": "test, in distribution", OOD: "out of distribution"}
"""A split beside validation, which is in distribution too."""
OF_RUNS = {"correct": (BLUE, "circle", -0.14), "incorrect": (VERMILLION, "x", 0.14)}
"""Colour, symbol and place in a row of the runs of either label."""


def title_of(name: str) -> str:
    """A predictor as a reader meets it; the star of those that need other runs is left out."""
    return TITLES.get(name, name.replace("_", " ")).removesuffix("*")


def pair_title(pair: str) -> str:
    """The name of a difference, such as "a - b", as a reader meets it."""
    first, _, second = pair.partition(" - ")
    return f"{title_of(first)} − {title_of(second)}"


def splits_of(scores: Mapping[str, Any]) -> list[str]:
    """The scored splits of which there is anything, in order."""
    return [split for split in SCORED_SPLITS if scores.get(split)]


# --- scores and differences ----------------------------------------------------------------------


def score_figure(found: StudyAssessment) -> go.Figure:
    """AUROC for a correct run of every predictor, each split in a panel of its own."""
    notes = ["AUROC of telling correct runs from incorrect ones; dashed: chance; 95 % intervals"]
    return _score_rows(found, "auroc", "Is this run right?", notes)


def within_figure(found: StudyAssessment) -> go.Figure:
    """The same among the runs of one question, where its being hard is no help."""
    notes = ["AUROC among the runs of one question; dashed: chance; 95 % intervals"]
    return _score_rows(found, WITHIN, "Which run of a question is right?", notes)


def _score_rows(found: StudyAssessment, metric: str, title: str, notes: Sequence[str]) -> go.Figure:
    splits = splits_of(found.correctness)
    rows: list[Row] = []
    for words, names in groups(found).items():
        rows.append(Row("", said=words, is_heading=True))
        for name in names:
            scores = tuple(found.correctness[split][name][metric] for split in splits)
            rows.append(Row(title_of(name), scores, (0.5,) * len(splits)))
    return _rows_of_splits(title, rows, splits, 0.5, "AUROC", "", notes)


def groups(found: StudyAssessment) -> dict[str, list[str]]:
    """The predictors of a correct run, the probes first, by a heading for each kind."""
    names = [n for split in splits_of(found.correctness)[:1] for n in found.correctness[split]]
    kinds = {
        "Probes: from the one run": [n for n in names if n in PREDICTORS],
        "Simple baseline: from the one run": [
            n for n in names if n not in (*PREDICTORS, *NEEDS_OTHER_RUNS)
        ],
        "For comparison: from all runs of the question": [
            n for n in names if n in NEEDS_OTHER_RUNS
        ],
    }
    return {words: members for words, members in kinds.items() if members}


def difference_figure(found: StudyAssessment) -> go.Figure:
    """By how much one predictor's AUROC lies above another's, on the same runs."""
    splits = splits_of(found.differences)
    rows = [
        Row(
            pair_title(pair),
            tuple(found.differences[s][pair] for s in splits),
            (0.0,) * len(splits),
        )
        for pair in (found.differences[splits[0]] if splits else ())
    ]
    notes = ["AUROC of the first minus that of the second, on the same runs; 95 % intervals"]
    return _rows_of_splits(
        "One against the other", rows, splits, 0.0, "AUROC difference", "signed", notes
    )


def _rows_of_splits(
    title: str,
    rows: Sequence[Row],
    splits: Sequence[str],
    reference: float,
    x_title: str,
    style: Any,
    notes: Sequence[str],
) -> go.Figure:
    """Rows of intervals with a panel for each split, all of one range for the eye to compare."""
    scores = [score for row in rows for score in row.scores]
    ends = [end for s in scores for end in (s.value, s.low, s.high) if end is not None]
    both = (min(*ends, reference), max(*ends, reference)) if ends else None
    panel = [Panel(x_title, both, style) for _ in splits]
    fig = interval_rows(title, rows, panel or [Panel(x_title)], notes)
    for number, split in enumerate(splits):
        # On two lines, so that the titles of narrow panels stay apart.
        axis = fig.layout[f"xaxis{number + 1 if number else ''}"]
        axis.title.text = f"{plain(x_title)}<br>{SPLIT_WORDS[split]}"
    fig.layout.margin.b += 18
    fig.layout.height += 18
    return fig


# --- layers --------------------------------------------------------------------------------------


def layer_figures(found: StudyAssessment) -> list[go.Figure]:
    """For each probe that reads hidden states its score by layer, the chosen layer marked."""
    return [_layer_figure(title_of(name), curve) for name, curve in found.layer_curves.items()]


def _layer_figure(name: str, curve: LayerCurve) -> go.Figure:
    fig = framed(f"{name[0].upper()}{name[1:]} by layer", "layer (0: the input)", "AUROC")
    layers = list(curve.layers)
    known = [math.isfinite(value) for value in curve.validation]
    fig.add_scatter(
        x=layers,
        y=[v if ok else None for v, ok in zip(curve.validation, known, strict=True)],
        name="validation, which chose the layer",
        mode="lines",
        line={"color": GREY, "dash": "dot", "width": 2},
        hovertemplate="layer %{x}: %{y:.3f} on validation<extra></extra>",
    )
    for split in splits_of(curve.scores):
        scores = curve.scores[split]
        if all(score.value is None for score in scores):
            add_notes(fig, [f"{SPLIT_WORDS[split]}: undefined, because {scores[0].undefined}"])
            continue
        colour, symbol, dash = ON_ONE_PANEL[split]
        add_band(fig, layers, scores, colour)
        fig.add_scatter(
            x=layers,
            y=[score.value for score in scores],
            name=OF_LAYERS[split],
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 2.2},
            marker={"symbol": symbol, "size": 7},
            customdata=[score_hover(f"layer {i}", s) for i, s in zip(layers, scores, strict=True)],
            hovertemplate="%{customdata}<extra></extra>",
        )
    add_notes(fig, ["dashed: chance; shaded: 95 % intervals, of single layers"])
    fig.add_hline(0.5, line={"color": GREY, "width": 1.2, "dash": "dash"})
    fig.add_vline(curve.chosen, line={"color": GREY, "width": 1.5})
    left = curve.chosen < (layers[0] + layers[-1]) / 2
    fig.add_annotation(
        text=f"chosen: {'the input' if curve.chosen == 0 else f'layer {curve.chosen}'}",
        x=curve.chosen, y=1, yref="paper", xanchor="left" if left else "right", yanchor="bottom",
    )  # fmt: skip
    fig.update_xaxes(
        dtick=max(1, round(len(layers) / 14)), range=[layers[0] - 0.3, layers[-1] + 0.3]
    )
    return legend_rows(fig)


# --- confidence ----------------------------------------------------------------------------------


def confidence_figure(found: StudyAssessment) -> go.Figure:
    """Mean probability of *correct* over the correct and over the incorrect runs."""
    splits = splits_of(found.confidence)
    names = list(dict.fromkeys(n for split in splits for n in found.confidence[split]))
    fig = panels(
        "How sure, of right runs and of wrong ones?", splits, "mean probability<br>of correct", "",
        ["the further apart the two, the better they are told; 95 % intervals"],
        height=170 + 44 * max(len(names), 2),
    )  # fmt: skip
    for number, split in enumerate(splits):
        for word, (colour, symbol, offset) in OF_RUNS.items():
            rows = [(y, found.confidence[split][n][word]) for y, n in enumerate(names)]
            known = [(y, row) for y, row in rows if row["mean"] is not None]
            x_axis, y_axis = axes(number)
            fig.add_scatter(
                x=[row["mean"] for _, row in known],
                y=[y + offset for y, _ in known],
                xaxis=x_axis,
                yaxis=y_axis,
                name=f"{word} runs",
                legendgroup=word,
                showlegend=number == 0,
                mode="markers",
                marker={"size": 9, "color": colour, "symbol": symbol},
                error_x={
                    "array": [arm_length(row["mean"], row["high"]) for _, row in known],
                    "arrayminus": [arm_length(row["mean"], row["low"]) for _, row in known],
                    "width": 0,
                    "thickness": 2,
                },
                customdata=[_mean_hover(names[y], word, row) for y, row in known],
                hovertemplate="%{customdata}<extra></extra>",
            )
            for y, row in rows:
                if row["mean"] is None:
                    fig.add_annotation(
                        text=plain(f"undefined: {row['undefined']}", 44), x=0, xanchor="left",
                        y=y + 2 * offset, xref=x_axis, yref=y_axis, font={"size": 11},
                    )  # fmt: skip
    if splits:
        fig.update_xaxes(range=[-0.02, 1.02]).update_yaxes(
            tickvals=list(range(len(names))),
            ticktext=[plain(title_of(name), 40) for name in names],
            range=[len(names) - 0.5, -0.5], showgrid=False, zeroline=False, ticks="",
        )  # fmt: skip
    return legend_rows(fig)


def _mean_hover(name: str, word: str, row: Mapping[str, Any]) -> str:
    score = Score("mean", row["mean"], row["low"], row["high"], None, row["n"])
    label = f"{title_of(name)}, {word} runs of {row['n_questions']} questions"
    return score_hover(label, score)


# --- curves --------------------------------------------------------------------------------------


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
