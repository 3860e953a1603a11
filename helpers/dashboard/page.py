"""What the cells of the dashboard call: opening, choosing, selecting, showing.

Text that came from a file or an address is escaped here or where the view was made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import marimo as mo
import numpy as np

from helpers.analysis_table.about import PROBE_PARTS, About, Text
from helpers.analysis_table.file import AnalysisTable, UnitDetails, read_details
from helpers.dashboard import data, filters
from helpers.dashboard.data import Listed, OpenRun, selection_scores
from helpers.dashboard.figures import Drawn, rows_of_points, score_words
from helpers.dashboard.filters import (
    MOST_CHOSEN,
    NOTHING_LEFT,
    POINTS,
    RANGE_PREFIX,
    Asked,
    FilteredRows,
    Filters,
    Params,
    View,
    apply_filters,
    cautions,
    chosen_rows,
    class_columns,
    class_names,
    first_run,
    known_predictors,
    length_range,
    scorable_labels,
    signals,
    usual_filters,
)
from helpers.errors import UserError
from helpers.formatting import when
from helpers.views.html import (
    LINE,
    MUTED,
    SMALL,
    WRAP,
    counted,
    folded,
    html_table,
    paragraph,
    safe,
    small_print,
    token_legend,
    tokens,
)
from helpers.views.html import MOST_TOKENS as MOST_IN_A_PART
from helpers.views.showing import in_notebook

# --- words to know, sources, the run's own scores ------------------------------------------------


WORDS = {
    "probability": "what a probe gives, calibrated: of 100 with 0.8, about 80 should be so.",
    "margin": "the same as log-odds, in nats: 0 is a probability of ½, 2.2 one of 0.9.",
    "distance": "how far the hidden state lies from the probe's boundary, in standard deviations.",
    "AUROC": "how often a positive one gets a higher score than a negative one: 0.5 is guessing, "
    "1 is perfect.",
    "95 % interval": "from resampling; what belongs together, and is alike, is resampled whole.",
    "risk–coverage": "keep the most certain first: coverage is the share kept, risk the share "
    "of these that are negative. The area under the curve (AURC) is the mean risk; lower is "
    "better.",
    "map (UMAP)": "hidden states laid out on a plane so that near ones stay near. Distances "
    "between groups and the axes mean nothing.",
}
"""What this page itself calls its numbers; the study's words are in its file."""


def introduction(run: OpenRun) -> Any:
    """What the study asks, as it says itself."""
    about = run.table.about
    return mo.Html(
        f'<h1 style="overflow-wrap:anywhere">{safe(about.title)}</h1>'
        + paragraph(about.introduction)
        + paragraph(
            f"This page shows stored {about.unit.many}, one point each, and what the probes said. "
            "Point, box or lasso in one figure: the same points light up in the others, and their "
            "texts stand below."
        )
    )


def glossary(run: OpenRun) -> Any:
    """The words of the page, folded."""
    lines = "".join(
        f'<dt style="font-weight:600">{safe(word)}</dt>'
        f'<dd style="margin:0 0 0.5rem">{safe(meaning)}</dd>'
        for word, meaning in {**run.table.about.words, **WORDS}.items()
    )
    return mo.Html(folded("Words on this page", f'<dl style="margin:0.6rem 0 0">{lines}</dl>'))


def provenance(run: OpenRun) -> Any:
    """Where the numbers come from: model, position, questions, runs, when."""
    about = run.table.about
    manifest = data.read_json(run.listed.folder / "manifest.json")
    config = manifest.get("config")
    sources = [
        f"{name} ({'out of' if kind == 'ood' else 'in'} distribution)"
        for name, kind in about.datasets.items()
    ]
    places = [f"{p.title} at {p.place}, layer {p.layer}" for p in about.predictors if p.place]
    thresholds = {}
    for label in (label for label in about.labels if label.number):
        number, above = about.number(label.number), label.threshold
        said = f"{number.title} above {above:.2f} {number.unit}" if above is not None else ""
        thresholds[label.event_word] = said or "no threshold"
    rows = {
        "run": run.listed.name,
        "model": about.model,
        "questions": ", ".join(sources),
        about.unit.many: run.listed.size,
        "hidden state": "; ".join(places) or None,
        **about.facts,
        **thresholds,
        "temperature": config.get("temperature") if isinstance(config, dict) else None,
        "written": when(run.listed.written),
    }
    cells = "".join(
        f'<div style="min-width:0;overflow-wrap:anywhere"><div style="{MUTED};font-size:0.8rem">'
        f"{safe(name)}</div>{safe(value)}</div>"
        for name, value in rows.items()
        if isinstance(value, str | int | float)
    )
    notes = "".join(small_print(note) for note in about.notes.values())
    missing = "".join(
        small_print(f"{predictor.title}: undefined, because {predictor.undefined}")
        for predictor in about.predictors
        if predictor.undefined
    )
    columns = "repeat(auto-fill,minmax(min(15rem,100%),1fr))"
    grid = f"display:grid;grid-template-columns:{columns};gap:0.6rem 1.5rem"
    return mo.Html(f'<div style="{grid};font-size:0.9rem">{cells}</div>{missing}{notes}')


def stored_scores(run: OpenRun, label: str) -> Any:
    """The run's own scores for a label, of all its rows; None where it has not stored them."""
    about = run.table.about
    scored, unit = about.label(label), about.unit.many
    metrics = {"auroc": f"AUROC for {scored.event_word}"}
    said = f"As the run has stored them, of all its {unit}, whatever the filters are."
    if about.group:
        metrics["within_question"] = f"among the {unit} of one {about.group.one}"
        said += (
            f" A probe that knows all of a {about.group.one}, and nothing of the "
            f"{about.unit.one}, has 0.5 in the second table."
        )
    splits, tables = {split.name: split.title for split in about.splits}, ""
    for metric, title in metrics.items():
        scores = data.stored_scores(run.listed.folder, about, scored, metric)
        rows = []
        for predictor in about.predictors:
            found = [of_split.get(predictor.name) for of_split in scores.values()]
            words = ("–" if f is None else f"{score_words(f)}, n = {f.n:,}" for f in found)
            rows.append((predictor.title, *words))
        tables += html_table((title, *(splits[name] for name in scores)), rows) if scores else ""
    return mo.Html(tables + small_print(said)) if tables else None


def print_summary(run: OpenRun) -> None:
    """As a script: the newest run in a few lines; nothing where someone looks at cells."""
    if in_notebook():
        return
    table, unit = run.table, run.table.about.unit
    kept = apply_filters(table, usual_filters(table))
    label = scorable_labels(table.about)[0]
    scores = selection_scores(run, kept.rows, label.name)
    truth = table.truth(label.name, kept.rows)
    truth = truth[np.isfinite(truth)]
    share = f"{100 * truth.mean():.0f} % of the graded ones {label.positive}" if len(truth) else ""
    print(f"Run {run.listed.name}: {table.about.model} on {', '.join(run.listed.datasets)}")
    print(f"  {run.listed.size}")
    splits = " and ".join(kept.filters.classes["split"])
    print(f"  {splits}: {unit.count(len(kept.rows))}, {share or 'ungraded'}")
    for found in scores.by_predictor.values():
        title = found.predictor.title
        print(f"  AUROC for {label.event_word}, {title:27} {score_words(found.auroc)}")


# --- the selected rows ---------------------------------------------------------------------------


ANCHOR = "details"
LONGEST_TEXT = 30_000  # characters of one text that are shown
MOST_TOKENS = 6000
"""Coloured tokens on one page, over all runs: an output of marimo has a largest size."""
NONE_CHOSEN = (
    "Nothing is selected. Click a point in one of the figures above, or draw a box or a lasso "
    "around some."
)


def details_view(run: OpenRun, kept: FilteredRows, chosen: tuple[int, ...]) -> str:
    """HTML of the selected rows that the filters leave, at most `MOST_CHOSEN` of them.

    Of more, the first in the table's order are shown, and that is said. Raises `UserError` where
    the file cannot be read any more.
    """
    rows = chosen_rows(kept, chosen).tolist()
    about = run.table.about
    said = _counts(about, len(chosen), len(rows)) if len(kept.rows) else NOTHING_LEFT
    if not rows:
        return paragraph(said)
    shown = rows[:MOST_CHOSEN]
    left = MOST_TOKENS
    cards = []
    for found in read_details(run.path, shown):
        coloured, used = _tokens(about, found, left)
        left -= used
        cards.append(_card(run.table, found, coloured))
    legend = token_legend(lambda ids: [], "") if left < MOST_TOKENS else ""
    return paragraph(said) + legend + "".join(cards)


def _counts(about: About, chosen: int, left: int) -> str:
    """How many rows are selected, hidden and shown."""
    if not chosen:
        return NONE_CHOSEN
    words = f"{about.unit.count(chosen)} selected"
    if left < chosen:
        words += f", {chosen - left:,} of them hidden by the filters"
    if left > MOST_CHOSEN:
        words += f"; the first {MOST_CHOSEN} in the order of the file are shown"
    return words + "."


def _card(table: AnalysisTable, found: UnitDetails, coloured: str) -> str:
    """One row: its texts and labels, and what every predictor said of it."""
    row, about = found.row, table.about
    (group_id,) = table.words("group_id", [row])
    (dataset,), (split,) = table.words("dataset", [row]), table.words("split", [row])
    number = f" · {about.unit.one} {int(table['unit_id'][row])}" if about.group else ""
    title = f"{group_id}{number}"
    rows = [(t.title, _shown_text(t, found.texts[t.name])) for t in about.texts if t.kind == "text"]
    for label in about.labels:
        (said,) = table.words(label.column, [row])
        rows.append((label.title, f"<strong>{safe(said or label.unknown)}</strong>"))
    body = "".join(
        f'<div style="{MUTED}">{safe(name)}</div><div style="min-width:0">{value}</div>'
        for name, value in rows
    )
    grid = "display:grid;grid-template-columns:6.5rem minmax(0,1fr);gap:0.3rem 0.8rem"
    return (
        f'<section style="border-top:{LINE};padding:0.9rem 0" aria-label="{safe(title)}">'
        f'<div style="font-weight:600;overflow-wrap:anywhere">{safe(title)}'
        f'<span style="{MUTED};font-weight:400"> · {safe(dataset)}, {safe(split)}</span></div>'
        f'<div style="{grid};margin-top:0.4rem">{body}</div>'
        f"{_numbers(table, row)}{_said_of(table, row)}{coloured}</section>"
    )


def _shown_text(text: Text, found: str | None) -> str:
    """One text of a row, folded where it may be long."""
    if text.missing and not (found or "").strip():
        return safe(text.missing)
    if not text.folded:
        return _text(found or "")
    shown = (found or "").strip()
    return folded(f"{counted(len(shown), 'character')} of {text.title}", _text(shown))


def _text(text: str) -> str:
    """A text as it is, its end left out where it is very long."""
    if len(text) > LONGEST_TEXT:
        text = f"{text[:LONGEST_TEXT]}… ({len(text):,} characters in all)"
    return f'<div style="{WRAP}">{safe(text) or "(empty)"}</div>'


def _numbers(table: AnalysisTable, row: int) -> str:
    """What was measured of a row without a probe."""
    parts = []
    for number in table.about.numbers:
        value = table[f"number_{number.name}"][row]
        unit = "" if number.is_share else number.unit
        said = f"{int(value):,} {unit}".rstrip() if number.whole else _number(value, unit)
        parts.append(f"{number.title} {said}")
    return small_print("; ".join(parts))


def _said_of(table: AnalysisTable, row: int) -> str:
    """What each predictor says of a row, and what its number means."""
    heads = ("probe", "probability", "margin (nats)", "distance (sd)", "what the probability is")
    rows = []
    for predictor in table.about.predictors:
        meaning = f"calibrated probability of {table.about.event(predictor)}"
        if predictor.undefined:
            meaning = f"undefined, because {predictor.undefined}"
        values = (_number(table[f"{part}_{predictor.name}"][row]) for part in PROBE_PARTS)
        rows.append((predictor.title, *values, meaning))
    return html_table(heads, rows)


def _number(value: float, unit: str = "") -> str:
    if not np.isfinite(value):
        return "unknown"
    return f"{value:.2f} {unit}".rstrip()


def _tokens(about: About, found: UnitDetails, left: int) -> tuple[str, int]:
    """The row's tokens on a tint of their entropy, and how many of them are shown."""
    unit = about.unit.one
    titles = {text.name: text.title for text in about.texts if text.kind == "tokens"}
    parts = {titles[name]: part for name, part in found.tokens.items() if part.texts}
    if not titles:
        return "", 0
    if not parts or any(len(part.entropies) != len(part.texts) for part in parts.values()):
        return small_print(f"The entropies of this {unit}'s tokens are not known."), 0
    if not all(np.isfinite(part.entropies).all() for part in parts.values()):
        return small_print(f"Some entropies of this {unit}'s tokens are not numbers."), 0
    shown = sum(min(len(part.texts), MOST_IN_A_PART) for part in parts.values())
    if shown > left:
        return small_print("Its tokens are left out: the page would be too long."), 0
    views = []
    for title, part in parts.items():

        def texts_of(places: Sequence[int], texts: Sequence[str] = part.texts) -> list[str]:
            return [texts[place] for place in places]

        said = part.entropies.tolist()
        views.append(tokens(title, range(len(part.texts)), said, texts_of))
    return folded("Entropy of each token", "".join(views)), shown


NO_RUN = (
    "There is no run to show yet: none of the run folders has an analysis.parquet. The README says "
    "which runs write one."
)
CONFIG = {
    "displayModeBar": True,
    "displaylogo": False,
    "modeBarButtonsToRemove": ["toImage", "zoomIn2d", "zoomOut2d", "autoScale2d"],
}
"""Of Plotly: the buttons for box and lasso are there before anyone points at the figure."""


def params() -> dict[str, Any]:
    """What the page's address asks for, as marimo gives it: untrusted."""
    return dict(mo.query_params().to_dict())


def opened(listed: Sequence[Listed], name: str | None) -> OpenRun:
    """The chosen run; where there is none, or it cannot be read, the page says so and stops."""
    run = next((run for run in listed if run.name == name and not run.damaged), None)
    problem = NO_RUN
    if run is not None:
        try:
            return data.open_run(run)
        except UserError as error:
            problem = str(error).replace(str(run.folder), run.name)
    if not in_notebook():
        print(problem)
    mo.stop(True, mo.Html(paragraph(problem)))
    raise AssertionError("mo.stop stops")


def damaged_runs(listed: Sequence[Listed]) -> Any:
    """Which folders cannot be shown, and why; None where all can."""
    lines = [f"<li>{safe(run.name)}: {safe(run.damaged)}</li>" for run in listed if run.damaged]
    if not lines:
        return None
    title = f"{len(lines)} run folder{'s' if len(lines) > 1 else ''} cannot be shown"
    return mo.Html(folded(title, f'<ul style="overflow-wrap:anywhere">{"".join(lines)}</ul>'))


def asked_view(asked: Mapping[str, Any], listed: Sequence[Listed], run: OpenRun) -> Asked:
    """What the address asks for of this run; of another run than it names, nothing."""
    if run.listed.name != filters.first_run(asked, listed).name:
        return Asked(filters.usual_view(run.table))
    return filters.asked_view(asked, run.table)


def ignored(params: Mapping[str, Any], listed: Sequence[Listed], asked: Asked) -> Any:
    """A line where a part of the address was not used; None where all of it was."""
    words = filters.ignored_words(asked, filters.first_run(params, listed).in_vain)
    return mo.Html(f'<div role="note">{small_print(words)}</div>') if words else None


def selection(asked: Asked) -> Any:
    """The state `(get, set)` of the rows that are selected; at first those of the address."""
    # The figure in which something was selected is drawn again too, so that all look alike.
    return mo.state(asked.view.chosen, allow_self_loops=True)


def linked(drawn: Drawn, select: Callable[[tuple[int, ...]], None]) -> Any:
    """A figure in which a click, a box or a lasso selects runs for all figures."""

    def on_change(points: Any) -> None:
        rows = rows_of_points(drawn.figure, points)
        # A figure that is drawn again reports an empty selection, which nobody has made.
        if rows:
            select(rows)

    return mo.ui.plotly(drawn.figure, config=CONFIG, on_change=on_change)


def with_words(drawn: Drawn, element: Any = None, selected: str = "") -> Any:
    """A figure with its text alternative below, and a way to the details of what is selected.

    `selected` says how many that are, in words; "" for none.
    """
    words = safe(drawn.words)
    if selected:
        # marimo makes a component of its own of such a link, and it takes no style.
        words += (
            f' <span style="text-decoration:underline"><a href="#{ANCHOR}">'
            f"{safe(selected)} selected</a></span>: see below."
        )
    below = f'<p style="{SMALL};margin:0.2rem 0 0">{words}</p>'
    return mo.vstack([drawn.figure if element is None else element, mo.Html(below)], gap=0.2)


def selected_words(run: OpenRun, chosen: tuple[int, ...]) -> str:
    """How many rows are selected, in words; "" for none."""
    return run.table.about.unit.count(len(chosen)) if chosen else ""


def clear_button(select: Callable[[tuple[int, ...]], None]) -> Any:
    """A button that selects nothing."""
    return mo.ui.button(label="Clear the selection", on_change=lambda _: select(()))


def chosen_details(run: OpenRun, kept: FilteredRows, chosen: tuple[int, ...]) -> Any:
    """The details of the selected runs, where the figures' links lead."""
    try:
        body = details_view(run, kept, chosen)
    except UserError as problem:
        body = paragraph(str(problem).replace(str(run.listed.folder), run.listed.name))
    return mo.Html(f'<div id="{ANCHOR}">{body}</div>')


def view_link(run: OpenRun, view: View, clear: Any) -> Any:
    """A link that shows this view to someone else, beside the button that clears the selection."""
    address = filters.link(run.listed.name, view, run.table)
    remembers = "run, filters, choices"
    if view.chosen:
        first = min(len(view.chosen), filters.MOST_CHOSEN)
        remembers += f" and {'the first ' if first < len(view.chosen) else ''}{first} selected"
    line = (
        f'<p style="margin:0"><a href="{safe(address)}" target="_blank" rel="noopener" '
        f'style="text-decoration:underline">Link to this view</a> '
        f'<span style="{SMALL}">({remembers})</span></p>'
    )
    return mo.hstack([mo.Html(line), clear] if view.chosen else [mo.Html(line)], wrap=True)


def caution_box(run: OpenRun, kept: FilteredRows, label: str) -> Any:
    """What a reader must know of scores under these filters; None where there is nothing."""
    found = cautions(run.table, kept, label) if len(kept.rows) else []
    if not found:
        return None
    lines = "".join(f"<li>{safe(sentence)}</li>" for sentence in found)
    return mo.Html(
        f'<div role="note" style="border-left:3px solid #E69F00;padding:0.2rem 0 0.2rem 0.9rem">'
        f'<strong>Mind</strong><ul style="margin:0.2rem 0 0;padding-left:1.1rem">{lines}</ul></div>'
    )


# --- controls ------------------------------------------------------------------------------------


def run_choice(listed: Sequence[Listed], params: Params) -> Any:
    """A dropdown of the runs that can be shown; at first the one that the address asks for."""
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
    return f"{run.name} · {run.model} · {', '.join(run.datasets)} · {run.size}"


def filter_elements(table: AnalysisTable, view: View) -> Any:
    """An element for each filter, set as the view has it; their values by name."""
    about = table.about
    titles = {label.column: label.title for label in about.labels}
    elements: dict[str, Any] = {}
    for column in class_columns(about):
        elements[column] = mo.ui.multiselect(
            class_names(table, column),
            value=view.filters.classes[column],
            label=_as_label(titles.get(column, column.capitalize())),
            full_width=True,
        )
    if about.representative and about.group:
        elements["representative"] = mo.ui.checkbox(
            view.filters.representative,
            label=_as_label(f"one a {about.group.one}: {about.representative}"),
        )
    if about.length:
        low, high = length_range(table)
        elements["length"] = mo.ui.range_slider(
            low, max(high, low + 1), 1, view.filters.length or (low, max(high, low + 1)),
            debounce=True, show_value=True, full_width=True,
            label=_as_label(about.number(about.length).titled),
        )  # fmt: skip
    for name in known_predictors(table):
        predictor = about.predictor(name)
        elements[RANGE_PREFIX + name] = mo.ui.range_slider(
            0.0, 1.0, 0.01, view.filters.probabilities.get(name, (0.0, 1.0)), debounce=True,
            show_value=True, full_width=True,
            label=_as_label(f"{predictor.title}: probability of {about.event(predictor)}"),
        )  # fmt: skip
    elements["points"] = mo.ui.dropdown(
        {f"{points:,}": points for points in POINTS},
        value=f"{view.filters.points:,}",
        allow_select_none=False,
        label="Points in a figure, at most",
        full_width=True,
    )
    return mo.ui.dictionary(elements)


def _as_label(text: str) -> str:
    """A file's text as an element's label, which marimo takes for Markdown."""
    return re.sub(r"[^a-zA-Z0-9 ]", lambda found: f"&#{ord(found[0])};", text[:120])


def chosen_filters(elements: Any, table: AnalysisTable) -> Filters:
    """The filters that the elements ask for."""
    values: Mapping[str, Any] = elements.value
    least, most = length_range(table)
    low, high = (int(end) for end in values.get("length", (least, most)))
    ranges = {name: _ends(values[RANGE_PREFIX + name]) for name in known_predictors(table)}
    return Filters(
        # In the table's order, whatever the order in which they were clicked.
        classes={
            column: tuple(n for n in class_names(table, column) if n in values[column])
            for column in class_columns(table.about)
        },
        representative=values.get("representative", False),
        length=None if low <= least and high >= most else (low, high),
        probabilities={n: ends for n, ends in ranges.items() if ends != (0.0, 1.0)},
        points=values["points"],
    )


def _ends(value: Sequence[float]) -> tuple[float, float]:
    low, high = (round(float(end), 2) for end in value)
    return low, high


def filter_panel(elements: Any, kept: FilteredRows, table: AnalysisTable) -> Any:
    """The filters, each with what it and those before it leave."""
    about = table.about
    total = f"Nothing is left of {about.unit.count(len(table))}."
    if len(kept.rows):
        graded = np.isfinite(table.truth(scorable_labels(about)[0].name, kept.rows)).sum()
        total = (
            f"{about.size(len(kept.rows), kept.groups)} {'is' if len(kept.rows) == 1 else 'are'} "
            f"left of {about.unit.count(len(table))}; {graded:,} of them are graded."
        )
    names = [name for name in kept.steps if name in elements]
    ranges = [name for name in (RANGE_PREFIX + p for p in known_predictors(table)) if name in names]
    grid = "display:grid;grid-template-columns:repeat(auto-fill,minmax(min(17rem,100%),1fr));"
    grid += "gap:1.1rem 2rem;align-items:start"
    cells = [_filter_cell(about, elements, n, kept) for n in names if n not in ranges]
    cells.append(_cell(elements["points"].text, "scores are always of all that are left"))
    more = "".join(_filter_cell(about, elements, name, kept) for name in ranges)
    opened = " open" if kept.filters.probabilities else ""
    folded_ranges = (
        f'<details style="margin-top:1.1rem"{opened}><summary style="cursor:pointer">Ranges of the '
        f'probes’ probabilities</summary><div style="{grid};margin-top:0.8rem">{more}</div>'
        "</details>"
    )
    return mo.Html(
        f'<div style="{grid}">{"".join(cells)}</div>{folded_ranges if ranges else ""}'
        '<p role="status" style="margin:1.1rem 0 0;font-weight:600">'
        f"{safe(total)}</p>"
    )


def _filter_cell(about: About, elements: Any, name: str, kept: FilteredRows) -> str:
    left = kept.steps[name]
    return _cell(elements[name].text, f"leaves {about.size(left.units, left.groups)}")


def _cell(element: str, below: str) -> str:
    return (
        f'<div style="min-width:0">{element}'
        f'<div style="{MUTED};font-size:0.8rem;margin-top:0.2rem">{safe(below)}</div></div>'
    )


def label_choice(about: About, view: View) -> Any:
    """A dropdown of the labels that can be scored."""
    return _dropdown({x.name: x.title for x in scorable_labels(about)}, view.label, "Tell apart")


def probe_choice(about: About, view: View) -> Any:
    """A dropdown of the predictors whose margin the first figure can show."""
    return _dropdown({p.name: p.title for p in about.predictors}, view.probe, "Margin of")


def colour_choice(about: About, view: View) -> Any:
    """A dropdown of the signals that the map can be coloured by."""
    titles = {signal.column: signal.title for signal in signals(about).values()}
    return _dropdown(titles, view.colour, "Colour by")


def _dropdown(titles: Mapping[str, str], value: str, label: str) -> Any:
    """A choice among names, shown by their titles; of equal titles, each with its name."""
    several = list(titles.values())
    words = {n: t if several.count(t) == 1 else f"{t} ({n})" for n, t in titles.items()}
    options = {word: name for name, word in words.items()}
    return mo.ui.dropdown(
        options, value=words[value], allow_select_none=False, label=label, full_width=False
    )
