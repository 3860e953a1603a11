"""Metrics of predictions, computed for thousands of resamples or permutations at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from helpers.evaluation.resampling import group_count

# --- what every metric is made of ----------------------------------------------------------------
#
# A `Metric` is bound to its data. `weighted` takes row weights [B, n] (how often each row was
# drawn) and gives the metric of each of the B resamples; `permuted` takes row indices [P, n] and
# gives the metric after the labels were dealt out again in each of the P ways. Data are sorted
# once, so both cost O(n) a resample. Where whole groups of rows are drawn, a metric may say how it
# follows from group weights alone, which is less work. An entry that is undefined (a resample of
# one class) is NaN, for the caller to count; nothing here is shown to a person.


Weighted = Callable[[np.ndarray], np.ndarray]
"""Weights of rows [B, n], or of groups [B, G], to the metric of each resample [B]."""


@dataclass(frozen=True)
class Metric:
    """One metric of one set of predictions, ready to be resampled."""

    name: str
    n: int
    weighted: Weighted  # row weights [B, n] -> [B]
    permuted: Callable[[np.ndarray], np.ndarray] | None  # row indices [P, n] -> [P]
    better: str  # "greater" or "less"
    undefined: str = ""  # why the metric has no value, in words
    # each row's group [n] as 0 .. G-1 -> a function from group weights [B, G] to [B]
    grouped: Callable[[np.ndarray], Weighted] | None = None

    def of_groups(self, group_of_row: np.ndarray) -> Weighted:
        """The metric of resamples of whole groups, from their weights: [B, G] to [B]."""
        if self.grouped is not None:
            return self.grouped(group_of_row)
        return lambda counts: self.weighted(counts[:, group_of_row])

    def value(self) -> float:
        """The metric of the data as they are; raises ValueError where it is undefined."""
        if self.undefined:
            raise ValueError(f"{self.name}: {self.undefined}")
        return float(self.weighted(np.ones((1, self.n)))[0])


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


class SortedGroups:
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
        return self.ordered_sums(weights[:, self.order])

    def ordered_sums(self, in_order: np.ndarray) -> np.ndarray:
        """The same for weights [B, n] of rows that are in the order of their values."""
        if len(self.starts) == in_order.shape[1]:
            return in_order
        return np.add.reduceat(in_order, self.starts, axis=1)

    def centred_midranks(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each group's weight, and its midrank less the mean rank, in each resample, [B, G]."""
        in_group = self.sums(weights)
        middle = np.cumsum(in_group, axis=1)
        middle -= 0.5 * in_group
        middle -= 0.5 * weights.sum(axis=1, keepdims=True)
        return in_group, middle

    def to_rows(self, of_groups: np.ndarray) -> np.ndarray:
        """What each row's group has: [B, G] to [B, n]."""
        return of_groups[:, self.group_of_row]


def classifier_metric(
    name: str,
    compute: Callable[[np.ndarray, np.ndarray], np.ndarray],
    labels: np.ndarray,
    better: str,
    reason: str,
    values: np.ndarray,
) -> Metric:
    """A metric that depends on how much weight positives [B, n] and negatives [B, n] carry."""
    n = same_length(values, labels)

    def permuted(indices: np.ndarray) -> np.ndarray:
        return compute(labels[indices], 1 - labels[indices])

    return Metric(
        name=name,
        n=n,
        weighted=lambda weights: compute(weights * labels, weights * (1 - labels)),
        permuted=permuted,
        better=better,
        undefined=too_few(n) or reason,
    )


def error_metric(
    name: str,
    predicted: np.ndarray,
    true: np.ndarray,
    loss: Callable[[np.ndarray], np.ndarray],
    finish: Callable[[np.ndarray], np.ndarray],
) -> Metric:
    """A metric that is some function of the weighted mean of a loss for each row."""
    predicted, true = finite("predicted", predicted), finite("true", true)
    n = same_length(predicted, true)
    losses = loss(predicted - true)
    return Metric(
        name=name,
        n=n,
        weighted=lambda weights: finish(ratio(weights @ losses, weights.sum(axis=1))),
        permuted=lambda indices: finish(loss(predicted - true[indices]).mean(axis=1)),
        better="less",
        undefined=too_few(n),
    )


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Element-wise quotient, NaN where the denominator is zero."""
    undefined = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)


def same_length(a: np.ndarray, b: np.ndarray) -> int:
    if len(a) != len(b):
        raise ValueError(f"{len(a)} predictions for {len(b)} labels")
    return len(a)


def too_few(n: int) -> str:
    return f"fewer than 2 rows (n = {n})" if n < 2 else ""


def one_class(labels: np.ndarray, positive: str) -> str:
    count = int(labels.sum())
    if 0 < count < len(labels):
        return ""
    return f"only one class ({count} of {len(labels)} {positive})"


# --- answering only where certain ----------------------------------------------------------------
#
# Questions are answered from the lowest score (uncertainty) upwards; the risk at a coverage is the
# share of wrong answers among those given. Rows of equal score enter together in expectation: a
# value is the average over all orders of tied rows, not the luck of the file's order.
#
# The code of semantic entropy probes has a relative of these, there called AURAC: the accuracy
# among rows whose uncertainty is at most its q-quantile, at twenty q from 0.1 to 1, summed and
# multiplied by their distance 0.9/19. Nineteen rectangles would fill that range and there are
# twenty, but none below 0.1: a perfect score comes to 20 × 0.9/19 = 0.947, not 1. Where scores tie,
# a quantile admits more rows than its share.


COVERAGES = (0.8, 0.9, 0.95)
"""Shares of the questions answered at which accuracy is reported."""


@dataclass(frozen=True)
class _Steps:
    """Rows entering group by group, the most certain first; every array is [B, groups]."""

    size: np.ndarray  # rows in the group
    wrong: np.ndarray  # wrong answers among them
    answered: np.ndarray  # rows answered with the group and all before it
    errors: np.ndarray  # wrong answers among those


def aurc(scores: np.ndarray, wrong: np.ndarray, positive: str = "wrong") -> Metric:
    """Area under the risk–coverage curve: the mean risk over coverages 1/n … 1; lower is better.

    Scores [n], higher = less certain, and wrong [n] as 0/1. Geifman & El-Yaniv 2017; a perfect
    order does not reach 0 (see `e_aurc`), and a random one expects the error rate.
    """
    groups = SortedGroups(finite("scores", scores))

    def area(mistakes: np.ndarray, right: np.ndarray) -> np.ndarray:
        return _area(_steps(groups, mistakes, right))

    return classifier_metric("aurc", area, binary("wrong", wrong), "less", "", scores)


def e_aurc(scores: np.ndarray, wrong: np.ndarray, positive: str = "wrong") -> Metric:
    """Excess AURC: the area less that of the perfect order, 0 at best; lower is better.

    Each resample is compared with its own perfect order. Geifman, Uziel & El-Yaniv 2019.
    """
    groups = SortedGroups(finite("scores", scores))

    def excess(mistakes: np.ndarray, right: np.ndarray) -> np.ndarray:
        area = _area(_steps(groups, mistakes, right))
        return area - best_area(mistakes.sum(axis=1), right.sum(axis=1))

    return classifier_metric("e_aurc", excess, binary("wrong", wrong), "less", "", scores)


def accuracy_at_coverage(coverage: float) -> Callable[..., Metric]:
    """A metric's constructor: the accuracy among the ⌈coverage · n⌉ most certain rows.

    Raises ValueError for a coverage outside 0 (excluded) to 1.
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage {coverage:g}: expected above 0 and at most 1")

    def bind(scores: np.ndarray, wrong: np.ndarray, positive: str = "wrong") -> Metric:
        groups = SortedGroups(finite("scores", scores))

        def accuracy(mistakes: np.ndarray, right: np.ndarray) -> np.ndarray:
            steps = _steps(groups, mistakes, right)
            total = steps.answered[:, -1:]
            # 0.55 * 100 is a little more than 55 in floating point.
            wanted = np.ceil(coverage * total - 1e-9)
            last = (steps.answered < wanted).sum(axis=1, keepdims=True)
            size, wrong, answered, errors = (
                np.take_along_axis(values, last, axis=1)[:, 0]
                for values in (steps.size, steps.wrong, steps.answered, steps.errors)
            )
            # The last group's rows that are too many take their share of its errors with them.
            spared = ratio((answered - wanted[:, 0]) * wrong, size)
            return ratio(wanted[:, 0] - (errors - spared), wanted[:, 0])

        name = f"accuracy_at_{100 * coverage:g}"
        return classifier_metric(name, accuracy, binary("wrong", wrong), "greater", "", scores)

    return bind


def best_area(mistakes: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The AURC of the perfect order, [B]: every right answer first. Takes counts of both, [B]."""
    harmonic = _harmonic(mistakes + right)
    # After the last right answer, risk at k is 1 − right/k.
    tail = harmonic[_whole(mistakes + right)] - harmonic[_whole(right)]
    return ratio(mistakes - right * tail, mistakes + right)


def _steps(groups: SortedGroups, mistakes: np.ndarray, right: np.ndarray) -> _Steps:
    wrong, size = groups.sums(mistakes), groups.sums(mistakes + right)
    return _Steps(size, wrong, np.cumsum(size, axis=1), np.cumsum(wrong, axis=1))


def _area(steps: _Steps) -> np.ndarray:
    """The mean of errors(k)/k over k, in closed form.

    Within a group errors grow by its rate: errors(k) = offset + k · rate, so that its terms add up
    to offset · (H(answered) − H(answered before)) + rate · size.
    """
    total = steps.answered[:, -1]
    harmonic = _harmonic(total)[_whole(steps.answered)]
    tail = np.diff(harmonic, axis=1, prepend=0.0)
    rate = steps.wrong / np.maximum(steps.size, 1)
    offset = steps.errors - steps.answered * rate
    return ratio(np.einsum("bg,bg->b", offset, tail) + steps.errors[:, -1], total)


def _harmonic(totals: np.ndarray) -> np.ndarray:
    """H(0) … H(largest total); H(k) = 1 + 1/2 + … + 1/k."""
    return np.concatenate([[0.0], np.cumsum(1 / np.arange(1, totals.max(initial=0) + 1))])


def _whole(counts: np.ndarray) -> np.ndarray:
    """Counts of drawn rows as indices; they are whole, but kept as floats."""
    return np.rint(counts).astype(int)


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
