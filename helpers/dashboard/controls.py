"""The elements of the dashboard, and what their values mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from helpers.analysis_file import AnalysisTable
from helpers.dashboard.data import Listed
from helpers.dashboard.filters import (
    POINTS,
    Filters,
    Kept,
    length_range,
    range_words,
)
from helpers.dashboard.query import CLASSES, Params, View, first_run
from helpers.dashboard.signals import SIGNALS, TITLES, class_names, known_predictors
from helpers.dashboard.words import counted_questions, counted_runs
from helpers.html_parts import MUTED, safe

TITLES_OF_FILTERS = {
    "dataset": "Dataset",
    "split": "Split",
    "status": "Correct or not",
    "representative": "Runs of a question",
    "length": "Length of the thinking (tokens)",
    "points": "Points in a figure, at most",
}
ONLY_ONE = "only the representative one"


def run_choice(listed: Sequence[Listed], params: Params) -> Any:
    """A dropdown of the runs that can be shown; at first the one that the address asks for."""
    import marimo as mo

    options = {_label(run): run.name for run in listed if not run.damaged}
    first = first_run(params, listed).name
    return mo.ui.dropdown(
        options,
        value=next((label for label, name in options.items() if name == first), None),
        allow_select_none=not options,
        label="Run",
        full_width=True,
    )


def _label(run: Listed) -> str:
    """A run in one line; names are unique in a folder, and so are labels."""
    return (
        f"{run.name} · {run.model} · {', '.join(run.datasets)} · {counted_runs(run.runs)} of "
        f"{counted_questions(run.questions)}"
    )


def filter_elements(table: AnalysisTable, view: View) -> Any:
    """An element for each filter, set as the view has it; their values by name."""
    import marimo as mo

    elements: dict[str, Any] = {}
    for column, field in CLASSES.items():
        elements[column] = mo.ui.multiselect(
            class_names(table, column),
            value=getattr(view.filters, field),
            label=TITLES_OF_FILTERS[column],
            full_width=True,
        )
    elements["representative"] = mo.ui.checkbox(view.filters.representative, label=ONLY_ONE)
    low, high = length_range(table)
    elements["length"] = mo.ui.range_slider(
        low,
        max(high, low + 1),
        1,
        view.filters.length or (low, max(high, low + 1)),
        debounce=True,
        show_value=True,
        full_width=True,
        label=TITLES_OF_FILTERS["length"],
    )
    for name in known_predictors(table):
        elements[name] = mo.ui.range_slider(
            0.0,
            1.0,
            0.01,
            view.filters.probabilities.get(name, (0.0, 1.0)),
            debounce=True,
            show_value=True,
            full_width=True,
            label=range_words(name),
        )
    elements["points"] = mo.ui.dropdown(
        {f"{points:,}": points for points in POINTS},
        value=f"{view.filters.points:,}",
        allow_select_none=False,
        label=TITLES_OF_FILTERS["points"],
        full_width=True,
    )
    return mo.ui.dictionary(elements)


def chosen_filters(elements: Any, table: AnalysisTable) -> Filters:
    """The filters that the elements ask for."""
    values: Mapping[str, Any] = elements.value
    low, high = (int(end) for end in values["length"])
    least, most = length_range(table)
    probabilities = {name: _ends(values[name]) for name in known_predictors(table)}
    return Filters(
        # In the table's order, whatever the order in which they were clicked.
        **{
            field: tuple(n for n in class_names(table, column) if n in values[column])
            for column, field in CLASSES.items()
        },
        representative=values["representative"],
        length=None if low <= least and high >= most else (low, high),
        probabilities={n: ends for n, ends in probabilities.items() if ends != (0.0, 1.0)},
        points=values["points"],
    )


def _ends(value: Sequence[float]) -> tuple[float, float]:
    low, high = (round(float(end), 2) for end in value)
    return low, high


def filter_panel(elements: Any, kept: Kept, table: AnalysisTable) -> Any:
    """The filters, each with what it and those before it leave."""
    import marimo as mo

    main = [n for n in ("dataset", "split", "status", "representative", "length") if n in elements]
    ranges = [name for name in TITLES if name in elements]
    grid = "display:grid;grid-template-columns:repeat(auto-fill,minmax(min(17rem,100%),1fr));"
    grid += "gap:1.1rem 2rem;align-items:start"
    cells = [_filter_cell(elements, name, kept) for name in main]
    cells.append(_cell("", elements["points"].text, "scores are always of all runs that are left"))
    more = "".join(_filter_cell(elements, name, kept) for name in ranges)
    opened = " open" if kept.filters.probabilities else ""
    folded_ranges = (
        f'<details style="margin-top:1.1rem"{opened}><summary style="cursor:pointer">Ranges of the '
        f'probes’ probabilities</summary><div style="{grid};margin-top:0.8rem">{more}</div>'
        "</details>"
    )
    return mo.Html(
        f'<div style="{grid}">{"".join(cells)}</div>{folded_ranges if ranges else ""}'
        f'<p role="status" style="margin:1.1rem 0 0;font-weight:600">{_total(kept, table)}</p>'
    )


def _filter_cell(elements: Any, name: str, kept: Kept) -> str:
    left = kept.steps[name]
    count = f"leaves {counted_runs(left.runs)} of {counted_questions(left.questions)}"
    title = TITLES_OF_FILTERS[name] if name == "representative" else ""
    return _cell(title, elements[name].text, count)


def _cell(title: str, element: str, below: str) -> str:
    head = f"<div>{safe(title)}</div>" if title else ""
    return (
        f'<div style="min-width:0">{head}{element}'
        f'<div style="{MUTED};font-size:0.8rem;margin-top:0.2rem">{safe(below)}</div></div>'
    )


def _total(kept: Kept, table: AnalysisTable) -> str:
    every = counted_runs(len(table))
    if not len(kept.rows):
        return f"No run is left of {every}."
    graded = int(np.isfinite(table["correct"][kept.rows]).sum())
    return (
        f"{counted_runs(len(kept.rows))} of {counted_questions(kept.questions)} are left of "
        f"{every}; {graded:,} of them are graded."
    )


def probe_choice(view: View) -> Any:
    """A dropdown of the predictors whose margin the first figure can show."""
    return _dropdown({TITLES[name]: name for name in TITLES}, view.probe, "Margin of")


def colour_choice(view: View) -> Any:
    """A dropdown of the signals that the map can be coloured by."""
    return _dropdown({s.title: s.column for s in SIGNALS.values()}, view.colour, "Colour by")


def _dropdown(options: Mapping[str, str], value: str, label: str) -> Any:
    import marimo as mo

    words = next(words for words, option in options.items() if option == value)
    return mo.ui.dropdown(
        dict(options), value=words, allow_select_none=False, label=label, full_width=False
    )
