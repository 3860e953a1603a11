"""Refits of a logistic probe at one place, its regularisation chosen on validation each time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from helpers.probe_solvers import Coefficients, column_auroc, decompose, raw_outputs, solve_logistic
from helpers.probe_threads import one_thread_if_small
from helpers.probes import REGULARISATIONS


def refit_margins(
    train: np.ndarray,
    labels: np.ndarray,
    validation: np.ndarray,
    validation_labels: np.ndarray,
    test: np.ndarray,
    regularisations: Sequence[float] = REGULARISATIONS,
) -> np.ndarray:
    """Log-odds `[test rows, targets]` of probes fitted on the same rows to several targets.

    Features are `[rows, width]`, labels `[train rows, targets]` and `[validation rows, targets]`
    of 0 / 1, each target with both classes on both. For each target the regularisation of best
    validation AUROC is taken, among equals the strongest, as `probes.sweep` does. All fits share
    one decomposition and one solver call.
    """
    strengths = np.sort(np.asarray(regularisations, dtype=np.float64))
    n_targets, n_strengths = labels.shape[1], len(strengths)
    wanted = np.repeat(labels.astype(np.float64), n_strengths, axis=1)
    with one_thread_if_small(*train.shape):
        basis = decompose(train)
        solved = solve_logistic(basis.scores, wanted, np.tile(strengths, n_targets))
        judged = raw_outputs(basis, solved, validation)
    areas = column_auroc(judged, np.repeat(validation_labels, n_strengths, axis=1))
    # Turned round, the first of equal areas is that of the strongest regularisation.
    turned = np.round(areas.reshape(n_targets, n_strengths), 10)[:, ::-1]
    best = n_strengths - 1 - turned.argmax(axis=1) + n_strengths * np.arange(n_targets)
    chosen = Coefficients(solved.weights[:, best], solved.bias[best])
    return raw_outputs(basis, chosen, test)
