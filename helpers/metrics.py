"""Metrics computed for thousands of resamples or permutations at once.

A `Metric` is bound to its data. `weighted` takes row weights [B, n] (how often each row was drawn)
and gives the metric of each of the B resamples; `permuted` takes row indices [P, n] and gives the
metric after the labels were dealt out again in each of the P ways. Data are sorted once, so both
cost O(n) a resample. An entry that is undefined (a resample of one class) is NaN, for the caller
to count; nothing here is shown to a person.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

ECE_BINS = 10


@dataclass(frozen=True)
class Metric:
    """One metric of one set of predictions, ready to be resampled."""

    name: str
    n: int
    weighted: Callable[[np.ndarray], np.ndarray]  # row weights [B, n] -> [B]
    permuted: Callable[[np.ndarray], np.ndarray] | None  # row indices [P, n] -> [P]
    better: str  # "greater" or "less"
    undefined: str = ""  # why the metric has no value, in words

    def value(self) -> float:
        """The metric of the data as they are; raises ValueError where it is undefined."""
        if self.undefined:
            raise ValueError(f"{self.name}: {self.undefined}")
        return float(self.weighted(np.ones((1, self.n)))[0])


def auroc(scores: np.ndarray, labels: np.ndarray, positive: str = "positive") -> Metric:
    """Area under the ROC curve: how often a positive row scores above a negative, ties one half."""
    scores, labels = finite("scores", scores), binary("labels", labels)
    groups = _SortedGroups(scores)

    def area(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
        in_group = groups.sums(negatives)
        below = np.cumsum(in_group, axis=1) - 0.5 * in_group
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        return _ratio((groups.sums(positives) * below).sum(axis=1), pairs)

    return _classifier("auroc", area, labels, "greater", _one_class(labels, positive), scores)


def average_precision(scores: np.ndarray, labels: np.ndarray, positive: str = "positive") -> Metric:
    """Average precision: Σ (recall step) × precision over thresholds; tied rows are one step."""
    scores, labels = finite("scores", scores), binary("labels", labels)
    groups = _SortedGroups(-scores)

    def area(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
        hits = groups.sums(positives)
        found = np.cumsum(hits, axis=1)
        taken = found + np.cumsum(groups.sums(negatives), axis=1)
        # Nothing was drawn of a threshold's rows: no step there, whatever its precision.
        precision = np.divide(found, taken, out=np.zeros_like(found), where=taken > 0)
        # A resample of positives alone would score a perfect 1 for want of negatives.
        both = np.where(negatives.sum(axis=1) > 0, positives.sum(axis=1), 0.0)
        return _ratio((hits * precision).sum(axis=1), both)

    reason = _one_class(labels, positive)
    return _classifier("average_precision", area, labels, "greater", reason, scores)


def brier(probabilities: np.ndarray, labels: np.ndarray, positive: str = "positive") -> Metric:
    """Brier score: the mean squared difference between probability and label; lower is better."""
    p, labels = probability("probabilities", probabilities), binary("labels", labels)

    def loss(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
        total = positives @ (1 - p) ** 2 + negatives @ p**2
        return _ratio(total, positives.sum(axis=1) + negatives.sum(axis=1))

    return _classifier("brier", loss, labels, "less", "", p)


def ece(probabilities: np.ndarray, labels: np.ndarray, positive: str = "positive") -> Metric:
    """Expected calibration error over ten bins of equal width; lower is better.

    The bins are fixed, so that every resample fills the same ones. Resampling adds noise to each
    bin's gap and gaps never cancel: the interval leans upwards. It has no permutation test, since
    a forecast of the base rate alone is calibrated under shuffled labels too.
    """
    p, labels = probability("probabilities", probabilities), binary("labels", labels)
    member = equal_width_bins(p, ECE_BINS)[:, None] == np.arange(ECE_BINS)
    gap_if_positive, gap_if_negative = member * (1 - p)[:, None], member * -p[:, None]

    def loss(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
        gaps = np.abs(positives @ gap_if_positive + negatives @ gap_if_negative).sum(axis=1)
        return _ratio(gaps, positives.sum(axis=1) + negatives.sum(axis=1))

    metric = _classifier("ece", loss, labels, "less", "", p)
    return replace(metric, permuted=None)


def rmse(predicted: np.ndarray, true: np.ndarray) -> Metric:
    """Root mean squared error, in the units of `true`; lower is better."""
    return _error("rmse", predicted, true, np.square, np.sqrt)


def mae(predicted: np.ndarray, true: np.ndarray) -> Metric:
    """Mean absolute error, in the units of `true`; lower is better."""
    return _error("mae", predicted, true, np.abs, lambda means: means)


def spearman(predicted: np.ndarray, true: np.ndarray) -> Metric:
    """Spearman's rank correlation with midranks; every resample is ranked anew."""
    predicted, true = finite("predicted", predicted), finite("true", true)
    n = _same_length(predicted, true)
    groups = [_SortedGroups(predicted), _SortedGroups(true)]

    def weighted(weights: np.ndarray) -> np.ndarray:
        a, b = (group.centred_midranks(weights) for group in groups)
        scale = np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1))
        return _ratio((weights * a * b).sum(axis=1), scale)

    def permuted(indices: np.ndarray) -> np.ndarray:
        a, b = (group.centred_midranks(np.ones((1, n)))[0] for group in groups)
        scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
        return _ratio(b[indices] @ a, np.full(len(indices), scale))

    reason = _too_few(n)
    for name, values in (("predicted", predicted), ("true", true)):
        if not reason and np.ptp(values) == 0:
            reason = f"all {n} {name} values are equal"
    return Metric("spearman", n, weighted, permuted, "greater", reason)


CLASSIFIER_METRICS: dict[str, Callable[..., Metric]] = {
    "auroc": auroc,
    "average_precision": average_precision,
    "brier": brier,
    "ece": ece,
}
REGRESSION_METRICS: dict[str, Callable[..., Metric]] = {
    "rmse": rmse,
    "mae": mae,
    "spearman": spearman,
}


def finite(name: str, values: np.ndarray) -> np.ndarray:
    """The values as a float vector, or a ValueError naming the first row that is not a number."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name}: shape {array.shape}, expected one value a row")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(f"{name}: row {bad[0]} is {array[bad[0]]}, not a finite number")
    return array


def binary(name: str, values: np.ndarray) -> np.ndarray:
    """The labels as 0.0 and 1.0, or a ValueError naming the first row that is neither."""
    array = finite(name, values)
    bad = np.flatnonzero((array != 0) & (array != 1))
    if bad.size:
        raise ValueError(f"{name}: row {bad[0]} is {array[bad[0]]:g}, expected 0 or 1")
    return array


def probability(name: str, values: np.ndarray) -> np.ndarray:
    """The values as a float vector, or a ValueError naming the first row outside 0 to 1."""
    array = finite(name, values)
    bad = np.flatnonzero((array < 0) | (array > 1))
    if bad.size:
        raise ValueError(f"{name}: row {bad[0]} is {array[bad[0]]:g}, outside 0 to 1")
    return array


def equal_width_bins(probabilities: np.ndarray, n_bins: int) -> np.ndarray:
    """The bin of each probability, 0 .. n_bins-1; a bin holds its lower edge, the last both."""
    return np.minimum((probabilities * n_bins).astype(int), n_bins - 1)


class _SortedGroups:
    """Rows sorted by value, ties forming one group: sums and ranks of all resamples at once."""

    def __init__(self, values: np.ndarray) -> None:
        self.order = np.argsort(values, kind="stable")
        in_order = values[self.order]
        is_start = np.r_[True, in_order[1:] != in_order[:-1]][: len(values)]
        self.starts = np.flatnonzero(is_start)
        self.group_of_row = np.empty(len(values), dtype=int)
        self.group_of_row[self.order] = np.cumsum(is_start) - 1

    def sums(self, weights: np.ndarray) -> np.ndarray:
        """Row weights [B, n] summed within each group, groups in ascending order: [B, G]."""
        in_order = weights[:, self.order]
        if len(self.starts) == weights.shape[1]:
            return in_order
        return np.add.reduceat(in_order, self.starts, axis=1)

    def centred_midranks(self, weights: np.ndarray) -> np.ndarray:
        """Each row's midrank within each resample, less the mean rank: [B, n]."""
        in_group = self.sums(weights)
        middle = np.cumsum(in_group, axis=1) - 0.5 * in_group
        middle -= 0.5 * weights.sum(axis=1, keepdims=True)
        return middle[:, self.group_of_row]


def _classifier(
    name: str,
    compute: Callable[[np.ndarray, np.ndarray], np.ndarray],
    labels: np.ndarray,
    better: str,
    reason: str,
    values: np.ndarray,
) -> Metric:
    """A metric that depends on how much weight positives [B, n] and negatives [B, n] carry."""
    n = _same_length(values, labels)

    def permuted(indices: np.ndarray) -> np.ndarray:
        return compute(labels[indices], 1 - labels[indices])

    return Metric(
        name=name,
        n=n,
        weighted=lambda weights: compute(weights * labels, weights * (1 - labels)),
        permuted=permuted,
        better=better,
        undefined=_too_few(n) or reason,
    )


def _error(
    name: str,
    predicted: np.ndarray,
    true: np.ndarray,
    loss: Callable[[np.ndarray], np.ndarray],
    finish: Callable[[np.ndarray], np.ndarray],
) -> Metric:
    """A metric that is some function of the weighted mean of a loss for each row."""
    predicted, true = finite("predicted", predicted), finite("true", true)
    n = _same_length(predicted, true)
    losses = loss(predicted - true)
    return Metric(
        name=name,
        n=n,
        weighted=lambda weights: finish(_ratio(weights @ losses, weights.sum(axis=1))),
        permuted=lambda indices: finish(loss(predicted - true[indices]).mean(axis=1)),
        better="less",
        undefined=_too_few(n),
    )


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Element-wise quotient, NaN where the denominator is zero."""
    undefined = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)


def _same_length(a: np.ndarray, b: np.ndarray) -> int:
    if len(a) != len(b):
        raise ValueError(f"{len(a)} predictions for {len(b)} labels")
    return len(a)


def _too_few(n: int) -> str:
    return f"fewer than 2 rows (n = {n})" if n < 2 else ""


def _one_class(labels: np.ndarray, positive: str) -> str:
    count = int(labels.sum())
    if 0 < count < len(labels):
        return ""
    return f"only one class ({count} of {len(labels)} {positive})"
