"""The figures of the study: scores in and out of distribution side by side, in the one style."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from helpers.analyses.interval_rows import Panel, Row, interval_rows
from helpers.evaluation import Score
from helpers.figure_style import (
    BLUE,
    GREY,
    VERMILLION,
    add_notes,
    arm_length,
    framed,
    plain,
    score_hover,
)
from helpers.studies.reasoning.panels import (
    SPLIT_WORDS,
    add_band,
    axes,
    legend_rows,
    panels,
)
from helpers.studies.reasoning.predictors import NEEDS_OTHER_RUNS, TITLES
from helpers.studies.reasoning.records import (
    OOD,
    PREDICTORS,
    SCORED_SPLITS,
    LayerCurve,
    StudyAssessment,
)
from helpers.studies.reasoning.scores import WITHIN

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
