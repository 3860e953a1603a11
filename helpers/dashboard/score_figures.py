"""ROC and risk–coverage for *correct* under the current filters, with clustered intervals."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from helpers.dashboard.filters import NOTHING_LEFT
from helpers.dashboard.points import Drawn, narrow
from helpers.dashboard.scores import PredictorScore, SelectionScores
from helpers.dashboard.signals import TITLES
from helpers.dashboard.words import graded_words, score_words, scores_words
from helpers.figure_style import (
    add_curve,
    add_notes,
    add_reference,
    framed,
    legend_below,
    say_instead,
)

MOST_POINTS = 300
"""Points of one curve; longer ones are thinned."""
HEIGHT = 420


def roc_view(scores: SelectionScores) -> Drawn:
    """True against false positive rate of every predictor, the AUROC in the legend."""
    fig = framed(
        "Telling correct runs from wrong ones (ROC)",
        "False positive rate (share of wrong runs called correct)",
        "True positive rate (share of correct runs)",
        height=HEIGHT,
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
        height=HEIGHT,
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
