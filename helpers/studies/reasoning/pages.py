"""What the cells of the study's notebook show: a figure, its main numbers, and all of them."""

from __future__ import annotations

from typing import Any

from helpers.html_parts import folded
from helpers.studies.reasoning import curve_figures, figures, score_tables, views
from helpers.studies.reasoning.run_files import StudyRun

Page = list[Any]
"""HTML and figures, in order."""
NUMBERS = "Every number"


def scores_page(run: StudyRun) -> Page:
    """How well a correct run is told from an incorrect one."""
    found, table = views.assessed(run), run.table
    assert table is not None
    return [
        figures.score_figure(found),
        views.score_sentences(found),
        folded(f"{NUMBERS}, with p-values", score_tables.score_table(found, table)),
    ]


def within_page(run: StudyRun) -> Page:
    """How well it is told which runs of one question are right."""
    found = views.assessed(run)
    return [
        figures.within_figure(found),
        views.within_sentences(found),
        folded(f"{NUMBERS}, with p-values", score_tables.within_table(found)),
    ]


def differences_page(run: StudyRun) -> Page:
    """What one predictor adds to another."""
    found = views.assessed(run)
    return [
        figures.difference_figure(found),
        views.difference_sentences(found),
        folded(f"{NUMBERS}, with p-values", score_tables.difference_table(found)),
    ]


def layers_page(run: StudyRun) -> Page:
    """Which layer the probes read."""
    found, probes = views.assessed(run), run.probes
    assert probes is not None
    return [
        score_tables.missing_probes(probes),
        *figures.layer_figures(found),
        views.layer_sentences(found),
    ]


def roc_page(run: StudyRun) -> Page:
    """The trade-off behind each AUROC."""
    return [curve_figures.roc_figure(views.assessed(run))]


def calibration_page(run: StudyRun, predictor: str) -> Page:
    """Whether a probe's probabilities can be taken at their word."""
    found = views.assessed(run)
    return [
        curve_figures.reliability_figure(found, predictor),
        folded(f"{NUMBERS}, of every probability", score_tables.calibration_table(found)),
    ]


def risk_page(run: StudyRun) -> Page:
    """What is gained by keeping only the runs that look right."""
    return [curve_figures.risk_figure(views.assessed(run))]


def confidence_page(run: StudyRun) -> Page:
    """How sure the probes are of correct and of incorrect runs."""
    found = views.assessed(run)
    return [figures.confidence_figure(found), views.confidence_sentences(found)]


def entropy_page(run: StudyRun) -> Page:
    """How semantic entropy is spread, and how well high semantic entropy is told."""
    found, table = views.assessed(run), run.table
    assert table is not None
    return [
        curve_figures.entropy_figure(table, run.config.k),
        score_tables.high_entropy_table(found, table),
    ]
