"""Plotly figures: plain arrays and records in, one figure out, in the style of style.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from helpers.evaluation.scores import ReliabilityCurve, RocCurve, Score, format_score
from helpers.views.style import (
    BLUE,
    COLOURS,
    DASHES,
    FAINT,
    GREY,
    LEGEND_ROW,
    VERMILLION,
    add_bars,
    add_curve,
    add_mark,
    add_notes,
    add_reference,
    arm_length,
    cut,
    framed,
    known_values,
    legend_below,
    plain,
    question_scatter,
    say_instead,
    score_hover,
    score_notes,
    score_numbers,
    wrapped,
)


def entropy_histogram(
    semantic_entropy: Sequence[float | None] | np.ndarray,
    threshold: float | None = None,
    k: int | None = None,
) -> go.Figure:
    """How semantic entropies [n] in nats are spread; high ones lie above the threshold γ (nats).

    `k` is the number of answers sampled per question, which bounds the entropy by ln k. Values
    that are missing are left out and counted in the subtitle.
    """
    most = f", at most ln {k} = {math.log(k):.2f}" if k else ""
    values, left_out = known_values(semantic_entropy)
    fig = framed(
        "Semantic entropy", f"semantic entropy (nats{most})", "questions", notes=[left_out]
    )
    if not len(values):
        return say_instead(fig, "No question has a semantic entropy.")
    # With k answers only a few values are possible: the bins hold piles, not a smooth density.
    bound = max(values.max(), math.log(k) if k else 0.0, threshold or 0.0) or 1.0
    add_bars(fig, values, np.linspace(min(values.min(), 0.0), bound, 31), "nats", "questions")
    if threshold is not None:
        above = int((values > threshold).sum())
        text = f"γ = {threshold:.3g}: {above} of {len(values)} questions above"
        add_mark(fig, threshold, text, VERMILLION, "dash")
    return fig


def lexical_against_semantic(
    semantic: Sequence[float | None] | np.ndarray,
    lexical: Sequence[float | None] | np.ndarray,
    question_ids: Sequence[str],
    questions: Sequence[str],
    labels: Sequence[object] | None = None,
) -> go.Figure:
    """Lexical against semantic entropy, both [n] in nats: what merging answers by meaning changes.

    `labels` (a word per question, such as correct or wrong) colour the points. Points that share a
    place are spread a little; hovering tells their true values. customdata[0] is the question id.
    """
    return question_scatter(
        framed("Wording against meaning", "semantic entropy (nats)", "lexical entropy (nats)"),
        {"semantic entropy": semantic, "lexical entropy": lexical},
        question_ids,
        questions,
        labels,
        "lexical = semantic",
        spread_ties=True,
    )


def predicted_against_true(
    true: Sequence[float | None] | np.ndarray,
    predicted: Sequence[float | None] | np.ndarray,
    scores: Mapping[str, Score],
    question_ids: Sequence[str],
    questions: Sequence[str],
    splits: Sequence[object] | None = None,
) -> go.Figure:
    """A probe's predictions against semantic entropies, both [n] in nats, and the line of equality.

    `scores` (as from `evaluate_regression`) are written under the title: RMSE, MAE and Spearman
    where given. `splits` (a word per question) colour the points. customdata[0] is the question id.
    """
    return question_scatter(
        framed(
            "Predicted against sampled semantic entropy",
            "semantic entropy from samples (nats)",
            "predicted by the probe (nats)",
            score_notes(scores),
        ),
        {"from samples": true, "predicted": predicted},
        question_ids,
        questions,
        splits,
        "predicted = true",
    )


def layer_position_map(
    scores: np.ndarray,
    positions: Sequence[str],
    layers: Sequence[int],
    best: tuple[str, int] | None = None,
    score_name: str = "AUROC",
) -> go.Figure:
    """A heatmap of scores [positions, layers] on validation rows, the chosen cell framed.

    Layer 0 is called "input". Of a `Sweep`, show `validation_score.max(axis=2)`. Raises ValueError
    for another shape, or when `best` is no cell.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (len(positions), len(layers)):
        raise ValueError(
            f"scores: {list(values.shape)} for {len(positions)} positions and {len(layers)} layers"
        )
    height = 190 + 34 * len(positions)
    fig = framed(f"{score_name} by layer and position", "layer", "position", height=height)
    if not np.isfinite(values).any():
        return say_instead(fig, "No position and layer has a score.")
    layer_names = ["input" if layer == 0 else str(layer) for layer in layers]
    fig.add_heatmap(
        z=[[float(v) if np.isfinite(v) else None for v in row] for row in values],
        colorscale="Cividis",
        colorbar={"title": {"text": plain(score_name)}},
        customdata=[[[plain(p), layer] for layer in layer_names] for p in positions],
        hovertemplate="%{customdata[0]}, layer %{customdata[1]}: %{z:.3f}<extra></extra>",
        xgap=1 if len(layers) <= 40 else 0,
        ygap=1,
        hoverongaps=False,
    )
    step = math.ceil(len(layers) / 16)
    shown = list(range(0, len(layers), step))
    fig.update_xaxes(
        tickvals=shown, ticktext=[layer_names[i] for i in shown], showgrid=False, zeroline=False
    )
    fig.update_yaxes(
        tickvals=list(range(len(positions))),
        ticktext=[plain(position, 30) for position in positions],
        autorange="reversed",
        showgrid=False,
        zeroline=False,
    )
    if best is not None:
        if best[0] not in positions or best[1] not in layers:
            raise ValueError(f"best: {best} is not among the positions and layers")
        y, x = list(positions).index(best[0]), list(layers).index(best[1])
        fig.add_shape(
            x0=x - 0.5, x1=x + 0.5, y0=y - 0.5, y1=y + 0.5, line={"color": VERMILLION, "width": 3}
        )
        at = "the input" if best[1] == 0 else f"layer {best[1]}"
        add_notes(fig, [f"framed: chosen on validation, {best[0]} at {at}"])
    return fig


def roc_curves(curves: Mapping[str, RocCurve], scores: Mapping[str, Score]) -> go.Figure:
    """ROC curves by name, each with its AUROC and interval; a score without a curve says why."""
    fig = framed("ROC", "false positive rate", "true positive rate", height=400)
    if not curves:
        reasons = [f"{name} is {format_score(score)}" for name, score in scores.items()]
        return say_instead(fig, "\n".join(["There is no ROC curve to draw.", *reasons]))
    for name, curve in curves.items():
        label = f"{name}: {score_numbers(scores[name])}" if name in scores else name
        add_curve(fig, curve.false_positive_rate, curve.true_positive_rate, label)
    add_reference(fig, [0, 1], [0, 1], "chance")
    for name in (name for name in scores if name not in curves):
        fig.add_scatter(
            x=[None],
            y=[None],
            name=plain(f"{cut(name, 34)}: {score_numbers(scores[name])}", 84),
            mode="lines",
            line={"color": FAINT},
        )
    fig.update_layout(xaxis={"range": [-0.01, 1.01]}, yaxis={"range": [-0.01, 1.01]})
    return legend_below(fig)


def reliability_diagram(
    curve: ReliabilityCurve, scores: Mapping[str, Score] | None = None
) -> go.Figure:
    """Observed frequency against predicted probability, with Wilson bands and the rows per bin.

    `scores` (Brier and ECE, as from `evaluate_classifier`) are written under the title.
    """
    shown = {name: score for name, score in (scores or {}).items() if name in ("brier", "ece")}
    fig = framed(
        "Reliability",
        "predicted probability",
        "observed share",
        score_notes(shown),
        height=430,
    )
    fig.update_layout(
        yaxis={"domain": [0.32, 1], "range": [-0.02, 1.02]},
        yaxis2={"domain": [0, 0.2], "title": {"text": "rows"}, "anchor": "x", "nticks": 3},
        xaxis={"range": [-0.01, 1.01], "anchor": "y2"},
        showlegend=False,
    )
    if not len(curve.counts):
        fig.update_layout(yaxis2={"visible": False})
        return say_instead(fig, "There is no prediction to compare with what was observed.")
    middle, width = (curve.low_edge + curve.high_edge) / 2, curve.high_edge - curve.low_edge
    band = {"color": BLUE, "opacity": 0.2}
    low, high = curve.observed_low, curve.observed_high
    fig.add_bar(x=middle, y=high - low, base=low, width=width, marker=band, hoverinfo="skip")
    add_reference(fig, [0, 1], [0, 1], "perfectly calibrated")
    fig.add_scatter(
        x=curve.mean_predicted,
        y=curve.observed,
        mode="lines+markers",
        line={"color": BLUE, "width": 1.5},
        marker={"size": 8},
        customdata=np.column_stack([low, high, curve.counts]),
        hovertemplate="predicted %{x:.3f}<br>observed %{y:.3f} "
        "[%{customdata[0]:.3f}, %{customdata[1]:.3f}]<br>%{customdata[2]:.0f} rows<extra></extra>",
    )
    fig.add_bar(
        x=middle,
        y=curve.counts,
        width=width,
        yaxis="y2",
        marker={"color": GREY, "opacity": 0.6},
        hovertemplate="%{y} rows<extra></extra>",
    )
    return add_notes(fig, ["bands: 95 % Wilson interval of the share in each bin"])


def score_intervals(
    scores: Mapping[str, Score],
    reference: float | None = 0.5,
    score_name: str = "AUROC",
    title: str = "",
) -> go.Figure:
    """Scores by name as dots with 95 % intervals, one row each, in the order given.

    `reference` is drawn as a line (0.5 is an AUROC's chance, 0 a difference's). A score that is
    undefined keeps its row and says why; one without an interval is a hollow dot.
    """
    names, rows = list(scores), list(scores.values())
    fig = framed(
        title or f"{score_name} with 95 % intervals", score_name, "", height=125 + 34 * len(names)
    )
    if not names:
        return say_instead(fig, "There is no score to show.")
    shown = [row for row, score in enumerate(rows) if score.value is not None]
    fig.add_scatter(
        x=[rows[row].value for row in shown],
        y=shown,
        mode="markers",
        marker={
            "size": 9,
            "symbol": ["circle-open" if rows[row].low is None else "circle" for row in shown],
        },
        error_x={
            "array": [arm_length(rows[row].value, rows[row].high) for row in shown],
            "arrayminus": [arm_length(rows[row].value, rows[row].low) for row in shown],
            "thickness": 2,
            "width": 0,
        },
        customdata=[score_hover(names[row], rows[row]) for row in shown],
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
    )
    for row, score in enumerate(rows):
        known = score.value is not None
        fig.add_annotation(
            text=wrapped(score_numbers(score), 110),
            align="left",
            hovertext=score_hover(names[row], score),
            y=row,
            xref="paper",
            x=1.02 if known else 0.01,
            xanchor="left",
        )
    ends = [end for s in rows for end in (s.value, s.low, s.high, reference) if end is not None]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    pad = 0.06 * (high - low) or 0.05
    fig.update_layout(margin={"r": 160})
    fig.update_xaxes(range=[low - pad, high + pad], nticks=6, tickangle=0)
    fig.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=[wrapped(name, 48, 34) for name in names],
        range=[len(names) - 0.5, -0.5],
        zeroline=False,
        showgrid=False,
        ticks="",
    )
    # The reference is drawn row by row so that it strikes through no words.
    for row in shown if reference is not None else []:
        line = {"color": GREY, "width": 1}
        fig.add_shape(x0=reference, x1=reference, y0=row - 0.5, y1=row + 0.5, line=line)
    return fig


def shuffled_labels_histogram(
    shuffled: Sequence[float] | np.ndarray,
    real: float | None,
    chance: float = 0.5,
    score_name: str = "AUROC",
) -> go.Figure:
    """Scores [n] of probes refitted to shuffled labels, with the score of the real labels marked.

    The tripwire of helpers/probes/tripwires.py judges the same scores: they must centre on chance.
    """
    values, left_out = known_values(shuffled)
    fig = framed(
        "Refits to shuffled labels",
        f"{score_name} (dotted: chance, {chance:g})",
        "refits",
        notes=[left_out],
    )
    if not len(values):
        return say_instead(fig, "No probe was refitted to shuffled labels.")
    bins = min(max(int(2 * math.sqrt(len(values))), 5), 30)
    edges = np.linspace(values.min() - 0.005, values.max() + 0.005, bins + 1)
    add_bars(fig, values, edges, score_name, "refits", GREY)
    ends = [edges[0], edges[-1], chance, chance if real is None else real]
    pad = 0.05 * (max(ends) - min(ends))
    fig.update_xaxes(range=[min(ends) - pad, max(ends) + pad])
    fig.add_vline(chance, line={"color": BLUE, "width": 2, "dash": "dot"})
    if real is None:
        return add_notes(fig, ["the score of the real labels is undefined"])
    reached = int((values >= real).sum())
    text = f"real labels: {real:.3f}, reached by {reached} of {len(values)} refits"
    add_mark(fig, real, text, VERMILLION, "solid")
    return fig


# --- panels side by side -------------------------------------------------------------------------


SPLIT_WORDS = {"test": "in distribution", "ood": "out of distribution"}
"""The scored splits as a reader of a figure meets them."""
GAP = 0.07
"""Between two panels, as a share of the plot's width."""
TITLE_ROOM = 22
"""Pixels for the panels' titles."""
LINE = 16
"""Pixels of a further line of an axis title."""


def panels(
    title: str,
    splits: Sequence[str],
    x_title: str,
    y_title: str,
    notes: Sequence[str] = (),
    height: int = 400,
) -> go.Figure:
    """An empty figure with a titled panel for each split; the y axis is that of the first.

    `x_title` and `y_title` are our own words, which may hold a line break. Without a split there
    are words in place of panels.
    """
    fig = framed(title, x_title, y_title, notes, height)
    if not splits:
        return say_instead(fig, "There is nothing to show: no run was scored.")
    fig.layout.margin.t += TITLE_ROOM
    fig.layout.height += TITLE_ROOM
    for _ in range(x_title.count("<br>")):
        fig.layout.margin.b += LINE
        fig.layout.height += LINE
    for number, split in enumerate(splits):
        start, end = domain(number, len(splits))
        x, y = axes(number)
        fig.layout[f"xaxis{x[1:]}"] = {
            "domain": [start, end], "anchor": y, "title": {"text": x_title}, "nticks": 6,
        }  # fmt: skip
        if number:
            fig.layout[f"yaxis{y[1:]}"] = {"anchor": x, "matches": "y", "showticklabels": False}
        fig.add_annotation(
            text=f"<b>{SPLIT_WORDS[split]}</b>", x=(start + end) / 2, xref="paper",
            y=1, yref="paper", xanchor="center", yanchor="bottom", yshift=4,
        )  # fmt: skip
    return fig


def domain(number: int, count: int) -> tuple[float, float]:
    """The ends of a panel as shares of the plot's width."""
    width = (1 - GAP * (count - 1)) / count
    start = number * (width + GAP)
    return start, min(start + width, 1.0)


def axes(number: int) -> tuple[str, str]:
    """Plotly's names of a panel's axes."""
    return ("x", "y") if number == 0 else (f"x{number + 1}", f"y{number + 1}")


def say_in(fig: go.Figure, splits: Sequence[str], split: str, words: str) -> None:
    """Put words in place of what a panel would show."""
    number = list(splits).index(split)
    x, y = axes(number)
    # Without a trace Plotly leaves a panel's axes out.
    fig.add_scatter(x=[None], y=[None], xaxis=x, yaxis=y, showlegend=False, hoverinfo="skip")
    start, end = domain(number, len(splits))
    fig.add_annotation(
        text=wrapped(words, 240, 34 if len(splits) > 1 else 68), x=(start + end) / 2, xref="paper",
        y=0.5, yref="paper", hovertext=wrapped(words, 600),
    )  # fmt: skip


def add_line(
    fig: go.Figure,
    number: int,
    x: Any,
    y: Any,
    label: str,
    style: int | None = None,
    hover: str = "%{x:.3f}, %{y:.3f}",
) -> None:
    """Add a curve to a panel; one name has one style and one entry in the legend.

    Without a style it is a thin grey line to compare with, which the legend leaves out.
    """
    at_x, at_y = axes(number)
    if style is None:
        line: dict[str, Any] = {"color": GREY, "width": 1.2, "dash": "dash"}
    else:
        colour, dash = COLOURS[style % len(COLOURS)], DASHES[style % len(DASHES)]
        line = {"color": colour, "width": 2.2, "dash": dash}
    named = {trace.name for trace in fig.data if trace.showlegend is not False}
    fig.add_scatter(
        x=x,
        y=y,
        xaxis=at_x,
        yaxis=at_y,
        mode="lines",
        line=line,
        name=plain(label, 90),
        legendgroup=label,
        showlegend=style is not None and plain(label, 90) not in named,
        hoverinfo="skip" if style is None else None,
        hovertemplate=None if style is None else hover,
    )


def add_band(fig: go.Figure, x: Sequence[float], scores: Sequence[Score], colour: str) -> None:
    """Shade the intervals of scores along x, where there are any."""
    known = [(at, s.low, s.high) for at, s in zip(x, scores, strict=True) if s.low is not None]
    if not known:
        return
    at = [row[0] for row in known]
    ends = [row[2] for row in known] + [row[1] for row in reversed(known)]
    fig.add_scatter(
        x=at + at[::-1], y=ends, mode="none", fill="toself", fillcolor=faint(colour, 0.13),
        showlegend=False, hoverinfo="skip",
    )  # fmt: skip


def faint(colour: str, opacity: float) -> str:
    """A colour such as "#0072B2" with an opacity."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity})"


def legend_rows(fig: go.Figure) -> go.Figure:
    """Put the legend under the axis titles, one entry under the other, and make room."""
    entries = sum(trace.showlegend is not False for trace in fig.data)
    margin, plot = fig.layout.margin, fig.layout.height - fig.layout.margin.t - fig.layout.margin.b
    return fig.update_layout(
        showlegend=entries > 0,
        legend={"orientation": "v", "y": -margin.b / plot, "tracegroupgap": 0},
        height=fig.layout.height + LEGEND_ROW * entries,
        margin={"b": margin.b + LEGEND_ROW * entries},
    )
