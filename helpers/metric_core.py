"""What every metric is made of: a bound record, checked inputs, rows sorted once, ties grouped.

A `Metric` is bound to its data. `weighted` takes row weights [B, n] (how often each row was drawn)
and gives the metric of each of the B resamples; `permuted` takes row indices [P, n] and gives the
metric after the labels were dealt out again in each of the P ways. Data are sorted once, so both
cost O(n) a resample. Where whole groups of rows are drawn, a metric may say how it follows from
group weights alone, which is less work. An entry that is undefined (a resample of one class) is
NaN, for the caller to count; nothing here is shown to a person.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

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
