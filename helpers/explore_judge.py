"""The judge's probabilities for every pair of a question's answers, as a heat map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from helpers.explore import AnyRun, by_meaning, question_row
from helpers.figure_style import (
    HOVER_BUDGET,
    VERMILLION,
    add_notes,
    framed,
    plain,
    say_instead,
    wrapped,
)
from helpers.html_parts import letter
from helpers.sampling import Sample


def judge_matrix(run: AnyRun, question_id: str) -> go.Figure:
    """P(entailment) of premise (row) and hypothesis (column) over the K + 1 answers, a heat map.

    The samples stand by meaning, each meaning framed, and the most likely answer stands last.
    Raises `UserError` where the run has no such question.
    """
    i = question_row(run, question_id)
    fig = framed("What the judge says", "hypothesis: does it follow?", "premise", height=400)
    if run.judgements is None:
        judge = f"The judge of this run ({run.meanings.judge}) gave no probabilities"
        fig.update_layout(height=180)
        return say_instead(fig, f"{judge} for all pairs of answers.")
    groups = by_meaning(run.meanings.clusters[i])
    order = [s for group in groups for s in group]
    n = len(order) + 1
    answers = [*(run.answers.samples[i][s] for s in order), run.answers.greedy[i]]
    names = [letter(g) for g, group in enumerate(groups) for _ in group] + ["★"]
    places = [*order, n - 1]
    said = np.asarray(run.judgements[i], dtype=np.float64)[np.ix_(places, places)].round(4)
    length = min(120, max(24, HOVER_BUDGET // (2 * n * n)))
    words = [f"{a}: {wrapped(s.text, length)}" for a, s in zip(names, answers, strict=True)]
    fig.add_heatmap(
        z=said[..., 2],
        zmin=0,
        zmax=1,
        colorscale="Cividis",
        colorbar={"title": {"text": "P(entailment)"}},
        customdata=[
            [[words[a], words[b], *said[a, b].tolist()] for b in range(n)] for a in range(n)
        ],
        hovertemplate="premise %{customdata[0]}<br>hypothesis %{customdata[1]}<br>"
        "contradiction %{customdata[2]:.3f}, neutral %{customdata[3]:.3f}, "
        "entailment %{customdata[4]:.3f}<extra></extra>",
        texttemplate="%{z:.2f}" if n <= 12 else None,
        textfont={"size": 10},
        xgap=1 if n <= 40 else 0,
        ygap=1 if n <= 40 else 0,
    )
    return _framed_groups(fig, [*map(len, groups), 1], names, answers)


def _framed_groups(
    fig: go.Figure, sizes: Sequence[int], names: Sequence[str], answers: Sequence[Sample]
) -> go.Figure:
    """Name the rows and columns of answers in groups of these sizes, and frame each group."""
    starts = np.cumsum([0, *sizes[:-1]])
    for start, size in zip(starts.tolist(), sizes, strict=True):
        low, high = start - 0.5, start + size - 0.5
        line = {"color": VERMILLION, "width": 2.5}
        fig.add_shape(x0=low, x1=high, y0=low, y1=high, line=line)
    bare = {"showgrid": False, "zeroline": False, "ticks": ""}
    middles = (starts + (np.array(sizes) - 1) / 2).tolist()
    step = math.ceil(len(sizes) / 20)  # letters of more groups would lie on one another
    places, letters = middles[::step], [names[start] for start in starts[::step]]
    fig.update_xaxes(tickvals=places, ticktext=letters, tickangle=0, **bare)
    if len(names) <= 14:
        places = list(range(len(names)))
        letters = [f"{a}: {plain(s.text, 22)}" for a, s in zip(names, answers, strict=True)]
    fig.update_yaxes(tickvals=places, ticktext=letters, autorange="reversed", **bare)
    return add_notes(fig, ["framed: one meaning; ★: the most likely answer, which is not grouped"])
