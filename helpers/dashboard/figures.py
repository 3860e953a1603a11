"""The linked figures, one point a run, and the curves of the predictors under the current filters.

Each is drawn from the rows that the filters leave; axes span all rows of the table, so that they
stay where they are when a filter moves. `Drawn.words` says in a sentence what the figure shows.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from helpers.analysis_table.file import AnalysisTable
from helpers.dashboard.filters import (
    EVENTS,
    NOTHING_LEFT,
    SIGNALS,
    TITLES,
    UNGRADED,
    FilteredRuns,
    Signal,
    chosen_rows,
    class_names,
    drawn_rows,
    of_class,
)
from helpers.dashboard.scores import (
    PredictorScore,
    SelectionScores,
    counted_runs,
    graded_words,
    map_words,
    score_words,
    scores_words,
    share_words,
    side_words,
)
from helpers.views.style import (
    COLOURS,
    GREY,
    MANY_POINTS,
    SYMBOLS,
    add_curve,
    add_notes,
    add_reference,
    framed,
    legend_below,
    plain,
    say_instead,
)

# --- points --------------------------------------------------------------------------------------


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
    kept: FilteredRuns,
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


def _notes(
    table: AnalysisTable, kept: FilteredRuns, rows: np.ndarray, x: str, y: str
) -> Iterator[str]:
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
    table: AnalysisTable, kept: FilteredRuns, probe: str, chosen: tuple[int, ...] = ()
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


def entropy_view(table: AnalysisTable, kept: FilteredRuns, chosen: tuple[int, ...] = ()) -> Drawn:
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


def map_view(
    table: AnalysisTable, kept: FilteredRuns, colour: str, chosen: tuple[int, ...] = ()
) -> Drawn:
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


def _missing(table: AnalysisTable, kept: FilteredRuns, rows: np.ndarray, *columns: str) -> str:
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


# --- curves of the predictors --------------------------------------------------------------------


MOST_POINTS = 300
"""Points of one curve; longer ones are thinned."""
SCORE_FIGURE_HEIGHT = 420


def roc_view(scores: SelectionScores) -> Drawn:
    """True against false positive rate of every predictor, the AUROC in the legend."""
    fig = framed(
        "Telling correct runs from wrong ones (ROC)",
        "False positive rate (share of wrong runs called correct)",
        "True positive rate (share of correct runs)",
        height=SCORE_FIGURE_HEIGHT,
    )
    for found in _defined(fig, scores, "auroc"):
        assert found.roc is not None
        at = _thinned(len(found.roc.false_positive_rate))
        rates = found.roc.false_positive_rate[at], found.roc.true_positive_rate[at]
        add_curve(fig, *rates, _label(found, scores, "auroc"))
    if not fig.data:
        return _nothing(fig, scores, "auroc")
    add_reference(fig, [0, 1], [0, 1], "guessing: 0.5")
    fig.update_xaxes(range=[-0.01, 1.01], zeroline=False)
    fig.update_yaxes(range=[-0.01, 1.01], zeroline=False)
    return Drawn(legend_below(fig), scores_words(scores, "auroc"))


def risk_view(scores: SelectionScores) -> Drawn:
    """Error among the runs kept against their share, the least certain left out first."""
    fig = framed(
        "Answering only where certain (risk–coverage)",
        "Coverage (share of graded runs that are kept)",
        "Risk (share of these that are wrong)",
        height=SCORE_FIGURE_HEIGHT,
    )
    highest = [0.05]
    for found in _defined(fig, scores, "aurc"):
        assert found.risk is not None
        at = _thinned(len(found.risk.coverage))
        coverage, risk = found.risk.coverage[at], found.risk.risk[at]
        add_curve(fig, coverage, risk, _label(found, scores, "aurc"))
        highest += risk[coverage >= 0.05].tolist()
    if not fig.data:
        return _nothing(fig, scores, "aurc")
    first = next(s.risk for s in scores.by_predictor.values() if s.risk is not None)
    add_reference(fig, [0, 1], [first.error_rate] * 2, f"at random: {first.error_rate:.3f}")
    fig.update_xaxes(range=[-0.01, 1.01], zeroline=False)
    fig.update_yaxes(range=[0, min(1.02, 1.08 * max(highest))], zeroline=False)
    return Drawn(legend_below(fig), scores_words(scores, "aurc"))


def _defined(fig: go.Figure, scores: SelectionScores, metric: str) -> list[PredictorScore]:
    """The predictors that have a curve; why the others have none becomes a note."""
    found = [s for s in scores.by_predictor.values() if getattr(s, metric).value is not None]
    notes = [
        graded_words(scores),
        f"95 % intervals from {scores.resamples} resamples of whole questions",
    ]
    notes += [
        f"{TITLES[s.predictor]}: {score_words(getattr(s, metric))}"
        for s in scores.by_predictor.values()
        if getattr(s, metric).value is None
    ]
    if found:
        add_notes(fig, narrow(notes))
    return found


def _label(found: PredictorScore, scores: SelectionScores, metric: str) -> str:
    """A legend entry: predictor, score, and how many runs where they are not all."""
    name = {"auroc": "AUROC", "aurc": "AURC"}[metric]
    score = getattr(found, metric)
    fewer = f" ({score.n:,} runs)" if score.n < scores.runs else ""
    return f"{TITLES[found.predictor]}: {name} {score_words(score)}{fewer}"


def _nothing(fig: go.Figure, scores: SelectionScores, metric: str) -> Drawn:
    """Words in place of the curves: why no predictor has one."""
    if not scores.runs and not scores.left_out:
        return Drawn(say_instead(fig, NOTHING_LEFT), NOTHING_LEFT)
    reasons = dict.fromkeys(getattr(s, metric).undefined for s in scores.by_predictor.values())
    message = f"Undefined, because {'; '.join(reasons)}."
    return Drawn(say_instead(fig, message), message)


def _thinned(points: int) -> np.ndarray:
    """Places of at most `MOST_POINTS` points of a curve, the first and the last among them."""
    return np.unique(np.linspace(0, points - 1, min(points, MOST_POINTS)).round().astype(int))
