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
from helpers.metric_core import Weighted as Weighted
from helpers.metric_core import binary as binary
from helpers.metric_core import equal_width_bins as equal_width_bins
from helpers.metric_core import finite as finite
from helpers.metric_core import probability as probability
from helpers.resampling import group_count
from helpers.selective_metrics import COVERAGES, accuracy_at_coverage, aurc, e_aurc

ECE_BINS = 10
PAIRS_A_ROW = 200  # up to so many pairs of groups for each row, a table of pairs is the faster way
TABLE_CELLS = 1_000_000  # a table is made in parts of at most this size (8 MB)


def auroc(scores: np.ndarray, labels: np.ndarray, positive: str = "positive") -> Metric:
    """Area under the ROC curve: how often a positive row scores above a negative, ties one half."""
    scores, labels = finite("scores", scores), binary("labels", labels)
    n, ties = same_length(scores, labels), SortedGroups(scores)

    def area(weights: np.ndarray) -> np.ndarray:
        positives, negatives = weights * labels, weights * (1 - labels)
        in_group = ties.sums(negatives)
        below = np.cumsum(in_group, axis=1) - 0.5 * in_group
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        return ratio((ties.sums(positives) * below).sum(axis=1), pairs)

    def grouped(group_of_row: np.ndarray) -> Weighted:
        n_groups = group_count(group_of_row)
        if n_groups**2 > PAIRS_A_ROW * n:
            return lambda counts: area(counts[:, group_of_row])
        wins = _wins(ties, labels, group_of_row, n_groups)
        ours = np.bincount(group_of_row, labels, n_groups)
        theirs = np.bincount(group_of_row, 1 - labels, n_groups)
        return lambda counts: ratio(
            np.einsum("bg,bg->b", counts @ wins, counts), (counts @ ours) * (counts @ theirs)
        )

    def permuted(indices: np.ndarray) -> np.ndarray:
        midranks = ties.to_rows(ties.centred_midranks(np.ones((1, n)))[1])[0]
        pairs = labels.sum() * (1 - labels).sum()
        return (labels[indices] @ midranks + 0.5 * pairs) / pairs

    reason = too_few(n) or one_class(labels, positive)
    return Metric("auroc", n, area, permuted, "greater", reason, grouped)


def _wins(
    ties: SortedGroups, labels: np.ndarray, group_of_row: np.ndarray, n_groups: int
) -> np.ndarray:
    """How often a positive row of one group scores above a negative of another, `[G, G]`.

    The AUROC's numerator for group weights w is w · wins · w: half-integers, so nothing is rounded.
    """
    positives, negatives = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    positives = positives[np.argsort(group_of_row[positives], kind="stable")]
    present, starts = np.unique(group_of_row[positives], return_index=True)
    wins = np.zeros((n_groups, n_groups))
    width = max(1, TABLE_CELLS // len(labels))
    for first in range(0, n_groups, width):
        column = group_of_row[negatives] - first
        here = (column >= 0) & (column < width)
        table = np.zeros((len(ties.starts), min(width, n_groups - first)))
        np.add.at(table, (ties.group_of_row[negatives[here]], column[here]), 1.0)
        below = np.cumsum(table, axis=0) - 0.5 * table
        won = np.add.reduceat(below[ties.group_of_row[positives]], starts, axis=0)
        wins[present, first : first + width] = won
    return wins


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
    n, ties = same_length(scores, labels), SortedGroups(-scores)
    ordered_labels = labels[ties.order]
    taken_once = np.cumsum(ties.sums(np.ones((1, n))), axis=1)

    def area(in_order: np.ndarray) -> np.ndarray:
        """Of the weights [B, n] of the rows in their order."""
        hits = ties.ordered_sums(in_order * ordered_labels)
        found = np.cumsum(hits, axis=1)
        taken = np.cumsum(ties.ordered_sums(in_order), axis=1)
        # Nothing was drawn of a threshold's rows: no step there, whatever its precision.
        precision = np.divide(found, taken, out=np.zeros_like(found), where=taken > 0)
        # A resample of positives alone would score a perfect 1 for want of negatives.
        both = np.where(taken[:, -1] > found[:, -1], found[:, -1], 0.0)
        return ratio((hits * precision).sum(axis=1), both)

    def grouped(group_of_row: np.ndarray) -> Weighted:
        drawn = group_of_row[ties.order]
        return lambda counts: area(counts[:, drawn])

    def permuted(indices: np.ndarray) -> np.ndarray:
        hits = ties.sums(labels[indices])
        found = np.cumsum(hits, axis=1)
        return (hits * (found / taken_once)).sum(axis=1) / found[:, -1]

    reason = too_few(n) or one_class(labels, positive)
    return Metric(
        "average_precision",
        n,
        lambda weights: area(weights[:, ties.order]),
        permuted,
        "greater",
        reason,
        grouped,
    )


def brier(probabilities: np.ndarray, labels: np.ndarray, positive: str = "positive") -> Metric:
    """Brier score: the mean squared difference between probability and label; lower is better."""
    p, labels = probability("probabilities", probabilities), binary("labels", labels)

    def loss(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
        total = positives @ (1 - p) ** 2 + negatives @ p**2
        return ratio(total, positives.sum(axis=1) + negatives.sum(axis=1))

    def grouped(group_of_row: np.ndarray) -> Weighted:
        losses, sizes = np.bincount(group_of_row, (labels - p) ** 2), np.bincount(group_of_row)
        return lambda counts: ratio(counts @ losses, counts @ sizes)

    def permuted(indices: np.ndarray) -> np.ndarray:
        return ((p**2).sum() + labels[indices] @ (1 - 2 * p)) / len(p)

    metric = classifier_metric("brier", loss, labels, "less", "", p)
    return replace(metric, permuted=permuted, grouped=grouped)


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

    def grouped(group_of_row: np.ndarray) -> Weighted:
        n_groups = group_count(group_of_row)
        gaps, sizes = np.zeros((n_groups, ECE_BINS)), np.bincount(group_of_row)
        np.add.at(gaps, (group_of_row, equal_width_bins(p, ECE_BINS)), labels - p)
        return lambda counts: ratio(np.abs(counts @ gaps).sum(axis=1), counts @ sizes)

    metric = classifier_metric("ece", loss, labels, "less", "", p)
    return replace(metric, permuted=None, grouped=grouped)


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
