"""The figures of a run, each from the results of its stage."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from helpers import figures
from helpers.analyses.figures import maps_on_test
from helpers.assessment import Assessment
from helpers.curves import ReliabilityCurve
from helpers.evaluation import Score
from helpers.probe_training import TrainedProbes
from helpers.run import Run
from helpers.summary import named

MOST_CURVES = 6
"""Curves that one figure can tell apart."""


def entropy_figure(run: Run) -> go.Figure:
    """How semantic entropy is distributed over the questions, and where it counts as high."""
    return figures.entropy_histogram(
        run.targets.semantic_entropy, run.targets.threshold, run.config.k
    )


def lexical_figure(run: Run) -> go.Figure:
    """Lexical against semantic entropy of every question, coloured by the most likely answer."""
    return figures.lexical_against_semantic(
        run.uncertainty["semantic_entropy"],
        run.uncertainty["lexical_entropy"],
        [q.id for q in run.answers.questions],
        [q.question for q in run.answers.questions],
        [g.status if g else "not graded" for g in run.meanings.greedy_grades],
    )


def probe_maps(trained: TrainedProbes) -> list[go.Figure]:
    """For each target the validation score at every layer and position, the chosen one framed."""
    maps = []
    for name, sweep in trained.sweeps.items():
        fig = figures.layer_position_map(
            sweep.validation_score.max(axis=2),
            sweep.positions,
            sweep.layers,
            (sweep.best_position, sweep.best_layer),
            sweep.score_name,
        )
        title = f"{name.replace('_', ' ')}: {fig.layout.title.text}"
        maps.append(fig.update_layout(title_text=title[0].upper() + title[1:]))
    return maps


def high_entropy_figure(run: Run) -> go.Figure:
    """AUROC for high semantic entropy of the probes and of every baseline."""
    scores = {named(run, n): row["auroc"] for n, row in run.assessment.high_entropy.items()}
    return figures.score_intervals(scores, 0.5, title="Predicting high semantic entropy")


def differences_figure(run: Run) -> go.Figure:
    """By how much the probe's AUROC lies above each baseline's, on the same questions."""
    differences = {named(run, n): score for n, score in run.assessment.differences.items()}
    return figures.score_intervals(
        differences, 0.0, "AUROC of the probe minus AUROC of the baseline",
        title="The probe against each baseline",
    )  # fmt: skip


def wrong_answer_figure(run: Run) -> go.Figure:
    """AUROC for a wrong most likely answer."""
    scores = {named(run, n): row["auroc"] for n, row in run.assessment.wrong_answer.items()}
    return figures.score_intervals(scores, 0.5, title="Predicting a wrong answer")


def predicted_figure(run: Run) -> go.Figure:
    """The ridge probe's predictions on the test questions against the sampled values."""
    test = run.targets.rows("test")
    rows = np.flatnonzero(test)
    if "semantic_entropy" not in run.assessment.predicted:
        return figures.predicted_against_true([], [], {}, [], [])
    return figures.predicted_against_true(
        run.targets.semantic_entropy[test],
        run.assessment.predicted["semantic_entropy"][test],
        run.assessment.regression["semantic_entropy"],
        [run.answers.questions[i].id for i in rows],
        [run.answers.questions[i].question for i in rows],
    )


def roc_figure(run: Run) -> go.Figure:
    """ROC curves of the probes and of the best baselines for high semantic entropy."""
    scores = {n: row["auroc"] for n, row in run.assessment.high_entropy.items()}
    chosen = _clearest(run.assessment, scores)
    return figures.roc_curves(
        {named(run, n): run.assessment.roc[n] for n in chosen if n in run.assessment.roc},
        {named(run, n): scores[n] for n in chosen},
    )


def reliability_figure(run: Run) -> go.Figure:
    """How far the logistic probe's probabilities can be trusted."""
    curve = run.assessment.reliability
    scores = run.assessment.high_entropy.get("high_semantic_entropy", {})
    if curve is None:
        nothing = np.array([])
        return figures.reliability_diagram(ReliabilityCurve(*[nothing] * 7))
    return figures.reliability_diagram(curve, scores)


def shuffled_figure(run: Run) -> go.Figure:
    """Scores of probes fitted to shuffled labels, with the real one."""
    row = run.assessment.high_entropy.get("high_semantic_entropy")
    real = row["auroc"].value if row else None
    return figures.shuffled_labels_histogram(run.assessment.shuffled, real)


def _clearest(assessment: Assessment, scores: Mapping[str, Score]) -> list[str]:
    """The probes, then the baselines of highest AUROC, as many as a figure can tell apart."""
    probes = [n for n in scores if n in assessment.predicted]
    baselines = [n for n in scores if n not in assessment.predicted]
    baselines.sort(key=lambda n: -(scores[n].value or 0.0))
    return (probes + baselines)[:MOST_CURVES]


def test_maps(run: Run) -> list[go.Figure]:
    """For each target the score on test at every layer and position; no choice has seen them."""
    return maps_on_test(run.assessment.test_maps, run.trained.sweeps)
