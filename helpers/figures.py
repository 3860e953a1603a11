"""Plotly figures: plain arrays and records in, one figure out, in one style.

The style reads on light and dark pages: no background, mid-grey text and grid, and the colours of
Okabe & Ito, which colour-blind readers tell apart; dashes and symbols repeat what colours say. What
cannot be drawn says why, in words, in place of the plot.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from helpers.evaluation import ReliabilityCurve, RiskCoverage, RocCurve, Score, format_score

BLUE, VERMILLION, *_ = COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)
GREY = "#797979"  # equally far from white and from near-black: 4.3 to 1 on either
FAINT = "rgba(128, 128, 128, 0.25)"
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "diamond", "triangle-up", "square", "x", "star")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

MANY_POINTS = 5_000  # above it, points and lines are drawn by WebGL
HOVER_BUDGET = 800_000  # characters of question text in one figure
HEIGHT = 380  # pixels, before lines of notes and of the legend are added
LEGEND_ROW = 21  # pixels

METRIC_NAMES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "brier": "Brier",
    "ece": "ECE",
    "rmse": "RMSE",
    "mae": "MAE",
    "spearman": "Spearman",
}


def template() -> go.layout.Template:
    """The style of every figure here; nothing is registered with Plotly."""
    axis = {
        "automargin": True,
        "gridcolor": FAINT,
        "linecolor": FAINT,
        "zerolinecolor": FAINT,
        "tickcolor": FAINT,
        "ticks": "outside",
        "ticklen": 4,
        "zerolinewidth": 1,
        "title": {"standoff": 8, "font": {"size": 13}},
    }
    bar = {"outlinewidth": 0, "thickness": 12, "title": {"side": "right", "font": {"size": 13}}}
    layout = go.Layout(
        font={"family": FONT, "size": 13, "color": GREY},
        title={
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 12, "l": 12},
            "font": {"size": 15, "weight": 600},
        },
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        colorway=COLOURS,
        xaxis=axis,
        yaxis=axis,
        hovermode="closest",
        hoverlabel={
            "bgcolor": "#262626",
            "bordercolor": GREY,
            "font": {"family": FONT, "size": 12, "color": "#ffffff"},
            "align": "left",
            "namelength": -1,
        },
        legend={"bgcolor": "rgba(0, 0, 0, 0)", "x": 0, "xanchor": "left", "yanchor": "top"},
        modebar={"bgcolor": "rgba(0, 0, 0, 0)", "color": GREY, "activecolor": BLUE},
        annotationdefaults={"font": {"size": 12, "color": GREY}, "showarrow": False},
        bargap=0.05,
    )
    return go.layout.Template(layout=layout, data={"heatmap": [{"colorbar": bar}]})


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
    values, left_out = _known(semantic_entropy)
    fig = _figure(
        "Semantic entropy", f"semantic entropy (nats{most})", "questions", notes=[left_out]
    )
    if not len(values):
        return _say(fig, "No question has a semantic entropy.")
    # With k answers only a few values are possible: the bins hold piles, not a smooth density.
    bound = max(values.max(), math.log(k) if k else 0.0, threshold or 0.0) or 1.0
    _bars(fig, values, np.linspace(min(values.min(), 0.0), bound, 31), "nats", "questions")
    if threshold is not None:
        above = int((values > threshold).sum())
        text = f"γ = {threshold:.3g}: {above} of {len(values)} questions above"
        _mark(fig, threshold, text, VERMILLION, "dash")
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
    return _question_scatter(
        _figure("Wording against meaning", "semantic entropy (nats)", "lexical entropy (nats)"),
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
    return _question_scatter(
        _figure(
            "Predicted against sampled semantic entropy",
            "semantic entropy from samples (nats)",
            "predicted by the probe (nats)",
            _score_note(scores),
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
    fig = _figure(f"{score_name} by layer and position", "layer", "position", height=height)
    if not np.isfinite(values).any():
        return _say(fig, "No position and layer has a score.")
    layer_names = ["input" if layer == 0 else str(layer) for layer in layers]
    fig.add_heatmap(
        z=[[float(v) if np.isfinite(v) else None for v in row] for row in values],
        colorscale="Cividis",
        colorbar={"title": {"text": _plain(score_name)}},
        customdata=[[[_plain(p), layer] for layer in layer_names] for p in positions],
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
        ticktext=[_plain(position, 30) for position in positions],
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
        _note(fig, [f"framed: chosen on validation, {best[0]} at {at}"])
    return fig


def roc_curves(curves: Mapping[str, RocCurve], scores: Mapping[str, Score]) -> go.Figure:
    """ROC curves by name, each with its AUROC and interval; a score without a curve says why."""
    fig = _figure("ROC", "false positive rate", "true positive rate", height=400)
    if not curves:
        reasons = [f"{name} is {format_score(score)}" for name, score in scores.items()]
        return _say(fig, "\n".join(["There is no ROC curve to draw.", *reasons]))
    for name, curve in curves.items():
        label = f"{name}: {_numbers(scores[name])}" if name in scores else name
        _line(fig, curve.false_positive_rate, curve.true_positive_rate, label)
    _reference(fig, [0, 1], [0, 1], "chance")
    for name in (name for name in scores if name not in curves):
        fig.add_scatter(
            x=[None],
            y=[None],
            name=_plain(f"{_cut(name, 34)}: {_numbers(scores[name])}", 84),
            mode="lines",
            line={"color": FAINT},
        )
    fig.update_layout(xaxis={"range": [-0.01, 1.01]}, yaxis={"range": [-0.01, 1.01]})
    return _legend_below(fig)


def risk_coverage_curves(curves: Mapping[str, RiskCoverage]) -> go.Figure:
    """Error rate among the questions answered, by measure, as the least certain are left out.

    The dashed line is the error rate of answering everything, and expected of a random order.
    """
    fig = _figure(
        "Answering only where certain",
        "coverage (share of questions answered)",
        "risk (share of answers wrong)",
        height=400,
    )
    if not curves:
        return _say(fig, "There is no measure to order the questions by.")
    for name, curve in curves.items():
        _line(fig, curve.coverage, curve.risk, f"{name}: area {curve.aurc:.3f}")
    rates = sorted({round(curve.error_rate, 9) for curve in curves.values()})
    for rate in rates:
        _reference(fig, [0, 1], [rate, rate], f"at random: {rate:.3f}")
    best = sorted({f"{curve.best_aurc:.3f}" for curve in curves.values()})
    _note(fig, [f"area under the curve: lower is better, at best {' or '.join(best)}"])
    fig.update_xaxes(range=[-0.01, 1.01])
    fig.update_yaxes(rangemode="tozero")
    return _legend_below(fig)


def reliability_diagram(
    curve: ReliabilityCurve, scores: Mapping[str, Score] | None = None
) -> go.Figure:
    """Observed frequency against predicted probability, with Wilson bands and the rows per bin.

    `scores` (Brier and ECE, as from `evaluate_classifier`) are written under the title.
    """
    shown = {name: score for name, score in (scores or {}).items() if name in ("brier", "ece")}
    fig = _figure(
        "Reliability",
        "predicted probability",
        "observed share",
        _score_note(shown),
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
        return _say(fig, "There is no prediction to compare with what was observed.")
    middle, width = (curve.low_edge + curve.high_edge) / 2, curve.high_edge - curve.low_edge
    band = {"color": BLUE, "opacity": 0.2}
    low, high = curve.observed_low, curve.observed_high
    fig.add_bar(x=middle, y=high - low, base=low, width=width, marker=band, hoverinfo="skip")
    _reference(fig, [0, 1], [0, 1], "perfectly calibrated")
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
    return _note(fig, ["bands: 95 % Wilson interval of the share in each bin"])


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
    fig = _figure(
        title or f"{score_name} with 95 % intervals", score_name, "", height=125 + 34 * len(names)
    )
    if not names:
        return _say(fig, "There is no score to show.")
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
            "array": [_arm(rows[row].value, rows[row].high) for row in shown],
            "arrayminus": [_arm(rows[row].value, rows[row].low) for row in shown],
            "thickness": 2,
            "width": 0,
        },
        customdata=[_score_hover(names[row], rows[row]) for row in shown],
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
    )
    for row, score in enumerate(rows):
        known = score.value is not None
        fig.add_annotation(
            text=_wrapped(_numbers(score), 110),
            align="left",
            hovertext=_score_hover(names[row], score),
            y=row,
            xref="paper",
            x=1.02 if known else 0.01,
            xanchor="left",
        )
    ends = [end for s in rows for end in (s.value, s.low, s.high, reference) if end is not None]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    pad = 0.06 * (high - low) or 0.05
    fig.update_layout(margin={"r": 160})
    fig.update_xaxes(range=[low - pad, high + pad])
    fig.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=[_plain(name, 34) for name in names],
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

    The tripwire of helpers/tripwires.py judges the same scores: they must centre on chance.
    """
    values, left_out = _known(shuffled)
    fig = _figure(
        "Refits to shuffled labels",
        f"{score_name} (dotted: chance, {chance:g})",
        "refits",
        notes=[left_out],
    )
    if not len(values):
        return _say(fig, "No probe was refitted to shuffled labels.")
    bins = min(max(int(2 * math.sqrt(len(values))), 5), 30)
    edges = np.linspace(values.min() - 0.005, values.max() + 0.005, bins + 1)
    _bars(fig, values, edges, score_name, "refits", GREY)
    ends = [edges[0], edges[-1], chance, chance if real is None else real]
    pad = 0.05 * (max(ends) - min(ends))
    fig.update_xaxes(range=[min(ends) - pad, max(ends) + pad])
    fig.add_vline(chance, line={"color": BLUE, "width": 2, "dash": "dot"})
    if real is None:
        return _note(fig, ["the score of the real labels is undefined"])
    reached = int((values >= real).sum())
    text = f"real labels: {real:.3f}, reached by {reached} of {len(values)} refits"
    _mark(fig, real, text, VERMILLION, "solid")
    return fig


def _figure(
    title: str, x_title: str, y_title: str, notes: Sequence[str] = (), height: int = HEIGHT
) -> go.Figure:
    """An empty figure in the common style."""
    fig = go.Figure(
        layout={
            "template": template(),
            "title": {"text": _plain(title, 90)},
            "xaxis": {"title": {"text": _plain(x_title)}},
            "yaxis": {"title": {"text": _plain(y_title)}},
            "margin": {"l": 60, "r": 24, "t": 56, "b": 56},
            "height": height,
        }
    )
    return _note(fig, notes)


def _note(fig: go.Figure, notes: Sequence[str]) -> go.Figure:
    """Add lines under the title, and room for them."""
    lines = [_plain(line) for note in notes for line in textwrap.wrap(note, 88)]
    small = "".join(f"<br><span style='font-size:12px;font-weight:400'>{li}</span>" for li in lines)
    fig.layout.title.text += small
    fig.layout.margin.t += 16 * len(lines)
    fig.layout.height += 16 * len(lines)
    return fig


def _say(fig: go.Figure, message: str) -> go.Figure:
    """Put words in place of a plot, on bare axes."""
    lines = [part for line in message.split("\n") for part in textwrap.wrap(line, 68)]
    fig.add_annotation(
        text="<br>".join(_plain(line) for line in lines),
        font={"size": 14},
        xref="paper",
        yref="paper",
        x=0.5,
        y=0.5,
    )
    bare = {"showticklabels": False, "showgrid": False, "zeroline": False, "ticks": ""}
    fig.update_xaxes(**bare, range=[0, 1])
    fig.update_yaxes(**bare, range=[0, 1])
    return fig


def _cut(text: object, length: int) -> str:
    """Anyone's text as one line of at most `length` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def _plain(text: object, length: int = 100) -> str:
    """Anyone's text as one line of at most `length` characters in which nothing is markup."""
    # Plotly reads a few tags, and TeX between dollars; it shows &quot; as it stands.
    return html.escape(_cut(text, length), quote=False).replace("$", "&#36;")


def _wrapped(text: object, length: int) -> str:
    """Anyone's text, cut to `length` characters and broken into lines, which Plotly does not do."""
    return "<br>".join(_plain(part) for part in textwrap.wrap(_cut(text, length), 56))


def _known(column: Any) -> tuple[np.ndarray, str]:
    """The values of a column [n] that are there, and a note of how many are not."""
    values = np.asarray(column, dtype=np.float64)
    known = values[np.isfinite(values)]
    missing = len(values) - len(known)
    return known, f"{missing} of {len(values)} have no value and are left out" if missing else ""


def _bars(
    fig: go.Figure,
    values: np.ndarray,
    edges: np.ndarray,
    unit: str,
    counted: str,
    colour: str = BLUE,
) -> None:
    """Add a histogram of values [n] over bin edges."""
    counts, edges = np.histogram(values, edges)
    fig.add_bar(
        x=(edges[1:] + edges[:-1]) / 2,
        y=counts,
        width=np.diff(edges) * 0.92,
        marker={"color": colour, "opacity": 1 if colour == BLUE else 0.5},
        customdata=np.column_stack([edges[:-1], edges[1:]]),
        hovertemplate=f"%{{customdata[0]:.3f}} to %{{customdata[1]:.3f}} {_plain(unit)}"
        f"<br>%{{y}} {counted}<extra></extra>",
    )


def _mark(fig: go.Figure, x: float, text: str, colour: str, dash: str) -> None:
    """Add an upright line with a label above the plot that leans to the side with room."""
    bars = fig.data[0].x
    low, high = fig.layout.xaxis.range or (bars[0], bars[-1])
    anchor = "left" if x < (low + high) / 2 else "right"
    fig.add_vline(x, line={"color": colour, "width": 2, "dash": dash})
    fig.add_annotation(
        text=_plain(text), x=x, xanchor=anchor, y=1, yref="paper", yanchor="bottom", borderpad=0
    )


def _question_scatter(
    fig: go.Figure,
    columns: Mapping[str, Any],
    question_ids: Sequence[str],
    questions: Sequence[str],
    groups: Sequence[object] | None,
    diagonal: str,
    spread_ties: bool = False,
) -> go.Figure:
    """Draw one point per question at two columns [n], a colour and symbol per group, and y = x."""
    x, y = (np.asarray(column, dtype=np.float64) for column in columns.values())
    words = [""] * len(x) if groups is None else [str(group) for group in groups]
    lengths = {"ids": len(question_ids), "questions": len(questions), "labels": len(words)}
    if {len(x), len(y), *lengths.values()} != {len(x)}:
        raise ValueError(f"columns of {len(x)} and {len(y)} rows with {lengths}")
    rows: list[int] = np.flatnonzero(np.isfinite(x) & np.isfinite(y)).tolist()
    if len(rows) < len(x):
        note = f"{len(x) - len(rows)} of {len(x)} questions lack a value and are left out"
        _note(fig, [note])
    if not rows:
        return _say(fig, "No question has both values.")
    ends = [float(x[rows].min()), float(x[rows].max())]
    _reference(fig, ends, ends, diagonal)
    length = min(160, max(40, HOVER_BUDGET // len(rows)))
    at_x, at_y = _spread(x, y, rows) if spread_ties else (x, y)
    kind = go.Scattergl if len(rows) > MANY_POINTS else go.Scatter
    for number, word in enumerate(dict.fromkeys(words[row] for row in rows)):
        members = [row for row in rows if words[row] == word]
        fig.add_trace(
            kind(
                x=at_x[members],
                y=at_y[members],
                name=_plain(word, 40),
                mode="markers",
                marker={
                    "color": COLOURS[number % len(COLOURS)],
                    "symbol": SYMBOLS[number % len(SYMBOLS)],
                    "size": 3 if len(rows) > MANY_POINTS else 7,
                    "opacity": 0.4 if len(rows) > MANY_POINTS else 0.8,
                },
                customdata=[
                    [
                        str(question_ids[row]),
                        _wrapped(questions[row], length),
                        round(float(x[row]), 4),
                        round(float(y[row]), 4),
                    ]
                    for row in members
                ],
                hovertemplate="%{customdata[1]}<br>"
                + "<br>".join(f"{n} %{{customdata[{i}]:.3f}}" for i, n in enumerate(columns, 2))
                + "<extra></extra>",
                showlegend=groups is not None,
            )
        )
    return _legend_below(fig, one_row=True)


def _spread(x: np.ndarray, y: np.ndarray, rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Move rows that share a place onto a small sunflower around it, the same one every time."""
    x, y = x.copy(), y.copy()
    radius_x, radius_y = 0.02 * (np.ptp(x[rows]) or 1.0), 0.035 * (np.ptp(y[rows]) or 1.0)
    places: dict[tuple[float, float], list[int]] = {}
    for row in rows:
        places.setdefault((round(float(x[row]), 9), round(float(y[row]), 9)), []).append(row)
    for tied in places.values():
        rank = np.arange(len(tied))
        # Golden angle; a small pile stays tighter than a large one.
        distance, angle = np.sqrt(rank / max(len(tied), 30)), rank * math.pi * (3 - math.sqrt(5))
        x[tied] += radius_x * distance * np.cos(angle)
        y[tied] += radius_y * distance * np.sin(angle)
    return x, y


def _line(fig: go.Figure, x: Any, y: Any, label: str) -> None:
    """Add a curve in the next colour and dash."""
    number = len(fig.data)
    kind = go.Scattergl if len(x) > MANY_POINTS else go.Scatter
    line = {"color": COLOURS[number % len(COLOURS)], "dash": DASHES[number % len(DASHES)]}
    fig.add_trace(
        kind(
            x=x,
            y=y,
            name=_plain(label, 84),
            mode="lines",
            line={**line, "width": 2.2},
            hovertemplate="%{x:.3f}, %{y:.3f}",
        )
    )


def _reference(fig: go.Figure, x: list[float], y: list[float], label: str) -> None:
    """Add a thin grey line to compare with."""
    line = {"color": GREY, "width": 1.2, "dash": "dash"}
    fig.add_scatter(x=x, y=y, name=_plain(label), mode="lines", line=line, hoverinfo="skip")


def _legend_below(fig: go.Figure, one_row: bool = False) -> go.Figure:
    """Put the legend under the x axis title, in one row or one under the other, and make room."""
    entries = sum(trace.showlegend is not False for trace in fig.data)
    rows = math.ceil(entries / 4) if one_row else entries
    margin, plot = fig.layout.margin, fig.layout.height - fig.layout.margin.t - fig.layout.margin.b
    return fig.update_layout(
        showlegend=entries > 0,
        legend={"orientation": "h" if one_row else "v", "y": -margin.b / plot},
        height=fig.layout.height + LEGEND_ROW * rows,
        margin={"b": margin.b + LEGEND_ROW * rows},
    )


def _arm(value: float | None, end: float | None) -> float:
    """The length of an error bar; 0 where there is no interval."""
    return 0.0 if value is None or end is None else abs(end - value)


def _numbers(score: Score) -> str:
    """A score in a few words; why it has no interval is left to the hover label."""
    if score.value is not None and score.low is None:
        return f"{score.value:.3f} (no interval)"
    return format_score(score)


def _score_hover(name: str, score: Score) -> str:
    """All there is to know of a score, in the lines of a hover label."""
    p_value = "" if score.p_value is None else f", p = {score.p_value:.3g}"
    lines = [name, format_score(score), f"n = {score.n}{p_value}"]
    if score.note and score.low is not None:
        lines.append(score.note)
    return "<br>".join(_wrapped(line, 200) for line in lines)


def _score_note(scores: Mapping[str, Score]) -> list[str]:
    """Scores as one line under a title."""
    if not scores:
        return []
    parts = []
    for name, score in scores.items():
        text = f"{METRIC_NAMES.get(name, name)} {format_score(score)}"
        if score.value is not None:
            # No line breaks within a number and its interval.
            text = (text + (" nats" if name in ("rmse", "mae") else "")).replace(" ", "\u00a0")
        parts.append(text)
    return ["; ".join([*parts, f"n = {min(score.n for score in scores.values())}"])]
