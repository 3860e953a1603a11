"""The numerics of linear probes: standardise, rotate once, solve every regularisation together.

Features are standardised on the training rows and rotated into their principal directions, which
number at most min(rows, width). An L2-regularised optimum has no part outside them, so ridge and
logistic fits happen in the smaller dimension and are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from typing import Any

import numpy as np
from scipy.linalg import eigh

from helpers.errors import UserError

# --- threads -------------------------------------------------------------------------------------


SMALL = 1024
"""The smaller side of a matrix of features up to which one thread is no slower than two.

On two cores, a ridge and a logistic path took with two threads, of the time with one: 3.3 and 1.8
(400 rows of width 160), 1.3 and 1.4 (400 x 2,560), 4.8 and 2.2 (2,000 x 160), 1.3 and 0.9
(2,000 x 1,024), 0.6 and 0.6 (2,000 x 2,560).
"""


def one_thread_if_small(rows: int, width: int) -> AbstractContextManager[Any]:
    """Within this context BLAS uses one thread, if features [rows, width] are small.

    A fit makes many small products, and threads that wait for each other take longer than those.
    The limit holds for the whole process.
    """
    blas = _blas()
    if blas is None or min(rows, width) > SMALL:
        return nullcontext()
    return blas.limit(limits=1, user_api="blas")


@cache
def _blas() -> Any:
    """The BLAS libraries of numpy and scipy; None in the small install, which cannot set them."""
    if find_spec("threadpoolctl") is None:
        return None
    import scipy.linalg  # noqa: F401  (only libraries that are loaded by now are found)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


# A feature that varies by less than this share of its size varies by float32 rounding alone.
ROUNDING = 4 * float(np.finfo(np.float32).eps)
MAX_NEWTON_STEPS = 100
MAX_CG_STEPS = 300
CG_TOLERANCE = 0.2
TINY = float(np.finfo(np.float32).tiny)
# Newton stops once a step promises less than this many nats of summed log-loss.
PROMISED_GAIN = 1e-10


@dataclass(frozen=True, eq=False)
class Scaler:
    """Mean [width] and scale [width] of the training rows; a constant feature has scale 1."""

    mean: np.ndarray
    scale: np.ndarray
    constant: np.ndarray


@dataclass(frozen=True, eq=False)
class Basis:
    """Training rows and their principal directions.

    values [n, width] are the standardised training rows, directions [width, rank] orthonormal
    columns, energies [rank] the squared singular values.
    """

    scaler: Scaler
    values: np.ndarray
    directions: np.ndarray
    energies: np.ndarray

    @cached_property
    def scores(self) -> np.ndarray:
        """The training rows along the directions, [n, rank]."""
        with one_thread_if_small(*self.values.shape):
            return self.values @ self.directions


@dataclass(frozen=True, eq=False)
class Coefficients:
    """Solutions of several problems at once: weights [rank or width, problems], bias [problems]."""

    weights: np.ndarray
    bias: np.ndarray


def fit_scaler(features: np.ndarray) -> Scaler:
    """Mean and standard deviation of features [n, width], in float64.

    Raises UserError when a feature is NaN or infinite.
    """
    return _scaler_of(finite_features(features))


def _scaler_of(values: np.ndarray) -> Scaler:
    mean = values.mean(axis=0)
    centred = values - mean
    scale = np.sqrt(np.einsum("ij,ij->j", centred, centred) / len(values))
    constant = scale <= ROUNDING * np.abs(mean)
    return Scaler(mean=mean, scale=np.where(constant, 1.0, scale), constant=constant)


def finite_features(features: np.ndarray) -> np.ndarray:
    """Features as float64; raises UserError when one is NaN or infinite."""
    values = np.asarray(features, dtype=np.float64)
    if not np.isfinite(values).all():
        raise UserError(
            "hidden states: a value is NaN or infinite: capture them again in float32 (a float16 "
            "model can overflow)"
        )
    return values


def standardise(scaler: Scaler, features: np.ndarray) -> np.ndarray:
    """Features [n, width] in standardised float64 coordinates; constant features become 0."""
    return _standardised(scaler, finite_features(features))


def _standardised(scaler: Scaler, values: np.ndarray) -> np.ndarray:
    values = values - scaler.mean
    values *= np.where(scaler.constant, 0.0, 1.0 / scaler.scale)
    return values


def decompose(features: np.ndarray, scaler: Scaler | None = None) -> Basis:
    """Standardise features [n, width] and find their principal directions.

    The scaler is that of the features themselves unless another is given.

    Works on the Gram matrix of the smaller side: squaring costs nothing that matters as long as
    the regularisation stays above about 1e-15 of the largest energy (which is below n * width).
    """
    values = finite_features(features)
    scaler = _scaler_of(values) if scaler is None else scaler
    values = _standardised(scaler, values)
    rows, width = values.shape
    wide = rows < width
    # The number of threads would show in the last digits: so it is one wherever that is no slower.
    with one_thread_if_small(rows, width):
        gram = values @ values.T if wide else values.T @ values
        energies, vectors = eigh(gram, driver="evd", overwrite_a=True, check_finite=False)
    floor = energies.max() * max(rows, width) * np.finfo(np.float64).eps
    kept = energies > max(floor, 0.0)
    energies, vectors = energies[kept], vectors[:, kept]
    with one_thread_if_small(rows, width):
        directions = values.T @ (vectors / np.sqrt(energies)) if wide else vectors
    return Basis(scaler=scaler, values=values, directions=directions, energies=energies)


def project(basis: Basis, features: np.ndarray) -> np.ndarray:
    """Any rows [n, width] along the basis: [n, rank]."""
    with one_thread_if_small(*features.shape):
        return standardise(basis.scaler, features) @ basis.directions


def raw_outputs(basis: Basis, solved: Coefficients, features: np.ndarray) -> np.ndarray:
    """What solutions in the basis say of any rows [n, width]: [n, problems]."""
    with one_thread_if_small(*features.shape):
        weights = basis.directions @ solved.weights
        return standardise(basis.scaler, features) @ weights + solved.bias


def ridge_path(basis: Basis, target: np.ndarray, regularisations: Sequence[float]) -> Coefficients:
    """Minimise sum (y - xw - b)^2 + r |w|^2 for every r at once, the bias unpenalised.

    The same optimum as scikit-learn's Ridge(alpha=r) on standardised features.
    """
    strengths = np.asarray(regularisations, dtype=np.float64)
    centre = float(np.mean(target))
    with one_thread_if_small(*basis.values.shape):
        along = basis.directions.T @ (basis.values.T @ (np.asarray(target, np.float64) - centre))
    weights = along[:, None] / (basis.energies[:, None] + strengths)
    return Coefficients(weights=weights, bias=np.full(len(strengths), centre))


def logistic_path(
    basis: Basis, labels: np.ndarray, regularisations: Sequence[float]
) -> Coefficients:
    """Minimise summed log-loss + r/2 |w|^2 for every r at once, the bias unpenalised.

    The same optimum as scikit-learn's LogisticRegression(C=1/r) on standardised features. Labels
    may be shares between 0 and 1: the loss is then the cross-entropy, and the optimum that of each
    row counted as a positive of that weight and a negative of the rest.
    """
    columns = np.repeat(np.asarray(labels, dtype=np.float64)[:, None], len(regularisations), axis=1)
    return solve_logistic(basis.scores, columns, np.asarray(regularisations, dtype=np.float64))


def solve_logistic(scores: np.ndarray, labels: np.ndarray, strengths: np.ndarray) -> Coefficients:
    """Solve one logistic regression a column: labels [n, problems] in 0 to 1, strengths [problems].

    All problems share scores [n, rank], so each Newton step is one matrix product for all of
    them. The Newton equations are solved roughly, by preconditioned conjugate gradients in
    float32; gradients and losses are in float64, and steps are halved until the loss falls. It is
    strictly convex: this reaches the optimum. Each column's mean must lie between 0 and 1. Raises
    UserError when a column has not converged.
    """
    with one_thread_if_small(*scores.shape):
        return _solve_logistic(scores, labels, strengths)


def _solve_logistic(scores: np.ndarray, labels: np.ndarray, strengths: np.ndarray) -> Coefficients:
    design = np.column_stack([scores, np.ones(len(scores))])
    rough = _RoughDesign.of(design)
    wanted = np.ascontiguousarray(np.asarray(labels, dtype=np.float64).T)
    penalty = np.zeros((len(wanted), design.shape[1]))
    penalty[:, :-1] = np.asarray(strengths, dtype=np.float64)[:, None]
    weights = np.zeros_like(penalty)
    base_rate = wanted.mean(axis=1)
    weights[:, -1] = np.log(base_rate / (1 - base_rate))
    active = np.arange(len(wanted))
    at = _newton_state(weights @ design.T, weights, wanted, penalty)
    for _ in range(MAX_NEWTON_STEPS):
        current, ridge = weights[active], penalty[active]
        gradient = (at.probability - wanted[active]) @ design + ridge * current
        step = _newton_step(rough, at.probability, ridge, gradient)
        change, slope = step @ design.T, (gradient * step).sum(axis=1)
        at, length = _line_search(at, change, current, step, wanted[active], ridge, slope)
        weights[active] = current + length[:, None] * step
        going_on = (-slope > PROMISED_GAIN) | (length < 1)
        active, at = active[going_on], at.rows(going_on)
        if not active.size:
            return Coefficients(weights=weights[:, :-1].T, bias=weights[:, -1])
    raise UserError(
        f"logistic probe: regularisation {np.min(strengths[active]):g}: no optimum after "
        f"{MAX_NEWTON_STEPS} Newton steps: choose a stronger regularisation"
    )


@dataclass(frozen=True, eq=False)
class _RoughDesign:
    """The design in float32: by row, by column, squared."""

    by_row: np.ndarray
    by_column: np.ndarray
    squares: np.ndarray

    @staticmethod
    def of(design: np.ndarray) -> _RoughDesign:
        by_row = design.astype(np.float32)
        return _RoughDesign(by_row, np.ascontiguousarray(by_row.T), by_row**2)


@dataclass(frozen=True, eq=False)
class _NewtonState:
    """Where some problems stand: margins and probabilities [problems, n], losses [problems]."""

    margins: np.ndarray
    probability: np.ndarray
    loss: np.ndarray

    def rows(self, kept: np.ndarray) -> _NewtonState:
        if kept.all():
            return self
        return _NewtonState(self.margins[kept], self.probability[kept], self.loss[kept])


def _newton_state(
    margins: np.ndarray, weights: np.ndarray, wanted: np.ndarray, ridge: np.ndarray
) -> _NewtonState:
    tail = np.exp(-np.abs(margins))
    probability = np.where(margins >= 0, 1.0, tail) / (1 + tail)
    misfit = (np.maximum(margins, 0) + np.log(1 + tail) - wanted * margins).sum(axis=1)
    return _NewtonState(margins, probability, misfit + 0.5 * (ridge * weights**2).sum(axis=1))


def _newton_step(
    design: _RoughDesign, probability: np.ndarray, ridge: np.ndarray, gradient: np.ndarray
) -> np.ndarray:
    """Solve (design' curvature design + ridge) step = -gradient, row by row, roughly.

    Whatever the number of iterations, the result is a descent direction.
    """
    curvature = (probability * (1 - probability)).astype(np.float32)
    ridge = ridge.astype(np.float32)
    preconditioner = 1.0 / np.maximum(curvature @ design.squares + ridge, TINY)
    residual = -gradient.astype(np.float32)
    step = np.zeros_like(residual)
    search = scaled = preconditioner * residual
    size = np.einsum("ij,ij->i", residual, scaled)
    goal = CG_TOLERANCE**2 * size
    for _ in range(MAX_CG_STEPS):
        if (size <= goal).all():
            break
        image = search @ design.by_column
        image *= curvature
        image = image @ design.by_row
        image += ridge * search
        length = (size / np.maximum(np.einsum("ij,ij->i", search, image), TINY))[:, None]
        step += length * search
        residual -= length * image
        scaled = preconditioner * residual
        before, size = size, np.einsum("ij,ij->i", residual, scaled)
        search = scaled + (size / np.maximum(before, TINY))[:, None] * search
    return step.astype(np.float64)


def _line_search(
    at: _NewtonState,
    change: np.ndarray,
    weights: np.ndarray,
    step: np.ndarray,
    wanted: np.ndarray,
    ridge: np.ndarray,
    slope: np.ndarray,
) -> tuple[_NewtonState, np.ndarray]:
    """Go the largest of 1, 1/2, 1/4, … that lowers each row's loss enough (Armijo's rule)."""
    length = np.ones(len(at.loss))
    # Near the optimum the gain drowns in the rounding of the loss itself.
    slack = 1e-13 * (1 + np.abs(at.loss))
    for _ in range(40):
        moved = weights + length[:, None] * step
        there = _newton_state(at.margins + length[:, None] * change, moved, wanted, ridge)
        failed = there.loss > at.loss + 1e-4 * length * slope + slack
        if not failed.any():
            break
        length[failed] *= 0.5
    return there, length


def column_auroc(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """AUROC of each column of scores [n, problems] for labels [n] or [n, problems].

    Ties are counted half.

    Both classes must be present.
    """
    from scipy.stats import rankdata

    positive = np.asarray(labels) > 0.5
    positive = positive if positive.ndim == 2 else positive[:, None]
    n_positive, n_negative = positive.sum(axis=0), (~positive).sum(axis=0)
    ranks = (rankdata(scores, axis=0) * positive).sum(axis=0)
    return (ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def column_spearman(scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Spearman correlation of each column of scores [n, problems] with target [n].

    A constant column orders nothing and gets 0; the target must vary.
    """
    from scipy.stats import rankdata

    left = rankdata(scores, axis=0)
    right = rankdata(target)
    left, right = left - left.mean(axis=0), right - right.mean()
    norm = np.sqrt((left**2).sum(axis=0) * (right**2).sum())
    return np.divide(right @ left, norm, out=np.zeros(left.shape[1]), where=norm > 0)
