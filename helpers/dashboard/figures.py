"""The linked figures, one point a row, and the curves of the predictors under the current filters.

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

from helpers.analysis_table.about import PROBE_PARTS, About, Label, Predictor
from helpers.analysis_table.file import AnalysisTable
from helpers.dashboard.data import PredictorScore, SelectionScores
from helpers.dashboard.filters import (
    NOTHING_LEFT,
    FilteredRows,
    Signal,
    chosen_rows,
    class_names,
    drawn_rows,
    of_class,
    scorable_labels,
    signals,
    unknown_word,
)
from helpers.evaluation.scores import Score
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
    score_numbers,
)

# --- points --------------------------------------------------------------------------------------


NOTE_WIDTH = 66  # characters of a line under a title that a page of 700 pixels has room for


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
    kept: FilteredRows,
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
                text=_hover(table, members),
                hovertemplate="%{text}<br>%{x:.3f}, %{y:.3f}<extra></extra>",
                selected={"marker": {"opacity": 1}},
                unselected={"marker": {"opacity": 0.15}},
                showlegend=False,
                legendgroup=group.name,
            )
        )
        if group.name:  # an entry of full strength: Plotly's own would step back with its points
            fig.add_scatter(
                x=[None], y=[None], mode="markers", name=plain(group.name, 40),
                legendgroup=group.name,
                marker={"color": group.colour, "symbol": group.symbol, "size": 8},
            )  # fmt: skip
    for axis, column in ((fig.update_xaxes, x), (fig.update_yaxes, y)):
        axis(range=_span(table[column]), zeroline=False)
    fig.update_layout(dragmode="select", clickmode="event+select", hovermode="closest")
    add_notes(fig, narrow(_notes(table, kept, rows, x, y)))


def narrow(notes: Iterable[str]) -> list[str]:
    """Notes in lines that a narrow page has room for."""
    return [line for note in notes for line in textwrap.wrap(note, NOTE_WIDTH)]


def _hover(table: AnalysisTable, rows: np.ndarray) -> list[str]:
    """What a hover label calls each row."""
    about = table.about
    label = scorable_labels(about)[0]
    ids = {code: plain(table.names["group_id"][code], 48) for code in table["group_id"][rows]}
    units = [f" · {about.unit.one} {unit}" for unit in table["unit_id"][rows].tolist()]
    classes = table.words(label.column, rows)
    return [
        f"{ids[code]}{plain(unit, 48) if about.group else ''} · {plain(said or label.unknown, 48)}"
        for code, unit, said in zip(table["group_id"][rows], units, classes, strict=True)
    ]


def _span(values: np.ndarray) -> list[float]:
    """An axis for all known values, with a little room."""
    known = values[np.isfinite(values)].astype(np.float64)
    low, high = float(known.min()), float(known.max())
    room = 0.04 * (high - low) or 0.5
    return [low - room, high + room]


def _notes(
    table: AnalysisTable, kept: FilteredRows, rows: np.ndarray, x: str, y: str
) -> Iterator[str]:
    known = len(with_values(table, kept.rows, x, y))
    if known < len(kept.rows):
        every = table.about.unit.count(len(kept.rows))
        yield f"{len(kept.rows) - known:,} of {every} lack a value"
    if len(rows) < known:
        yield f"{len(rows):,} of {table.about.unit.count(known)} drawn (a fixed random subset)"


def rows_of_points(figure: go.Figure, points: object) -> tuple[int, ...]:
    """The table's rows of the points that marimo reports as selected, each once, ascending.

    A point says its trace and its place in it; the row is read from the figure's own customdata,
    so that nothing that a browser sends is taken for a row.
    """
    rows = set()
    for point in points if isinstance(points, Sequence) else ():
        if not isinstance(point, dict):
            continue
        trace, place = point.get("curveNumber"), point.get("pointIndex", point.get("pointNumber"))
        if type(trace) is not int or type(place) is not int or not 0 <= trace < len(figure.data):
            continue
        held = figure.data[trace].customdata
        if held is not None and 0 <= place < len(held):
            rows.add(int(held[place]))
    return tuple(sorted(rows))


def with_values(table: AnalysisTable, rows: np.ndarray, *columns: str) -> np.ndarray:
    """Those of the rows that have a value in every column."""
    return rows[np.logical_and.reduce([np.isfinite(table[name][rows]) for name in columns])]


UNKNOWN_VALUE = "no value"
NO_THRESHOLD = "No number of this run has a threshold that a probe foretells."
SEQUENTIAL, DIVERGING = "Viridis", "RdBu_r"
THRESHOLD = {"color": GREY, "width": 1.4, "dash": "dash"}
"""A line across the plot; a note under the title says what it is."""
HEIGHT = 400


def margin_view(
    table: AnalysisTable, kept: FilteredRows, probe: str, label: str, chosen: tuple[int, ...] = ()
) -> Drawn:
    """Margin of a predictor against the file's baseline, coloured by a label."""
    about, predictor, scored = table.about, table.about.predictor(probe), table.about.label(label)
    baseline = about.number(about.baseline or about.numbers[0].name)
    x, y = f"number_{baseline.name}", f"margin_{probe}"
    fig = framed(
        f"Margin against {baseline.title}",
        _capital(baseline.titled),
        "Margin (nats)",
        narrow([f"{predictor.title}; margin: log-odds of {about.event(predictor)}; dashed: ½"]),
        height=HEIGHT,
    )
    rows = with_values(table, kept.rows, x, y)
    missing = _missing(table, kept, rows, y, x)
    if missing:
        return _instead(fig, missing)
    scatter(fig, table, kept, chosen, x, y, _by_class(table, scored.column))
    fig.add_hline(y=0.0, line=THRESHOLD)
    words = share_words(table, rows, y, predictor, scored)
    return Drawn(legend_below(fig, one_row=True), words)


def thresholded_label(about: About) -> Label | None:
    """The first label that says whether a number is above a threshold, and is foretold."""
    foretold = {predictor.label for predictor in about.predictors}
    return next((label for label in about.labels if label.number and label.name in foretold), None)


def threshold_view(
    table: AnalysisTable, kept: FilteredRows, label: str, chosen: tuple[int, ...] = ()
) -> Drawn:
    """What a predictor says of a label against the number that makes it, coloured by another."""
    about, made = table.about, thresholded_label(table.about)
    if made is None:
        return _instead(framed("A number and its probe", "", "", height=HEIGHT), NO_THRESHOLD)
    number = about.number(made.number)
    predictor = next(p for p in about.predictors if p.label == made.name)
    x, y = f"number_{number.name}", f"probability_{predictor.name}"
    said = f"there is no threshold: nothing can be called {made.positive}"
    if made.threshold is not None:
        said = f"dashed: above {made.threshold:.2f} {number.unit} it counts as {made.positive}"
    fig = framed(
        f"{_capital(number.title)} and its probe", _capital(number.titled),
        f"Probability of {made.event_word}", narrow([said]), height=HEIGHT,
    )  # fmt: skip
    rows = with_values(table, kept.rows, x, y)
    missing = _missing(table, kept, rows, y, x)
    if missing:
        return _instead(fig, missing)
    scatter(fig, table, kept, chosen, x, y, _by_class(table, about.label(label).column))
    fig.update_yaxes(range=[-0.04, 1.04])
    if made.threshold is not None:
        fig.add_vline(x=made.threshold, line=THRESHOLD)
    return Drawn(legend_below(fig, one_row=True), side_words(table, rows, made, predictor))


def map_view(
    table: AnalysisTable, kept: FilteredRows, colour: str, chosen: tuple[int, ...] = ()
) -> Drawn:
    """The fixed UMAP of the hidden states, coloured by a signal."""
    signal = signals(table.about)[colour]
    fig = framed(
        "Map of the hidden states", "UMAP 1 (no unit)", "UMAP 2 (no unit)",
        narrow([f"coloured by {signal.title}"]), height=HEIGHT + 60,
    )  # fmt: skip
    rows = with_values(table, kept.rows, "umap_x", "umap_y")
    missing = _missing(table, kept, rows, "umap_x", "umap_y")
    if missing:
        return _instead(fig, missing)
    by_class = signal.kind == "class"
    groups = _by_class(table, colour) if by_class else _by_number(table, signal)
    scatter(fig, table, kept, chosen, "umap_x", "umap_y", groups)
    fig.update_xaxes(showticklabels=False, ticks="")
    fig.update_yaxes(showticklabels=False, ticks="")
    return Drawn(legend_below(fig, one_row=True), map_words(table, rows, signal))


def _capital(text: str) -> str:
    """The text with a capital at its beginning, the rest as it is."""
    return text[:1].upper() + text[1:]


def _missing(table: AnalysisTable, kept: FilteredRows, rows: np.ndarray, *columns: str) -> str:
    """Why there is nothing to draw, in words; "" where there is something."""
    if not len(kept.rows):
        return NOTHING_LEFT
    if len(rows):
        return ""
    for column in columns:
        part, _, name = column.partition("_")
        if part in PROBE_PARTS and (reason := table.about.predictor(name).undefined):
            return f"{_capital(table.about.predictor(name).title)}: undefined, {reason}."
        if part == "number" and not np.isfinite(table[column]).any():
            number = table.about.number(name)
            reason = f": {number.undefined}" if number.undefined else ""
            return f"There is no {number.title}{reason}."
        if not np.isfinite(table[column]).any():
            return f"This run has no values of {column.replace('_', ' ')}."
    return f"None of the {table.about.unit.many} that are left has both values."


def _instead(fig: go.Figure, message: str) -> Drawn:
    return Drawn(say_instead(fig, message), message)


def _by_class(table: AnalysisTable, column: str) -> Iterator[Group]:
    """A group for each class: the two that are scored first in colour, and the unknown in grey."""
    order: list[str | None] = list(table.names[column])
    label = table.about.label_in(column)
    if label and label.positive:
        order.sort(key=lambda name: (name != label.positive, name != label.negative))
    for name in class_names(table, column):
        if name == unknown_word(table.about, column):
            yield Group(name, of_class(table, column, name), GREY, "circle-open")
            continue
        number = order.index(name)
        colour, symbol = COLOURS[number % len(COLOURS)], SYMBOLS[number % len(SYMBOLS)]
        yield Group(name, of_class(table, column, name), colour, symbol)


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


MOST_POINTS = 300  # points of one curve; longer ones are thinned
SCORE_FIGURE_HEIGHT = 420


def roc_view(scores: SelectionScores) -> Drawn:
    """True against false positive rate of every predictor, the AUROC in the legend."""
    positive, negative = scores.label.positive, scores.label.negative
    fig = framed(
        f"Telling {positive} from {negative} (ROC)",
        f"False positive rate (share of {negative} called {positive})",
        f"True positive rate (share of {positive})",
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
        f"Coverage (share of graded {scores.about.unit.many} that are kept)",
        f"Risk (share of these that are {scores.label.negative})",
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
    whole = f"whole {scores.about.group.many}" if scores.about.group else scores.about.unit.many
    notes = [graded_words(scores), f"95 % intervals from {scores.resamples} resamples of {whole}"]
    found = []
    for one in scores.by_predictor.values():
        score = getattr(one, metric)
        if score.value is None:
            notes.append(f"{one.predictor.title}: {score_words(score)}")
        else:
            found.append(one)
    if found:
        add_notes(fig, narrow(notes))
    return found


def _label(found: PredictorScore, scores: SelectionScores, metric: str) -> str:
    """A legend entry: predictor, score, and how many runs where they are not all."""
    name = {"auroc": "AUROC", "aurc": "AURC"}[metric]
    score = getattr(found, metric)
    fewer = f" ({scores.about.unit.count(score.n)})" if score.n < scores.units else ""
    return f"{found.predictor.title}: {name} {score_words(score)}{fewer}"


def _nothing(fig: go.Figure, scores: SelectionScores, metric: str) -> Drawn:
    """Words in place of the curves: why no predictor has one."""
    if not scores.units and not scores.left_out:
        return Drawn(say_instead(fig, NOTHING_LEFT), NOTHING_LEFT)
    reasons = dict.fromkeys(getattr(s, metric).undefined for s in scores.by_predictor.values())
    message = f"Undefined, because {'; '.join(reasons)}."
    return Drawn(say_instead(fig, message), message)


def _thinned(points: int) -> np.ndarray:
    """Places of at most `MOST_POINTS` points of a curve, the first and the last among them."""
    return np.unique(np.linspace(0, points - 1, min(points, MOST_POINTS)).round().astype(int))


# --- in sentences --------------------------------------------------------------------------------


SHOWN_CLASSES = 6


def share_words(
    table: AnalysisTable, rows: np.ndarray, column: str, predictor: Predictor, label: Label
) -> str:
    """How many rows lie above 0, and how many of them are positive, above and below."""
    unit, above = table.about.unit, table[column][rows] > 0
    parts = [
        f"{unit.count(int(side.sum()))} {where} the line ({_positive(table, rows[side], label)})"
        for side, where in ((above, "above"), (~above, "below"))
    ]
    return (
        f"In words: of {unit.count(len(rows))}, {parts[0]}, where the {predictor.title} calls "
        f"{table.about.event(predictor)} the likelier, and {parts[1]}."
    )


def side_words(table: AnalysisTable, rows: np.ndarray, label: Label, predictor: Predictor) -> str:
    """What a predictor says on either side of the threshold that makes its label."""
    about = table.about
    given, measured = table[f"probability_{predictor.name}"][rows], table[f"number_{label.number}"]
    said = f"the {predictor.title}'s probability of {about.event(predictor)} is"
    if label.threshold is None:
        return f"In words: {about.unit.count(len(rows))}; {said} {_median(given)}."
    above = measured[rows] > label.threshold
    parts = [
        f"for {about.unit.count(int(side.sum()))} {where} the threshold "
        f"({label.threshold:.2f} {about.number(label.number).unit}) {said} {_median(given[side])}"
        for side, where in ((above, "above"), (~above, "at or below"))
        if side.any()
    ]
    return f"In words: {'; '.join(parts)}."


def map_words(table: AnalysisTable, rows: np.ndarray, signal: Signal) -> str:
    """What colours the map, with its counts or its middle half."""
    if signal.kind == "class":
        names = class_names(table, signal.column)
        counts = [(int(of_class(table, signal.column, n)[rows].sum()), n) for n in names]
        shown = [f"{count:,} {name}" for count, name in counts[:SHOWN_CLASSES]]
        more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
        said = ", ".join(shown) + more
    else:
        known = table[signal.column][rows]
        said = _median(known[np.isfinite(known)])
    return (
        f"In words: {table.about.unit.count(len(rows))} on a plane where near points have similar "
        f"hidden states, coloured by {signal.title}: {said}."
    )


def scores_words(scores: SelectionScores, metric: str) -> str:
    """The scores of all predictors on the graded rows of a selection."""
    parts = [
        f"{found.predictor.title} {score_words(getattr(found, metric))}"
        for found in scores.by_predictor.values()
    ]
    event = scores.label.event_word
    names = {
        "auroc": f"AUROC for {event}",
        "aurc": f"area under risk–coverage for {event} (lower is better)",
    }
    return f"In words: {names[metric]} on {graded_words(scores)}: {'; '.join(parts)}."


def graded_words(scores: SelectionScores) -> str:
    """How many rows a score is of, and how many are left out."""
    unit, group = scores.about.unit, scores.about.group
    words = f"{scores.units:,} graded {unit.one if scores.units == 1 else unit.many}"
    words += f" of {group.count(scores.groups)}" if group else ""
    if scores.left_out:
        words += f" ({scores.left_out:,} ungraded left out)"
    return words


def score_words(score: Score) -> str:
    """A score with its interval, or why it has none."""
    return f"undefined, because {score.undefined}" if score.value is None else score_numbers(score)


def _positive(table: AnalysisTable, rows: np.ndarray, label: Label) -> str:
    """The share of positive rows among those that are graded."""
    truth = table.truth(label.name, rows)
    truth = truth[np.isfinite(truth)]
    if not len(truth):
        return "none of them graded"
    return f"{100 * truth.mean():.0f} % of {len(truth):,} graded ones {label.positive}"


def _median(values: np.ndarray) -> str:
    """The middle of some values and their middle half."""
    if not len(values):
        return "not known"
    low, middle, high = np.quantile(values.astype(np.float64), [0.25, 0.5, 0.75])
    digits = 0 if high >= 100 else 2
    return (
        f"{middle:,.{digits}f} in the median, half of them {low:,.{digits}f} to {high:,.{digits}f}"
    )
