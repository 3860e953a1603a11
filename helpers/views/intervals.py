"""Rows of dots with 95 % intervals, from scores or from several random splits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import plotly.graph_objects as go

from helpers.evaluation.scores import Score
from helpers.views.style import (
    BLUE,
    FAINT,
    GREY,
    VERMILLION,
    arm_length,
    framed,
    plain,
    say_instead,
    score_hover,
    wrapped,
)

ROW = 36
"""Height of a row in pixels: room for two lines of words."""
GAP = 0.08
"""Between panels, as a share of the plot's width."""
WORDS = 58
"""Characters that a line across the plot may have in a figure of 600 pixels."""
MOST_TICKS = {1: 7, 2: 4, 3: 3}
"""Ticks on an axis, by the number of panels."""


@dataclass(frozen=True)
class Panel:
    """One axis of values that all rows share."""

    title: str
    ends: tuple[float, float] | None = None
    """Of the axis; those of what is drawn where None."""
    style: Literal["", "percent", "signed"] = ""
    """How values are written along the axis."""


@dataclass(frozen=True)
class Row:
    """One name with a score in each panel, or words in their place."""

    name: str
    scores: tuple[Score, ...] = ()
    """One a panel; one without a value says why."""
    references: tuple[float | None, ...] = ()
    """One a panel: where a thin line is drawn to compare with."""
    said: str = ""
    """Words across all panels in place of scores."""
    is_heading: bool = False
    """The words stand above the rows that follow."""
    marked: bool = False
    """Drawn as what went wrong: in another colour, with another symbol."""


def interval_rows(
    title: str,
    rows: Sequence[Row],
    panels: Sequence[Panel],
    notes: Sequence[str] = (),
) -> go.Figure:
    """Draw rows from top to bottom; a hollow dot has no interval, a marked one is a cross."""
    fig = framed(title, panels[0].title, "", notes, height=128 + ROW * max(len(rows), 3))
    if not rows:
        return say_instead(fig, "There is nothing to show.")
    width = (1 - GAP * (len(panels) - 1)) / len(panels)
    most = MOST_TICKS.get(len(panels), 2)
    for number, panel in enumerate(panels):
        start = number * (width + GAP)
        _add_panel(fig, rows, panel, number, (start, min(start + width, 1.0)), most)
    for y, row in enumerate(rows):
        if row.is_heading:
            _say(fig, f"<b>{plain(row.said, WORDS)}</b>", 0.01, y)
        elif row.said:
            _say(fig, wrapped(row.said, 2 * WORDS - 6, WORDS), 0.01, y, row.said)
    return fig.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[wrapped(row.name, 56, 28) for row in rows],
        range=[len(rows) - 0.5, -0.5],
        zeroline=False,
        showgrid=False,
        ticks="",
    )


def _add_panel(
    fig: go.Figure,
    rows: Sequence[Row],
    panel: Panel,
    number: int,
    domain: tuple[float, float],
    most_ticks: int,
) -> None:
    """One panel between two shares of the plot's width, with all its rows."""
    axis = f"x{number + 1}" if number else "x"
    scored = [(y, row, row.scores[number]) for y, row in enumerate(rows) if row.scores]
    known = [(y, row, score) for y, row, score in scored if score.value is not None]
    references = [(y, row.references[number]) for y, row, _ in known if row.references]
    lines = [(y, value) for y, value in references if value is not None]
    ends = [e for _, _, s in known for e in (s.value, s.low, s.high) if e is not None]
    ends += [value for _, value in lines]
    low, high = panel.ends or ((min(ends), max(ends)) if ends else (0.0, 1.0))
    # Values are marked row by row, so that no line strikes through words.
    ticks = tick_values(low, high, most_ticks)
    _add_upright(fig, axis, [(y, tick) for y, _, _ in known for tick in ticks], FAINT, "solid", 1)
    _add_upright(fig, axis, lines, GREY, "dash", 1.2)
    for marked, colour in ((False, BLUE), (True, VERMILLION)):
        chosen = [entry for entry in known if entry[1].marked == marked]
        if chosen:
            _add_dots(fig, axis, chosen, colour, "x" if marked else "circle")
    for y, _, score in scored:
        if score.value is None:
            reason = f"undefined: {score.undefined}"
            width = int(WORDS * (domain[1] - domain[0]))
            _say(fig, wrapped(reason, 2 * width, width), domain[0] + 0.01, y, reason)
    pad = 0.04 * (high - low) or 0.05
    if not scored:
        # Words alone need no axis.
        fig.layout[f"xaxis{axis[1:]}"] = {"visible": False, "range": [0, 1]}
        return
    fig.layout[f"xaxis{axis[1:]}"] = {
        "title": {"text": plain(panel.title)},
        "domain": list(domain),
        "range": [low - pad, high + pad],
        "tickvals": ticks,
        "ticktext": [_tick_text(tick, panel.style) for tick in ticks],
        "tickangle": 0,
        "showgrid": False,
        "zeroline": False,
        "anchor": "y",
    }


def _add_upright(
    fig: go.Figure,
    axis: str,
    places: Sequence[tuple[int, float]],
    colour: str,
    dash: str,
    width: float,
) -> None:
    """Upright lines, each across one row."""
    if places:
        fig.add_scatter(
            x=[x for _, value in places for x in (value, value, None)],
            y=[at for y, _ in places for at in (y - 0.5, y + 0.5, None)],
            xaxis=axis,
            mode="lines",
            line={"color": colour, "dash": dash, "width": width},
            showlegend=False,
            hoverinfo="skip",
        )


def _add_dots(
    fig: go.Figure, axis: str, chosen: Sequence[tuple[int, Row, Score]], colour: str, symbol: str
) -> None:
    scores = [score for _, _, score in chosen]
    fig.add_scatter(
        x=[score.value for score in scores],
        y=[y for y, _, _ in chosen],
        xaxis=axis,
        mode="markers",
        marker={"size": 9, "color": colour, "symbol": dot_symbols(scores, symbol)},
        error_x=arms(scores),
        customdata=[score_hover(row.name, score) for _, row, score in chosen],
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
    )


def _say(fig: go.Figure, words: str, x: float, y: int, hover: str = "") -> None:
    fig.add_annotation(text=words, x=x, y=y, xref="paper", xanchor="left", align="left")
    if hover:
        fig.layout.annotations[-1].hovertext = wrapped(hover, 300)


def arms(scores: Sequence[Score], thickness: float = 2) -> dict[str, Any]:
    """Plotly's error bars from the intervals of scores; none where there is no interval."""
    return {
        "array": [arm_length(score.value, score.high) for score in scores],
        "arrayminus": [arm_length(score.value, score.low) for score in scores],
        "thickness": thickness,
        "width": 0,
    }


def dot_symbols(scores: Sequence[Score], symbol: str = "circle") -> list[str]:
    """The symbol of each score; a hollow one has no interval."""
    return [f"{symbol}-open" if score.low is None else symbol for score in scores]


def tick_values(low: float, high: float, most: int) -> list[float]:
    """At most `most` multiples of 1, 2 or 5 times a power of ten, from low to high.

    >>> tick_values(-0.11, 0.11, 4)
    [-0.1, 0.0, 0.1]
    """
    if high <= low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power, 2 * power, 5 * power, 10 * power, 20 * power):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [round(i * step, 12) for i in range(first, last + 1)]


def _tick_text(value: float, style: str) -> str:
    if style == "percent":
        return f"{round(100 * value, 9):g} %"
    signed = f"{value:+g}" if style == "signed" and value else f"{value:g}"
    return signed.replace("-", "−")
