"""What a page shows for a choice: the views of one section, in order, from the run that is open.

The results behind them are remembered as long as the run is, so that two views of one choice
compute it once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers import (
    asking,
    asking_views,
    compare_runs,
    what_if_figures,
    what_if_probe,
    what_if_temperature,
)
from helpers.asking import Reading
from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.open_run import open_run
from helpers.run import Run
from helpers.run_list import stored_runs
from helpers.what_if import regroup
from helpers.what_if_rules import WhatIf

MOST_TEMPERATURES = 12
"""Runs that stand beside each other, at most."""


def what_if_page(run: Run, options: WhatIf, bins: int) -> list[Any]:
    """What follows from other choices of grouping: scores, entropies, budget, changed questions."""
    found = regroup(run, options)
    return [
        what_if_figures.summary_table(found, run),
        what_if_figures.histogram(found, run, bins),
        what_if_figures.budget(found, run),
        what_if_figures.examples(found, run),
    ]


def place_page(run: Run, target: str, position: str, layer: int, bins: int) -> list[Any]:
    """A probe refitted at a place of one's own, and its reliability if it is a classifier."""
    found = what_if_probe.probe_at(run, run.states.hidden, target, position, layer)
    page: list[Any] = [what_if_probe.probe_table(found)]
    if found.score_name == "AUROC":
        page.append(what_if_probe.reliability_at(found, bins))
    return page


def temperature_page(run: Run) -> list[Any]:
    """The runs beside this one that differ from it in temperature alone."""
    beside = [run]
    for entry in stored_runs(run.folder.parent)[: 4 * MOST_TEMPERATURES]:
        same = entry.finished and entry.folder != run.folder and entry.model == run.config.model
        if same and len(beside) < MOST_TEMPERATURES:
            beside.append(open_run(entry.folder))
    rows = what_if_temperature.temperature_runs(beside)
    if len(rows) < 2:
        return [what_if_temperature.temperature_table(rows)]
    return [
        what_if_temperature.temperature_figure(rows),
        what_if_temperature.temperature_table(rows),
    ]


def comparison_page(run: Run, other: Path | None) -> list[Any]:
    """This run and another side by side; a sentence while none is chosen."""
    if other is None:
        raise UserError("choose a run to compare with; any finished run of the same folder will do")
    found = compare_runs.compare(run, open_run(other))
    return [compare_runs.comparison_figure(found), compare_runs.comparison_view(found)]


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
