"""The one style of every figure: its template, colours and words, and the parts figures share.

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

from helpers.evaluation.scores import Score, format_score
from helpers.formatting import p_value_text

BLUE, VERMILLION, *_ = COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
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
    "auroc": "AUROC", "average_precision": "average precision", "brier": "Brier", "ece": "ECE",
    "rmse": "RMSE", "mae": "MAE", "spearman": "Spearman",
}  # fmt: skip


def template() -> go.layout.Template:
    """The style of every figure here; nothing is registered with Plotly."""
    axis = {
        "automargin": True, "gridcolor": FAINT, "linecolor": FAINT, "zerolinecolor": FAINT,
        "tickcolor": FAINT, "ticks": "outside", "ticklen": 4, "zerolinewidth": 1,
        "title": {"standoff": 8, "font": {"size": 13}},
    }  # fmt: skip
    bar = {"outlinewidth": 0, "thickness": 12, "title": {"side": "right", "font": {"size": 13}}}
    layout = go.Layout(
        font={"family": FONT, "size": 13, "color": GREY},
        title={
            "x": 0, "xref": "container", "xanchor": "left", "y": 1, "yref": "container",
            "yanchor": "top", "pad": {"t": 12, "l": 12}, "font": {"size": 15, "weight": 600},
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
    )  # fmt: skip
    return go.layout.Template(layout=layout, data={"heatmap": [{"colorbar": bar}]})


def framed(
    title: str, x_title: str, y_title: str, notes: Sequence[str] = (), height: int = HEIGHT
) -> go.Figure:
    """An empty figure in the common style."""
    fig = go.Figure(
        layout={
            "template": template(),
            "title": {"text": plain(title, 90)},
            "xaxis": {"title": {"text": plain(x_title)}},
            "yaxis": {"title": {"text": plain(y_title)}},
            "margin": {"l": 60, "r": 24, "t": 56, "b": 56},
            "height": height,
        }
    )
    return add_notes(fig, notes)


def add_notes(fig: go.Figure, notes: Sequence[str]) -> go.Figure:
    """Add lines under the title, and room for them."""
    lines = [plain(line) for note in notes for line in textwrap.wrap(note, 88)]
    small = "".join(f"<br><span style='font-size:12px;font-weight:400'>{li}</span>" for li in lines)
    fig.layout.title.text += small
    fig.layout.margin.t += 16 * len(lines)
    fig.layout.height += 16 * len(lines)
    if lines:
        # Plotly sets the first of several title lines higher than a single one.
        fig.layout.title.pad = {"t": 24, "l": 12}
    return fig


def say_instead(fig: go.Figure, message: str) -> go.Figure:
    """Put words in place of a plot, on bare axes."""
    lines = [part for line in message.split("\n") for part in textwrap.wrap(line, 68)]
    fig.add_annotation(
        text="<br>".join(plain(line) for line in lines),
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


def cut(text: object, length: int) -> str:
    """Anyone's text as one line of at most `length` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def plain(text: object, length: int = 100) -> str:
    """Anyone's text as one line of at most `length` characters in which nothing is markup."""
    # Plotly reads a few tags, and TeX between dollars; it shows &quot; as it stands.
    return html.escape(cut(text, length), quote=False).replace("$", "&#36;")


def wrapped(text: object, length: int, width: int = 56) -> str:
    """Anyone's text, cut to `length` characters and broken into lines, which Plotly does not do."""
    return "<br>".join(plain(part) for part in textwrap.wrap(cut(text, length), width))


def known_values(column: Any) -> tuple[np.ndarray, str]:
    """The values of a column [n] that are there, and a note of how many are not."""
    values = np.asarray(column, dtype=np.float64)
    known = values[np.isfinite(values)]
    missing = len(values) - len(known)
    return known, f"{missing} of {len(values)} have no value and are left out" if missing else ""


def add_bars(
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
        hovertemplate=f"%{{customdata[0]:.3f}} to %{{customdata[1]:.3f}} {plain(unit)}"
        f"<br>%{{y}} {counted}<extra></extra>",
    )


def add_mark(fig: go.Figure, x: float, text: str, colour: str, dash: str) -> None:
    """Add an upright line with a label above the plot that leans to the side with room."""
    bars = fig.data[0].x
    low, high = fig.layout.xaxis.range or (bars[0], bars[-1])
    anchor = "left" if x < (low + high) / 2 else "right"
    fig.add_vline(x, line={"color": colour, "width": 2, "dash": dash})
    fig.add_annotation(
        text=plain(text), x=x, xanchor=anchor, y=1, yref="paper", yanchor="bottom", borderpad=0
    )


def question_scatter(
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
        add_notes(fig, [note])
    if not rows:
        return say_instead(fig, "No question has both values.")
    ends = [float(x[rows].min()), float(x[rows].max())]
    add_reference(fig, ends, ends, diagonal)
    length = min(160, max(40, HOVER_BUDGET // len(rows)))
    at_x, at_y = _spread(x, y, rows) if spread_ties else (x, y)
    kind = go.Scattergl if len(rows) > MANY_POINTS else go.Scatter
    for number, word in enumerate(dict.fromkeys(words[row] for row in rows)):
        members = [row for row in rows if words[row] == word]
        fig.add_trace(
            kind(
                x=at_x[members],
                y=at_y[members],
                name=plain(word, 40),
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
                        wrapped(questions[row], length),
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
    return legend_below(fig, one_row=True)


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


def add_curve(fig: go.Figure, x: Any, y: Any, label: str) -> None:
    """Add a curve in the next colour and dash."""
    number = len(fig.data)
    kind = go.Scattergl if len(x) > MANY_POINTS else go.Scatter
    line = {"color": COLOURS[number % len(COLOURS)], "dash": DASHES[number % len(DASHES)]}
    fig.add_trace(
        kind(
            x=x, y=y, name=plain(label, 84), mode="lines", line={**line, "width": 2.2},
            hovertemplate="%{x:.3f}, %{y:.3f}",
        )
    )  # fmt: skip


def add_reference(fig: go.Figure, x: list[float], y: list[float], label: str) -> None:
    """Add a thin grey line to compare with."""
    line = {"color": GREY, "width": 1.2, "dash": "dash"}
    fig.add_scatter(x=x, y=y, name=plain(label), mode="lines", line=line, hoverinfo="skip")


def legend_below(fig: go.Figure, one_row: bool = False) -> go.Figure:
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


def arm_length(value: float | None, end: float | None) -> float:
    """The length of an error bar; 0 where there is no interval."""
    return 0.0 if value is None or end is None else abs(end - value)


def score_numbers(score: Score) -> str:
    """A score in a few words; why it has no interval is left to the hover label."""
    if score.value is not None and score.low is None:
        return f"{score.value:.3f} (no interval)"
    return format_score(score)


def score_hover(name: str, score: Score) -> str:
    """All there is to know of a score, in the lines of a hover label."""
    counted = filter(None, (f"n = {score.n}", p_value_text(score.p_value, "p")))
    lines = [name, format_score(score), ", ".join(counted)]
    if score.note and score.low is not None:
        lines.append(score.note)
    return "<br>".join(wrapped(line, 200) for line in lines)


def score_notes(scores: Mapping[str, Score]) -> list[str]:
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
