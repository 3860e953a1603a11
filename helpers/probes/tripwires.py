"""Tripwires: checks that must hold before any score of a probe is believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from helpers.errors import UserError
from helpers.evaluation.metrics import finite
from helpers.evaluation.scores import (
    SAME,
    Score,
)
from helpers.formatting import p_value_text
from helpers.probes.probe import check_target
from helpers.probes.solvers import (
    column_auroc,
    decompose,
    logistic_path,
    one_thread_if_small,
    project,
    solve_logistic,
)

# --- tripwires -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tripwire:
    """A check that must hold before any score is believed."""

    name: str
    passed: bool | None  # None: could not be run, for the reason in `detail`
    value: float | None
    expected: str
    detail: str


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
    detail = f"mean of {len(values)} refits {mean:.3f}, {p_value_text(p_value, 'p')}"
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


# --- tripwires of a probe ------------------------------------------------------------------------


MEMORISED_ROWS = 64
MEMORISING_REGULARISATION = 1e-3
SHUFFLES_AT_ONCE = 256


def memorisation_check(features: np.ndarray, seed: int = 0) -> float:
    """Training accuracy of a nearly free logistic probe on random labels; 1.0 when all is well.

    Takes at most half as many rows of features [n, width] as there are features, where random
    labels are separable: an accuracy below 1 means that rows are copies of each other or that
    the fit is broken. Raises UserError when fewer than four rows can be taken.
    """
    count = min(MEMORISED_ROWS, len(features), features.shape[1] // 2)
    if count < 4:
        raise UserError(
            f"memorisation check: {len(features)} rows of width {features.shape[1]} are too few: "
            "it needs at least 4 rows and a width of 8"
        )
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(features), size=count, replace=False)
    labels = rng.permutation(np.arange(count) % 2)
    basis = decompose(features[rows])
    solved = logistic_path(basis, labels, [MEMORISING_REGULARISATION])
    predicted = basis.scores @ solved.weights[:, 0] + solved.bias[0] > 0
    return float(np.mean(predicted == labels))


def shuffled_label_scores(
    features: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    *,
    regularisation: float,
    n_shuffles: int = 200,
    seed: int = 0,
) -> np.ndarray:
    """Test AUROCs of logistic probes refitted and scored on shuffled labels, `[n_shuffles]`.

    features [n, width], labels [n] of 0 / 1, train and test boolean masks [n]. The labels of train
    and test are shuffled together, so the scores scatter around exactly 0.5 whatever the real
    probe's score; a mean away from it says that the evaluation itself is broken. (With the test
    labels left in place all refits would share their chance.) A shuffle that leaves one side with
    one class is left out.

    Raises UndefinedTarget when either side holds one class.
    """
    values = np.asarray(labels, dtype=np.float64)
    if (train & test).any():
        raise ValueError("train and test share rows")
    check_target(values[train], "logistic", "shuffled labels, train")
    check_target(values[test], "logistic", "shuffled labels, test")
    rng = np.random.default_rng(seed)
    pooled, n_train = np.concatenate([values[train], values[test]]), int(train.sum())
    scores = []
    with one_thread_if_small(n_train, features.shape[1]):
        basis = decompose(features[train])
        tested = project(basis, features[test])
        for start in range(0, n_shuffles, SHUFFLES_AT_ONCE):
            count = min(SHUFFLES_AT_ONCE, n_shuffles - start)
            shuffled = rng.permuted(np.repeat(pooled[:, None], count, axis=1), axis=0)
            ours, theirs = shuffled[:n_train], shuffled[n_train:]
            mixed = (ours.std(axis=0) > 0) & (theirs.std(axis=0) > 0)
            ours, theirs = ours[:, mixed], theirs[:, mixed]
            strengths = np.full(ours.shape[1], float(regularisation))
            solved = solve_logistic(basis.scores, ours, strengths)
            scores.append(column_auroc(tested @ solved.weights, theirs))
    return np.concatenate(scores)
