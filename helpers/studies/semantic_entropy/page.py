"""What the notebook shows of an open run: what can be chosen in each section, and its views.

The results behind them are remembered as long as the run is, so that two views of one choice
compute it once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.store.run_folder import run_label
from helpers.studies.registry import runs_of, study_of
from helpers.studies.semantic_entropy import asking, asking_views, compare, explore, what_if_views
from helpers.studies.semantic_entropy.asking import Reading
from helpers.studies.semantic_entropy.open_run import open_run
from helpers.studies.semantic_entropy.records import Run
from helpers.studies.semantic_entropy.views import browser_rows
from helpers.studies.semantic_entropy.what_if import (
    LINKAGES,
    READ_ENTAILMENT,
    RULES,
    WhatIf,
    as_stored,
    possible,
    regroup,
)
from helpers.studies.semantic_entropy.what_if_views import TARGETS, chosen_place
from helpers.views.html import paragraph
from helpers.views.showing import in_notebook, in_report, problems_explained, read_only, show

MOST_TEMPERATURES = 12
"""Runs that stand beside each other, at most."""


def what_if_page(run: Run, options: WhatIf, bins: int) -> list[Any]:
    """What follows from other choices of grouping: scores, entropies, budget, changed questions."""
    found = regroup(run, options)
    return [
        what_if_views.summary_table(found, run),
        what_if_views.histogram(found, run, bins),
        what_if_views.budget(found, run),
        what_if_views.examples(found, run),
    ]


def place_page(run: Run, target: str, position: str, layer: int, bins: int) -> list[Any]:
    """A probe refitted at a place of one's own, and its reliability if it is a classifier."""
    found = what_if_views.probe_at(run, run.states.hidden, target, position, layer)
    page: list[Any] = [what_if_views.probe_table(found)]
    if found.score_name == "AUROC":
        page.append(what_if_views.reliability_at(found, bins))
    return page


def temperature_page(run: Run) -> list[Any]:
    """The runs beside this one that differ from it in temperature alone."""
    beside = [run]
    for entry in runs_of(run.folder.parent, study_of(run.config))[: 4 * MOST_TEMPERATURES]:
        same = entry.finished and entry.folder != run.folder and entry.model == run.config.model
        if same and len(beside) < MOST_TEMPERATURES:
            beside.append(open_run(entry.folder))
    rows = what_if_views.temperature_runs(beside)
    if len(rows) < 2:
        return [what_if_views.temperature_table(rows)]
    return [
        what_if_views.temperature_figure(rows),
        what_if_views.temperature_table(rows),
    ]


def comparison_page(run: Run, other: Path | None) -> list[Any]:
    """This run and another side by side; a sentence while none is chosen."""
    if other is None:
        raise UserError("choose a run to compare with; any finished run of the same folder will do")
    found = compare.compare(run, open_run(other))
    return [compare.comparison_figure(found), compare.comparison_view(found)]


def reading_page(run: Run, reading: Reading) -> list[Any]:
    """What the probes expect of a question, and where that lies among those of the run."""
    return [
        asking_views.reading_view(reading),
        asking_views.distribution_figure(reading, run),
    ]


def answered_page(run: Run, reading: Reading, config: RunConfig) -> list[Any]:
    """The most likely answer with the probes that read it, and the probes at every token."""
    answered = asking.answer_greedily(run, reading, config=config)
    strip = asking.token_strip(run, reading.prompt_ids, answered.sample.token_ids, config=config)
    return [asking_views.answered_view(answered, reading), asking_views.strip_view(strip)]


# --- choices -------------------------------------------------------------------------------------
#
# Each pair of functions makes an element and reads it; nothing here starts expensive work.


FIRST_TARGET = "high_semantic_entropy"


def what_if_choices(run: Run) -> Any:
    """Elements for everything that can be changed without sampling or judging again."""
    import marimo as mo

    stored, reasons = as_stored(run), possible(run)
    rules = {f"{rule}: {RULES[rule]}": rule for rule, reason in reasons.items() if not reason}
    linkages = {f"{name}: {words}": name for name, words in LINKAGES.items()}
    most = math.floor(20 * math.log(stored.k)) / 20
    return _in_a_grid(
        rule=_dropdown(rules, stored.rule, "Two answers mean the same if"),
        linkage=_dropdown(linkages, stored.linkage, "Groups"),
        threshold=mo.ui.slider(
            0, 0.95, 0.05, 0, show_value=True, full_width=True,
            label="p(entailment) at least (0: the likeliest label)",
        ),
        gamma=mo.ui.slider(
            0, most, 0.05, 0, show_value=True, full_width=True,
            label="γ, above which entropy is high (0: best split of train)",
        ),
        k=mo.ui.slider(
            2, stored.k, 1, stored.k, show_value=True, full_width=True, label="Samples used"
        ),
        bins=mo.ui.slider(5, 60, 5, 30, show_value=True, full_width=True, label="Bins"),
    )  # fmt: skip


def what_if(chosen: Any) -> WhatIf:
    """The options that are chosen."""
    values = chosen.value
    reads = values["rule"] in READ_ENTAILMENT
    return WhatIf(
        rule=values["rule"],
        k=values["k"],
        threshold=values["threshold"] or None if reads else None,
        linkage=values["linkage"],
        gamma=values["gamma"] or None,
    )


def place_choice(run: Run) -> Any:
    """Elements for a target, a position and a layer; at first the place that the run chose."""
    import marimo as mo

    positions = list(run.states.hidden)
    layers = run.states.hidden[positions[0]].shape[1]
    position, layer = chosen_place(run, FIRST_TARGET) or (positions[0], 0)
    targets = {words: target for target, (_, words, _) in TARGETS.items()}
    return _in_a_grid(
        target=_dropdown(targets, FIRST_TARGET, "Predict"),
        position=_dropdown({name: name for name in positions}, position, "Position"),
        layer=mo.ui.slider(
            0, layers - 1, 1, layer, show_value=True, full_width=True, label="Layer"
        ),
        bins=mo.ui.slider(2, 20, 1, 10, show_value=True, full_width=True, label="Bins"),
    )


def _in_a_grid(**elements: Any) -> Any:
    """Elements side by side where there is room; their values by name."""
    import marimo as mo

    places = "".join(f"<div>{{{name}}}</div>" for name in elements)
    columns = "repeat(auto-fill,minmax(18rem,1fr))"
    style = f"display:grid;grid-template-columns:{columns};gap:0.9rem 2rem"
    return mo.Html(f'<div style="{style}">{places}</div>').batch(**elements)


def _dropdown(options: dict[str, Any], value: Any, label: str) -> Any:
    """A dropdown of words to values, one of the values chosen."""
    import marimo as mo

    words = next(words for words, option in options.items() if option == value)
    return mo.ui.dropdown(
        options, value=words, allow_select_none=False, label=label, full_width=True
    )


def clickable(build: Callable[[Run], Any], run: Run, look: Callable[[str], None]) -> Any:
    """A figure in which a click on a question's point looks at it; elsewhere, the figure alone."""
    if in_report() or not in_notebook():
        return show(build, run)
    import marimo as mo

    try:
        figure = explore.clickable(build(run))
    except UserError:
        return show(build, run)

    def clicked(points: Any) -> None:
        question = explore.clicked_question(figure, points)
        if question is not None:
            look(question)

    return mo.ui.plotly(figure, on_change=clicked)


def question_state(run: Run) -> Any:
    """`(get, set)` of the id of the question that is looked at; at first the most uncertain."""
    import marimo as mo

    return mo.state(str(run.answers.questions[browser_rows(run)[0]["row"]].id))


def case_choice(run: Run, set_question: Callable[[str], None]) -> Any:
    """A table of instructive questions for each lesson; choosing one looks at it."""
    import marimo as mo

    def look(rows: list[dict[str, Any]]) -> None:
        if rows:
            set_question(rows[0]["question_id"])

    tables = {}
    for name, found in explore.cases(run).items():
        rows = explore.case_rows(found)
        words = mo.Html(paragraph(found.lesson))
        if rows:
            chosen = _table(rows, ["question_id"], look)
            tables[name[0].upper() + name[1:]] = mo.vstack([words, chosen])
        else:
            none = mo.Html(paragraph(f"None: {found.empty}."))
            tables[name[0].upper() + name[1:]] = mo.vstack([words, none])
    return mo.ui.tabs(tables)


def question_table(run: Run, set_question: Callable[[str], None]) -> Any:
    """All test questions, the most uncertain first; choosing one looks at it."""

    def look(rows: list[dict[str, Any]]) -> None:
        if rows:
            set_question(run.answers.questions[rows[0]["row"]].id)

    return _table(browser_rows(run), ["row"], look)


def _table(rows: list[dict[str, Any]], hidden: list[str], look: Callable[[Any], None]) -> Any:
    """A table in which one row can be chosen."""
    import marimo as mo

    return mo.ui.table(
        rows,
        selection="single",
        page_size=8,
        hidden_columns=hidden,
        wrapped_columns=["question"],
        column_widths={name: 260 if name == "question" else 110 for name in rows[0]},
        show_data_types=False,
        show_column_summaries=False,
        show_download=False,
        on_change=look,
    )


def ask_form(run: Run) -> Any:
    """A text to type a question into; its value is None until it is asked."""
    import marimo as mo

    example = next(q.question for q in run.answers.questions if q.split == "test")
    return mo.ui.text_area(example, rows=4, full_width=True, label="a question").form(
        submit_button_label="Ask", bordered=False
    )


def reading_of(run: Run, question: Any, config: RunConfig) -> Reading | None:
    """What the probes say of the question that was typed; the cell waits where there is none."""
    if not in_notebook():
        return None
    import marimo as mo

    mo.stop(not question.value, mo.md("*Type a question and press Ask.*"))
    with problems_explained(), mo.status.spinner("Reading the question in one forward pass"):
        return asking.ask(run, question.value, config=config)


def check_button(run: Run) -> Any:
    """Draws the answers to the question that was asked; not where visitors may only look."""
    import marimo as mo

    return mo.ui.run_button(label=f"Check by sampling {run.config.k} answers", disabled=read_only())


def other_run(run: Run) -> Any:
    """A dropdown of the finished runs beside this one."""
    import marimo as mo

    folders = {
        run_label(entry): entry.folder
        for entry in runs_of(run.folder.parent, study_of(run.config))
        if entry.finished and entry.folder != run.folder
    }
    return mo.ui.dropdown(folders, label="compare with", full_width=True)


def answers_streamed(pressed: bool, run: Run, reading: Reading | None, config: RunConfig) -> None:
    """Draw answers to a question, each group of them shown in the place of the one before."""
    if reading is None or not pressed:
        return
    import marimo as mo

    with problems_explained():
        for checked in asking.check_by_sampling(run, reading, config=config):
            mo.output.replace(mo.Html(asking_views.checked_view(checked)))
