"""Checks that a score means something: a probe can memorise, and shuffled labels teach nothing."""

from __future__ import annotations

import numpy as np

from helpers.errors import UserError
from helpers.probe_solvers import column_auroc, decompose, logistic_path, project, solve_logistic
from helpers.probe_threads import one_thread_if_small
from helpers.probes import check_target

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
