"""Points of a linked figure: drawn from rows of the table, and read back when they are selected."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from helpers.analysis_file import AnalysisTable
from helpers.dashboard.filters import Kept, chosen_rows, drawn_rows
from helpers.dashboard.signals import UNGRADED
from helpers.dashboard.words import counted_runs
from helpers.figure_style import GREY, MANY_POINTS, add_notes, plain

NOTE_WIDTH = 66
"""Characters of a line under a title that a page of 700 pixels has room for."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """A figure, and what it shows in words."""

    figure: go.Figure
    words: str


@dataclass(frozen=True, eq=False)
class Group:
    """Points that share a legend entry; a colour is one for all or one a row of the table."""

    name: str
    members: np.ndarray
    colour: Any
    symbol: str
    scale: dict[str, Any] | None = None


def scatter(
    fig: go.Figure,
    table: AnalysisTable,
    kept: Kept,
    selected: tuple[int, ...],
    x: str,
    y: str,
    groups: Iterable[Group],
) -> None:
    """Draw the kept rows that have both values; chosen ones stand out, and the rest steps back."""
    rows = drawn_rows(kept, len(table), selected)
    rows = with_values(table, rows, x, y)
    chosen = chosen_rows(kept, selected)
    kind = go.Scattergl if len(rows) > MANY_POINTS else go.Scatter
    size, opacity = (4, 0.5) if len(rows) > MANY_POINTS else (7, 0.75)
    for group in groups:
        members = rows[group.members[rows]]
        picked = np.isin(members, chosen)
        some = len(chosen) > 0
        colour = group.colour[members] if isinstance(group.colour, np.ndarray) else group.colour
        fig.add_trace(
            kind(
                x=table[x][members],
                y=table[y][members],
                name=plain(group.name or "all", 40),
                mode="markers",
                marker={
                    "color": colour,
                    "symbol": group.symbol,
                    "size": np.where(picked, size + 6, size) if some else size,
                    "opacity": np.where(picked, 1.0, 0.15) if some else opacity,
                    "line": {"width": 0.6, "color": GREY},
                    **(group.scale or {}),
                },
                customdata=members.astype(np.int32),
                text=_labels(table, members),
                hovertemplate="%{text}<br>%{x:.3f}, %{y:.3f}<extra></extra>",
                selected={"marker": {"opacity": 1}},
                unselected={"marker": {"opacity": 0.15}},
                showlegend=False,
                legendgroup=group.name,
            )
        )
        if group.name:
            _add_legend_entry(fig, group)
    for axis, column in ((fig.update_xaxes, x), (fig.update_yaxes, y)):
        axis(range=_span(table[column]), zeroline=False)
    fig.update_layout(dragmode="select", clickmode="event+select", hovermode="closest")
    add_notes(fig, narrow(_notes(table, kept, rows, x, y)))


def narrow(notes: Iterable[str]) -> list[str]:
    """Notes in lines that a narrow page has room for."""
    return [line for note in notes for line in textwrap.wrap(note, NOTE_WIDTH)]


def _add_legend_entry(fig: go.Figure, group: Group) -> None:
    """An entry of full strength: Plotly's own would step back with its points."""
    fig.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        name=plain(group.name, 40),
        legendgroup=group.name,
        marker={"color": group.colour, "symbol": group.symbol, "size": 8},
    )


def _labels(table: AnalysisTable, rows: np.ndarray) -> list[str]:
    """What a hover label calls each run."""
    ids = {code: plain(table.names["question_id"][code], 48) for code in table["question_id"][rows]}
    return [
        f"{ids[code]} · run {run} · {status or UNGRADED}"
        for code, run, status in zip(
            table["question_id"][rows],
            table["run_id"][rows].tolist(),
            table.words("status", rows),
            strict=True,
        )
    ]


def _span(values: np.ndarray) -> list[float]:
    """An axis for all known values, with a little room."""
    known = values[np.isfinite(values)].astype(np.float64)
    low, high = float(known.min()), float(known.max())
    room = 0.04 * (high - low) or 0.5
    return [low - room, high + room]


def add_threshold(fig: go.Figure, x: float | None = None, y: float | None = None) -> None:
    """A dashed line across the plot; a note under the title says what it is."""
    line = {"color": GREY, "width": 1.4, "dash": "dash"}
    if y is not None:
        fig.add_hline(y=y, line=line)
    if x is not None:
        fig.add_vline(x=x, line=line)


def _notes(table: AnalysisTable, kept: Kept, rows: np.ndarray, x: str, y: str) -> Iterator[str]:
    known = len(with_values(table, kept.rows, x, y))
    if known < len(kept.rows):
        yield f"{len(kept.rows) - known:,} of {counted_runs(len(kept.rows))} lack a value"
    if len(rows) < known:
        yield f"{len(rows):,} of {counted_runs(known)} drawn (a fixed random subset)"


def rows_of_points(figure: go.Figure, points: object) -> tuple[int, ...]:
    """The table's rows of the points that marimo reports as selected, each once, ascending.

    A point says its trace and its place in it; the row is read from the figure's own customdata,
    so that nothing that a browser sends is taken for a row.
    """
    rows = set()
    for point in points if isinstance(points, Sequence) else ():
        trace, place = (
            (point.get("curveNumber"), point.get("pointIndex", point.get("pointNumber")))
            if isinstance(point, dict)
            else (None, None)
        )
        if type(trace) is not int or type(place) is not int:
            continue
        if not 0 <= trace < len(figure.data):
            continue
        held = figure.data[trace].customdata
        if held is not None and 0 <= place < len(held):
            rows.add(int(held[place]))
    return tuple(sorted(rows))


def with_values(table: AnalysisTable, rows: np.ndarray, *columns: str) -> np.ndarray:
    """Those of the rows that have a value in every column."""
    return rows[np.logical_and.reduce([np.isfinite(table[name][rows]) for name in columns])]
