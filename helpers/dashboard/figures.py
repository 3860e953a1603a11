"""The three linked figures: margin, semantic entropy, and the map; a point is a run.

Each is drawn from the rows that the filters leave; axes span all rows of the table, so that they
stay where they are when a filter moves. `Drawn.words` says in a sentence what the figure shows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import plotly.graph_objects as go

from helpers.analysis_file import AnalysisTable
from helpers.dashboard.filters import NOTHING_LEFT, Kept
from helpers.dashboard.points import (
    Drawn,
    Group,
    add_threshold,
    narrow,
    scatter,
    with_values,
)
from helpers.dashboard.signals import (
    EVENTS,
    SIGNALS,
    TITLES,
    UNGRADED,
    Signal,
    class_names,
    of_class,
)
from helpers.dashboard.words import map_words, share_words, side_words
from helpers.figure_style import (
    COLOURS,
    GREY,
    SYMBOLS,
    framed,
    legend_below,
    say_instead,
)

STATUS_STYLES = {
    "correct": (COLOURS[0], "circle"),
    "wrong": (COLOURS[1], "diamond"),
    "unanswered": (COLOURS[4], "triangle-up"),
    UNGRADED: (GREY, "circle-open"),
}
UNKNOWN_VALUE = "no value"
SEQUENTIAL, DIVERGING = "Viridis", "RdBu_r"
HEIGHT = 400


def margin_view(
    table: AnalysisTable, kept: Kept, probe: str, chosen: tuple[int, ...] = ()
) -> Drawn:
    """Margin of a probe against the mean token entropy of the thinking."""
    event, column = EVENTS[probe], f"margin_{probe}"
    fig = framed(
        "Margin against thinking entropy",
        SIGNALS["thinking_entropy"].title.capitalize(),
        "Margin (nats)",
        narrow([f"{TITLES[probe]}; margin: log-odds of {event}; dashed: probability ½"]),
        height=HEIGHT,
    )
    rows = with_values(table, kept.rows, "thinking_entropy", column)
    missing = _missing(table, kept, rows, column, "thinking_entropy")
    if missing:
        return _instead(fig, missing)
    scatter(fig, table, kept, chosen, "thinking_entropy", column, _by_status(table))
    add_threshold(fig, y=0.0)
    words = share_words(table, rows, column, 0.0, TITLES[probe], event)
    return Drawn(legend_below(fig, one_row=True), words)


def entropy_view(table: AnalysisTable, kept: Kept, chosen: tuple[int, ...] = ()) -> Drawn:
    """What the semantic-entropy probe says against the entropy that was measured."""
    column, threshold = "probability_semantic_entropy", table.about.threshold
    fig = framed(
        "Semantic entropy and its probe",
        "Semantic entropy of the question's runs (nats)",
        "Probability of high semantic entropy",
        [_threshold_words(threshold)],
        height=HEIGHT,
    )
    rows = with_values(table, kept.rows, "semantic_entropy", column)
    missing = _missing(table, kept, rows, column, "semantic_entropy")
    if missing:
        return _instead(fig, missing)
    scatter(fig, table, kept, chosen, "semantic_entropy", column, _by_status(table))
    fig.update_yaxes(range=[-0.04, 1.04])
    add_threshold(fig, x=threshold)
    return Drawn(legend_below(fig, one_row=True), side_words(table, rows, threshold))


def map_view(table: AnalysisTable, kept: Kept, colour: str, chosen: tuple[int, ...] = ()) -> Drawn:
    """The fixed UMAP of the hidden states, coloured by a signal."""
    signal = SIGNALS[colour]
    fig = framed(
        "Map of the hidden states",
        "UMAP 1 (no unit)",
        "UMAP 2 (no unit)",
        narrow([f"coloured by {signal.title}"]),
        height=HEIGHT + 60,
    )
    rows = with_values(table, kept.rows, "umap_x", "umap_y")
    missing = _missing(table, kept, rows, "umap_x", "umap_y")
    if missing:
        return _instead(fig, missing)
    groups = _by_class(table, signal) if signal.kind == "class" else _by_number(table, signal)
    scatter(fig, table, kept, chosen, "umap_x", "umap_y", groups)
    fig.update_xaxes(showticklabels=False, ticks="")
    fig.update_yaxes(showticklabels=False, ticks="")
    return Drawn(legend_below(fig, one_row=True), map_words(table, rows, signal))


def _threshold_words(threshold: float | None) -> str:
    if threshold is None:
        return "there is no threshold: nothing can be called high"
    return f"dashed: above {threshold:.2f} nats it counts as high"


def _missing(table: AnalysisTable, kept: Kept, rows: np.ndarray, *columns: str) -> str:
    """Why there is nothing to draw, in words; "" where there is something."""
    if not len(kept.rows):
        return NOTHING_LEFT
    if len(rows):
        return ""
    predictor = columns[0].partition("_")[2]
    if predictor in table.about.undefined and columns[0].startswith(("margin_", "probability_")):
        return f"{TITLES[predictor].capitalize()}: undefined, {table.about.undefined[predictor]}."
    unknown = [name for name in columns if not np.isfinite(table[name]).any()]
    if "thinking_entropy" in unknown:
        return "The entropies of the thinking's tokens are not known: the endpoint gave none."
    if unknown:
        return f"This run has no values of {unknown[0].replace('_', ' ')}."
    return "None of the runs that are left has both values."


def _instead(fig: go.Figure, message: str) -> Drawn:
    return Drawn(say_instead(fig, message), message)


def _by_status(table: AnalysisTable) -> Iterator[Group]:
    for name in class_names(table, "status"):
        colour, symbol = STATUS_STYLES[name]
        yield Group(name, of_class(table, "status", name), colour, symbol)


def _by_class(table: AnalysisTable, signal: Signal) -> Iterator[Group]:
    if signal.column == "status":
        yield from _by_status(table)
        return
    for number, name in enumerate(class_names(table, signal.column)):
        colour, symbol = COLOURS[number % len(COLOURS)], SYMBOLS[number % len(SYMBOLS)]
        yield Group(name, of_class(table, signal.column, name), colour, symbol)


def _by_number(table: AnalysisTable, signal: Signal) -> Iterator[Group]:
    """One group with a scale that all rows of the table share, and one without a value."""
    values = table[signal.column]
    known = np.isfinite(values)
    if known.any():
        low, high = float(values[known].min()), float(values[known].max())
        if signal.kind == "probability":
            low, high = 0.0, 1.0
        if signal.kind == "margin":
            high = max(abs(low), abs(high)) or 1.0
            low = -high
        scale = {
            "cmin": low,
            "cmax": high,
            "colorscale": DIVERGING if signal.kind == "margin" else SEQUENTIAL,
            "showscale": True,
            "colorbar": {"thickness": 12, "outlinewidth": 0, "len": 0.9},
        }
        yield Group("", known, values, "circle", scale)
    if not known.all():
        yield Group(UNKNOWN_VALUE, ~known, GREY, "circle-open")
