"""Tripwires: checks that must hold before any score of a probe is believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from helpers.evaluation import SAME, Score
from helpers.metrics import finite


@dataclass(frozen=True)
class Tripwire:
    """A check that must hold before any score is believed."""

    name: str
    passed: bool | None  # None: could not be run, for the reason in `detail`
    value: float | None
    expected: str
    detail: str


def shuffled_labels_tripwire(
    fit_and_score: Callable[[np.ndarray], float],
    labels: Sequence[float] | np.ndarray,
    n: int = 20,
    *,
    seed: int = 0,
    chance: float = 0.5,
) -> Tripwire:
    """Refit on shuffled labels n times; the scores must scatter around chance.

    `fit_and_score` fits on the labels it is given and returns the score (AUROC) on held-out rows.
    """
    rng, labels = np.random.default_rng(seed), np.asarray(labels)
    scores = np.array([fit_and_score(rng.permutation(labels)) for _ in range(n)])
    return shuffled_scores_tripwire(scores, seed=seed, chance=chance)


def shuffled_scores_tripwire(
    scores: Sequence[float] | np.ndarray,
    *,
    real_score: float | None = None,
    seed: int = 0,
    chance: float = 0.5,
    tolerance: float = 0.02,
    level: float = 0.01,
) -> Tripwire:
    """Judge the scores of probes that were fitted to shuffled labels: they must centre on chance.

    A permutation test that flips the signs of their deviations from chance: trips when the mean
    is further than `tolerance` from chance and p < `level`. With `real_score` the detail also
    tells how many refits reached it. Raises ValueError for fewer than 10 scores, with which the
    test could hardly trip.
    """
    values = finite("scores", np.asarray(scores))
    if len(values) < 10:
        raise ValueError(f"shuffled labels: {len(values)} refits, expected at least 10")
    deviations = values - chance
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (1999, len(values)))
    as_far = np.abs(signs @ deviations) >= abs(deviations.sum()) - SAME
    p_value = (1 + int(as_far.sum())) / 2000
    mean = float(values.mean())
    detail = f"mean of {len(values)} refits {mean:.3f}, p = {p_value:.3g}"
    if real_score is not None:
        reached = int((values >= real_score).sum())
        detail += f"; {reached} of {len(values)} reached the real score {real_score:.3f}"
    return Tripwire(
        name="shuffled labels",
        passed=abs(mean - chance) <= tolerance or p_value >= level,
        value=mean,
        expected=f"mean score {chance:g}",
        detail=detail,
    )


def memorisation_tripwire(accuracy: float) -> Tripwire:
    """A probe must be able to learn a small separable set by heart: training accuracy 1."""
    return Tripwire(
        name="memorisation",
        passed=accuracy >= 1.0,
        value=accuracy,
        expected="training accuracy 1 on a small separable set",
        detail="" if accuracy >= 1.0 else "rows are copies of each other, or the fit is broken",
    )


def constant_input_tripwire(score: Score) -> Tripwire:
    """The canary: a probe whose input is the same for every question must score exactly 0.5."""
    if score.value is None:
        return Tripwire("constant input", None, None, "AUROC 0.5", score.undefined)
    passed = abs(score.value - 0.5) < 1e-9
    detail = "" if passed else "the position or the layer is not the one it is said to be"
    return Tripwire("constant input", passed, score.value, "AUROC 0.5", detail)
