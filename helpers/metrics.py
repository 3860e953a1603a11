"""Metrics of predictions, computed for thousands of resamples or permutations at once.

Each function binds one metric to its data; what a bound `Metric` can do is told in
helpers/metric_core.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

# The record and the checks belong to this module's face; their file is shared by all metrics.
from helpers.metric_core import Metric as Metric
from helpers.metric_core import (
    SortedGroups,
    classifier_metric,
    error_metric,
    one_class,
    ratio,
    same_length,
    too_few,
)
from helpers.metric_core import binary as binary
from helpers.metric_core import equal_width_bins as equal_width_bins
from helpers.metric_core import finite as finite
from helpers.metric_core import probability as probability
from helpers.selective_metrics import COVERAGES, accuracy_at_coverage, aurc, e_aurc

ECE_BINS = 10


def auroc(scores: np.ndarray, labels: np.ndarray, positive: str = "positive") -> Metric:
    """Area under the ROC curve: how often a positive row scores above a negative, ties one half."""
    scores, labels = finite("scores", scores), binary("labels", labels)
    groups = SortedGroups(scores)

    def area(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
        in_group = groups.sums(negatives)
        below = np.cumsum(in_group, axis=1) - 0.5 * in_group
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        return ratio((groups.sums(positives) * below).sum(axis=1), pairs)

    return classifier_metric("auroc", area, labels, "greater", one_class(labels, positive), scores)


def mean_auroc(scores: np.ndarray, labels: np.ndarray, positive: str = "positive") -> Metric:
    """The AUROC averaged over several scorings of the same rows: scores [n, scorings] or [n].

    Every scoring is of all rows; all share the labels, so that averaging how often a positive
    beats a negative, pair by pair, gives the mean area of every resample in one matrix product.
    It has no permutation test: the average's null is that of one scoring only if they are alike.
    """
    columns = np.atleast_2d(np.asarray(scores, dtype=np.float64).T)
    labels = binary("labels", labels)
    n = same_length(columns.T, labels)
    for column in columns:
        finite("scores", column)
    positives, negatives = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    wins = np.zeros((len(positives), len(negatives)))
    for column in columns:
        above, below = column[positives, None], column[negatives]
        wins += above > below
        wins += 0.5 * (above == below)
    wins /= len(columns)

    def weighted(weights: np.ndarray) -> np.ndarray:
        ours, theirs = weights[:, positives], weights[:, negatives]
        won = np.einsum("bi,bi->b", ours @ wins, theirs)
        return ratio(won, ours.sum(axis=1) * theirs.sum(axis=1))

    reason = too_few(n) or one_class(labels, positive)
    return Metric("mean_auroc", n, weighted, None, "greater", reason)


def average_precision(scores: np.ndarray, labels: np.ndarray, positive: str = "positive") -> Metric:
    """Average precision: Σ (recall step) × precision over thresholds; tied rows are one step."""
    scores, labels = finite("scores", scores), binary("labels", labels)
    groups = SortedGroups(-scores)

    def area(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
        hits = groups.sums(positives)
        found = np.cumsum(hits, axis=1)
        taken = found + np.cumsum(groups.sums(negatives), axis=1)
        # Nothing was drawn of a threshold's rows: no step there, whatever its precision.
        precision = np.divide(found, taken, out=np.zeros_like(found), where=taken > 0)
        # A resample of positives alone would score a perfect 1 for want of negatives.
        both = np.where(negatives.sum(axis=1) > 0, positives.sum(axis=1), 0.0)
        return ratio((hits * precision).sum(axis=1), both)

    reason = one_class(labels, positive)
    return classifier_metric("average_precision", area, labels, "greater", reason, scores)


def brier(probabilities: np.ndarray, labels: np.ndarray, positive: str = "positive") -> Metric:
    """Brier score: the mean squared difference between probability and label; lower is better."""
    p, labels = probability("probabilities", probabilities), binary("labels", labels)

    def loss(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
        total = positives @ (1 - p) ** 2 + negatives @ p**2
        return ratio(total, positives.sum(axis=1) + negatives.sum(axis=1))

    return classifier_metric("brier", loss, labels, "less", "", p)


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
        return ratio(gaps, positives.sum(axis=1) + negatives.sum(axis=1))

    metric = classifier_metric("ece", loss, labels, "less", "", p)
    return replace(metric, permuted=None)


def rmse(predicted: np.ndarray, true: np.ndarray) -> Metric:
    """Root mean squared error, in the units of `true`; lower is better."""
    return error_metric("rmse", predicted, true, np.square, np.sqrt)


def mae(predicted: np.ndarray, true: np.ndarray) -> Metric:
    """Mean absolute error, in the units of `true`; lower is better."""
    return error_metric("mae", predicted, true, np.abs, lambda means: means)


def spearman(predicted: np.ndarray, true: np.ndarray) -> Metric:
    """Spearman's rank correlation with midranks; every resample is ranked anew."""
    predicted, true = finite("predicted", predicted), finite("true", true)
    n = same_length(predicted, true)
    groups = [SortedGroups(predicted), SortedGroups(true)]

    def weighted(weights: np.ndarray) -> np.ndarray:
        # The variances are sums over groups; only the product needs a rank for every row.
        (in_a, a), (in_b, b) = (group.centred_midranks(weights) for group in groups)
        scale = np.einsum("bg,bg,bg->b", in_a, a, a) * np.einsum("bg,bg,bg->b", in_b, b, b)
        both = weights * groups[0].to_rows(a)
        return ratio(np.einsum("bi,bi->b", both, groups[1].to_rows(b)), np.sqrt(scale))

    def permuted(indices: np.ndarray) -> np.ndarray:
        one = np.ones((1, n))
        a, b = (group.to_rows(group.centred_midranks(one)[1])[0] for group in groups)
        scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
        return ratio(b[indices] @ a, np.full(len(indices), scale))

    reason = too_few(n)
    for name, values in (("predicted", predicted), ("true", true)):
        if not reason and np.ptp(values) == 0:
            reason = f"all {n} {name} values are equal"
    return Metric("spearman", n, weighted, permuted, "greater", reason)


CLASSIFIER_METRICS: dict[str, Callable[..., Metric]] = {
    "auroc": auroc,
    "average_precision": average_precision,
    "brier": brier,
    "ece": ece,
    "mean_auroc": mean_auroc,
    "aurc": aurc,
    "e_aurc": e_aurc,
    **{f"accuracy_at_{100 * c:g}": accuracy_at_coverage(c) for c in COVERAGES},
}
REGRESSION_METRICS: dict[str, Callable[..., Metric]] = {
    "rmse": rmse,
    "mae": mae,
    "spearman": spearman,
}
