"""What the cells of the dashboard call: opening, choosing, selecting, showing.

Text that came from a file or an address is escaped here or where the view was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from helpers.analysis_table.file import COLUMNS, AnalysisTable, RunDetails, read_details
from helpers.dashboard import address as addresses
from helpers.dashboard import data
from helpers.dashboard.address import CLASSES, MOST_CHOSEN, Asked, Params, View, first_run
from helpers.dashboard.data import Listed, OpenRun
from helpers.dashboard.figures import Drawn, rows_of_points
from helpers.dashboard.filters import (
    NOTHING_LEFT,
    POINTS,
    SIGNALS,
    TITLES,
    UNGRADED,
    FilteredRuns,
    Filters,
    apply_filters,
    cautions,
    chosen_rows,
    class_names,
    known_predictors,
    length_range,
    range_words,
    usual_filters,
)
from helpers.dashboard.scores import counted_questions, counted_runs, score_words, selection_scores
from helpers.errors import UserError
from helpers.evaluation.scores import Score
from helpers.studies.reasoning.records import PREDICTORS
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
)
from helpers.views.showing import in_notebook

# --- words to know, sources, the run's own scores ------------------------------------------------


WORDS = {
    "run": "one time that the model was asked a question: its thinking and its answer.",
    "semantic entropy": "how much a question's runs differ in what they mean, in nats: 0 when all "
    "answers mean the same, ln 10 = 2.30 when ten answers mean ten different things. It is a "
    "number of the question, the same for all its runs.",
    "threshold": "above it a semantic entropy is called high; the best split of the training "
    "questions.",
    "probe": "a linear model that reads one hidden state of the run, at the end of its thinking, "
    "and knows nothing else of it.",
    "thinking-entropy baseline": "sees one number instead: the mean entropy of the thinking's "
    "tokens. A probe that is not better has found nothing new.",
    "combination of the three": "a small model over what the three others say.",
    "probability": "what a probe gives, calibrated: of 100 runs with 0.8, about 80 should be "
    "correct.",
    "margin": "the same as log-odds, in nats: 0 is a probability of ½, 2.2 one of 0.9.",
    "distance": "how far the hidden state lies from the probe's boundary, in standard deviations.",
    "train, validation, test, ood": "probes are fitted on train and chosen on validation; test and "
    "ood (other questions than those trained on, out of distribution) are seen by no choice.",
    "representative run": "the first run with the answer that the question's runs give most often.",
    "AUROC": "how often a correct run gets a higher score than a wrong one: 0.5 is guessing, 1 is "
    "perfect.",
    "95 % interval": "from resampling whole questions, because runs of one question are alike.",
    "risk–coverage": "keep the most certain runs first: coverage is the share kept, risk the share "
    "of these that are wrong. The area under the curve (AURC) is the mean risk; lower is better.",
    "map (UMAP)": "hidden states laid out on a plane so that near ones stay near. Distances "
    "between groups and the axes mean nothing.",
}


def glossary() -> Any:
    """The words of the page, folded."""
    import marimo as mo

    lines = "".join(
        f'<dt style="font-weight:600">{safe(word)}</dt>'
        f'<dd style="margin:0 0 0.5rem">{safe(meaning)}</dd>'
        for word, meaning in WORDS.items()
    )
    return mo.Html(folded("Words on this page", f'<dl style="margin:0.6rem 0 0">{lines}</dl>'))


def provenance(run: OpenRun) -> Any:
    """Where the numbers come from: model, position, questions, runs, when."""
    import marimo as mo

    from helpers.formatting import when

    table, about = run.table, run.table.about
    manifest = data.read_json(run.listed.folder / "manifest.json")
    config = manifest.get("config")
    runs = f"{counted_runs(len(table))} of {counted_questions(run.listed.questions)}"
    sources = [f"{name} ({_distribution(kind)})" for name, kind in about.datasets.items()]
    reading = {"final-answer": "final answers", "answer": "whole answers"}
    rows = {
        "run": run.listed.name,
        "model": about.model,
        "questions": ", ".join(sources),
        "runs": runs,
        "hidden state": f"at {about.position}" + _layers(about.layers),
        "semantic entropy": f"of {reading.get(about.entropy_of, about.entropy_of)}; "
        + ("no threshold" if about.threshold is None else f"high above {about.threshold:.2f} nats"),
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
        small_print(f"{TITLES.get(name, name)}: undefined, because {reason}")
        for name, reason in about.undefined.items()
    )
    columns = "repeat(auto-fill,minmax(min(15rem,100%),1fr))"
    grid = f"display:grid;grid-template-columns:{columns};gap:0.6rem 1.5rem"
    return mo.Html(f'<div style="{grid};font-size:0.9rem">{cells}</div>{missing}{notes}')


def _distribution(kind: str) -> str:
    return "out of distribution" if kind == "ood" else "in distribution"


def _layers(layers: Mapping[str, int]) -> str:
    """The layers that the probes read, in words."""
    parts = [f"{TITLES[name]} at layer {layers[name]}" for name in PREDICTORS if name in layers]
    return f"; {', '.join(parts)}" if parts else ""


STORED_METRICS = {
    "auroc": "AUROC for correct",
    "within_question": "among the runs of one question",
}
"""Metric of `metrics.json` to the title of its table."""


def stored_scores(run: OpenRun) -> Any:
    """The run's own scores for *correct*, of all its runs; None where it has not stored them."""
    import marimo as mo

    tables = "".join(
        _score_table(title, data.stored_scores(run.listed.folder, metric))
        for metric, title in STORED_METRICS.items()
    )
    if not tables:
        return None
    return mo.Html(
        tables
        + small_print(
            "As the run has stored them, of all its runs, whatever the filters are. A probe that "
            "knows how hard a question is, and nothing of the run, has 0.5 in the second table."
        )
    )


def _score_table(title: str, scores: Mapping[str, Mapping[str, Score]]) -> str:
    """Scores by split and predictor, as HTML; "" where there are none."""
    if not scores:
        return ""
    heads = (title, *map(_split, scores))
    rows = [
        (TITLES[name], *(_stored(scores[split].get(name)) for split in scores))
        for name in PREDICTORS
    ]
    return html_table(heads, rows)


def _split(name: str) -> str:
    return "out of distribution" if name == "ood" else name


def _stored(score: Score | None) -> str:
    return "–" if score is None else f"{score_words(score)}, n = {score.n:,}"


def print_summary(run: OpenRun) -> None:
    """As a script: the newest run in a few lines; nothing where someone looks at cells."""
    if in_notebook():
        return
    table = run.table
    kept = apply_filters(table, usual_filters(table))
    scores = selection_scores(run, kept.rows)
    correct = table["correct"][kept.rows]
    correct = correct[np.isfinite(correct)]
    print(f"Run {run.listed.name}: {table.about.model} on {', '.join(run.listed.datasets)}")
    print(f"  {counted_runs(len(table))} of {counted_questions(run.listed.questions)}")
    print(f"  {' and '.join(kept.filters.splits)}: {counted_runs(len(kept.rows))}, ", end="")
    print(
        f"{100 * correct.mean():.0f} % of the graded ones correct" if len(correct) else "ungraded"
    )
    for name, found in scores.by_predictor.items():
        print(f"  AUROC for correct, {TITLES[name]:27} {score_words(found.auroc)}")


# --- the selected runs ---------------------------------------------------------------------------


ANCHOR = "details"
LONGEST_TEXT = 30_000
"""Characters of one text that are shown."""
MOST_TOKENS = 6000
"""Coloured tokens on one page, over all runs: an output of marimo has a largest size."""
NONE_CHOSEN = (
    "No run is selected. Click a point in one of the figures above, or draw a box or a lasso "
    "around some."
)
_ABOUT = {column.name: column.about for column in COLUMNS}


def details_view(run: OpenRun, kept: FilteredRuns, chosen: tuple[int, ...]) -> str:
    """HTML of the selected runs that the filters leave, at most `MOST_CHOSEN` of them.

    Of more, the first in the table's order are shown, and that is said. Raises `UserError` where
    the file cannot be read any more.
    """
    rows = chosen_rows(kept, chosen).tolist()
    said = _counts(len(chosen), len(rows)) if len(kept.rows) else NOTHING_LEFT
    if not rows:
        return paragraph(said)
    shown = rows[:MOST_CHOSEN]
    left = MOST_TOKENS
    cards = []
    for found in read_details(run.path, shown):
        tokens, used = _tokens(found, left)
        left -= used
        cards.append(_card(run.table, found, tokens))
    return paragraph(said) + _legend(cards) + "".join(cards)


def _counts(chosen: int, left: int) -> str:
    """How many runs are selected, hidden and shown."""
    if not chosen:
        return NONE_CHOSEN
    words = f"{counted_runs(chosen)} selected"
    if left < chosen:
        words += f", {chosen - left:,} of them hidden by the filters"
    if left > MOST_CHOSEN:
        words += f"; the first {MOST_CHOSEN} in the order of the file are shown"
    return words + "."


def _card(table: AnalysisTable, found: RunDetails, tokens: str) -> str:
    """One run: what was asked, thought and answered, and what every probe said of it."""
    row = found.row
    (question_id,), (status,) = table.words("question_id", [row]), table.words("status", [row])
    (dataset,), (split,) = table.words("dataset", [row]), table.words("split", [row])
    final = "states no answer" if found.final_answer is None else _cut(found.final_answer, 200)
    title = f"{question_id} · run {int(table['run_id'][row])}"
    rows = [
        ("question", _text(found.question)),
        ("thinking", _folded_text(found.thinking, int(table["thinking_tokens"][row]))),
        ("answer", _text(found.answer)),
        ("final answer", f'<span style="{WRAP}">{safe(final)}</span>'),
        ("reference", _text(found.reference) if found.reference else "none is known"),
        ("correct?", f"<strong>{safe(status or UNGRADED)}</strong>"),
    ]
    body = "".join(
        f'<div style="{MUTED}">{name}</div><div style="min-width:0">{value}</div>'
        for name, value in rows
    )
    grid = "display:grid;grid-template-columns:6.5rem minmax(0,1fr);gap:0.3rem 0.8rem"
    return (
        f'<section style="border-top:{LINE};padding:0.9rem 0" aria-label="{safe(title)}">'
        f'<div style="font-weight:600;overflow-wrap:anywhere">{safe(title)}'
        f'<span style="{MUTED};font-weight:400"> · {safe(dataset)}, {safe(split)}</span></div>'
        f'<div style="{grid};margin-top:0.4rem">{body}</div>'
        f"{_signals(table, row)}{_scores(table, row)}{tokens}</section>"
    )


def _text(text: str) -> str:
    """A text as it is, its end left out where it is very long."""
    return f'<div style="{WRAP}">{safe(_cut(text, LONGEST_TEXT)) or "(empty)"}</div>'


def _folded_text(text: str, tokens: int) -> str:
    if not text.strip():
        return "none, or it was never closed"
    return folded(f"{counted(tokens, 'token')} of thinking", _text(text.strip()))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}… ({len(text):,} characters in all)"


def _signals(table: AnalysisTable, row: int) -> str:
    """The numbers of the run that no probe gives."""
    threshold, high = table.about.threshold, table["high_semantic_entropy"][row]
    entropy = _number(table["semantic_entropy"][row], "nats")
    if threshold is not None and np.isfinite(high):
        entropy += f" ({'high: above' if high else 'not high: at most'} {threshold:.2f})"
    parts = [
        f"semantic entropy of the question {entropy}",
        f"mean token entropy of the thinking {_number(table['thinking_entropy'][row], 'nats')}",
        f"agreement of the question's other runs {_number(table['agreement'][row])}",
    ]
    return small_print("; ".join(parts))


def _scores(table: AnalysisTable, row: int) -> str:
    """What each probe says of the run, and what its number means."""
    heads = ("probe", "probability", "margin (nats)", "distance (sd)", "what the probability is")
    rows = []
    for name in PREDICTORS:
        meaning = _ABOUT[f"probability_{name}"]
        if name in table.about.undefined:
            meaning = f"undefined, because {table.about.undefined[name]}"
        cells = (
            TITLES[name],
            _number(table[f"probability_{name}"][row]),
            _number(table[f"margin_{name}"][row]),
            _number(table[f"projection_{name}"][row]),
            meaning,
        )
        rows.append(cells)
    return html_table(heads, rows)


def _number(value: float, unit: str = "") -> str:
    if not np.isfinite(value):
        return "unknown"
    return f"{value:.2f} {unit}".rstrip()


def _legend(cards: Sequence[str]) -> str:
    """What the colours of tokens mean, where any are coloured."""
    if not any("<span title=" in card for card in cards):
        return ""
    from helpers.views.html import token_legend

    return token_legend(lambda ids: [], "")


def _tokens(found: RunDetails, left: int) -> tuple[str, int]:
    """The run's tokens on a tint of their entropy, and how many of them are shown."""
    from helpers.views.html import MOST_TOKENS as MOST_IN_A_PART
    from helpers.views.html import tokens

    texts, entropies = found.token_texts, found.token_entropies
    if not texts or len(entropies) != len(texts):
        return small_print("The entropies of this run's tokens are not known."), 0
    if not np.isfinite(entropies).all():
        return small_print("Some entropies of this run's tokens are not numbers."), 0
    start, end = found.thinking_span or (0, 0)
    spans = {"Thinking": (start, end), "Answer": (end, len(texts))}
    spans = {name: span for name, span in spans.items() if span[0] < span[1]}
    shown = sum(min(last - first, MOST_IN_A_PART) for first, last in spans.values())
    if shown > left:
        return small_print("Its tokens are left out: the page would be too long."), 0
    parts = []
    for name, (first, last) in spans.items():
        said = entropies[first:last].tolist()
        parts.append(
            tokens(name, range(first, last), said, lambda places: [texts[at] for at in places])
        )
    return folded("Entropy of each token", "".join(parts)), shown


NO_RUN = (
    "There is no run to show yet: none of the run folders has an analysis.parquet. A run of the "
    "study of reasoning models writes one; see the README."
)
CONFIG = {
    "displayModeBar": True,
    "displaylogo": False,
    "modeBarButtonsToRemove": ["toImage", "zoomIn2d", "zoomOut2d", "autoScale2d"],
}
"""Of Plotly: the buttons for box and lasso are there before anyone points at the figure."""


def params() -> dict[str, Any]:
    """What the page's address asks for, as marimo gives it: untrusted."""
    import marimo as mo

    return dict(mo.query_params().to_dict())


def opened(listed: Sequence[Listed], name: str | None) -> OpenRun:
    """The chosen run; where there is none, or it cannot be read, the page says so and stops."""
    import marimo as mo

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
    import marimo as mo

    lines = [f"<li>{safe(run.name)}: {safe(run.damaged)}</li>" for run in listed if run.damaged]
    if not lines:
        return None
    title = f"{len(lines)} run folder{'s' if len(lines) > 1 else ''} cannot be shown"
    return mo.Html(folded(title, f'<ul style="overflow-wrap:anywhere">{"".join(lines)}</ul>'))


def asked_view(asked: Mapping[str, Any], listed: Sequence[Listed], run: OpenRun) -> Asked:
    """What the address asks for of this run; of another run than it names, nothing."""
    if run.listed.name != addresses.first_run(asked, listed).name:
        return Asked(addresses.usual_view(run.table))
    return addresses.asked_view(asked, run.table)


def ignored(params: Mapping[str, Any], listed: Sequence[Listed], asked: Asked) -> Any:
    """A line where a part of the address was not used; None where all of it was."""
    import marimo as mo

    words = addresses.ignored_words(asked, addresses.first_run(params, listed).in_vain)
    return mo.Html(f'<div role="note">{small_print(words)}</div>') if words else None


def selection(asked: Asked) -> Any:
    """The state `(get, set)` of the rows that are selected; at first those of the address."""
    import marimo as mo

    # The figure in which something was selected is drawn again too, so that all look alike.
    return mo.state(asked.view.chosen, allow_self_loops=True)


def linked(drawn: Drawn, select: Callable[[tuple[int, ...]], None]) -> Any:
    """A figure in which a click, a box or a lasso selects runs for all figures."""
    import marimo as mo

    def on_change(points: Any) -> None:
        rows = rows_of_points(drawn.figure, points)
        # A figure that is drawn again reports an empty selection, which nobody has made.
        if rows:
            select(rows)

    return mo.ui.plotly(drawn.figure, config=CONFIG, on_change=on_change)


def with_words(drawn: Drawn, element: Any = None, selected: int = 0) -> Any:
    """A figure with its text alternative below, and a way to the details of what is selected."""
    import marimo as mo

    words = safe(drawn.words)
    if selected:
        # marimo makes a component of its own of such a link, and it takes no style.
        words += (
            f' <span style="text-decoration:underline"><a href="#{ANCHOR}">'
            f"{safe(counted_runs(selected))} selected</a></span>: see below."
        )
    below = f'<p style="{SMALL};margin:0.2rem 0 0">{words}</p>'
    return mo.vstack([drawn.figure if element is None else element, mo.Html(below)], gap=0.2)


def clear_button(select: Callable[[tuple[int, ...]], None]) -> Any:
    """A button that selects nothing."""
    import marimo as mo

    return mo.ui.button(label="Clear the selection", on_change=lambda _: select(()))


def chosen_details(run: OpenRun, kept: FilteredRuns, chosen: tuple[int, ...]) -> Any:
    """The details of the selected runs, where the figures' links lead."""
    import marimo as mo

    try:
        body = details_view(run, kept, chosen)
    except UserError as problem:
        body = paragraph(str(problem).replace(str(run.listed.folder), run.listed.name))
    return mo.Html(f'<div id="{ANCHOR}">{body}</div>')


def view_link(run: OpenRun, view: View, clear: Any) -> Any:
    """A link that shows this view to someone else, beside the button that clears the selection."""
    import marimo as mo

    address = addresses.link(run.listed.name, view, run.table)
    remembers = "run, filters, choices"
    if view.chosen:
        first = min(len(view.chosen), addresses.MOST_CHOSEN)
        remembers += f" and {'the first ' if first < len(view.chosen) else ''}{first} selected"
    line = (
        f'<p style="margin:0"><a href="{safe(address)}" target="_blank" rel="noopener" '
        f'style="text-decoration:underline">Link to this view</a> '
        f'<span style="{SMALL}">({remembers})</span></p>'
    )
    return mo.hstack([mo.Html(line), clear] if view.chosen else [mo.Html(line)], wrap=True)


def caution_box(run: OpenRun, kept: FilteredRuns) -> Any:
    """What a reader must know of scores under these filters; None where there is nothing."""
    import marimo as mo

    found = cautions(run.table, kept) if len(kept.rows) else []
    if not found:
        return None
    lines = "".join(f"<li>{safe(sentence)}</li>" for sentence in found)
    return mo.Html(
        f'<div role="note" style="border-left:3px solid #E69F00;padding:0.2rem 0 0.2rem 0.9rem">'
        f'<strong>Mind</strong><ul style="margin:0.2rem 0 0;padding-left:1.1rem">{lines}</ul></div>'
    )


# --- controls ------------------------------------------------------------------------------------


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


def filter_panel(elements: Any, kept: FilteredRuns, table: AnalysisTable) -> Any:
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


def _filter_cell(elements: Any, name: str, kept: FilteredRuns) -> str:
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


def _total(kept: FilteredRuns, table: AnalysisTable) -> str:
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
