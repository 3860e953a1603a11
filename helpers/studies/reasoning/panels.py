"""One panel a split side by side, with one legend: the frame of the study's figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from helpers.evaluation import Score
from helpers.figure_style import (
    COLOURS,
    DASHES,
    GREY,
    LEGEND_ROW,
    framed,
    plain,
    say_instead,
    wrapped,
)
from helpers.studies.reasoning.records import OOD

SPLIT_WORDS = {"test": "in distribution", OOD: "out of distribution"}
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
