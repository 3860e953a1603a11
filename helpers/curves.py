"""Curves behind the scores: reliability, ROC, risk against coverage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from helpers.metric_core import SortedGroups, binary, equal_width_bins, finite, probability
from helpers.resampling import group_count, group_index, resamples

Z_95 = 1.959963984540054


@dataclass(frozen=True)
class ReliabilityCurve:
    """Observed frequency against predicted probability; one entry per bin that holds a row."""

    low_edge: np.ndarray  # [bins] the bin's lower edge
    high_edge: np.ndarray  # [bins] its upper edge
    mean_predicted: np.ndarray  # [bins]
    observed: np.ndarray  # [bins] share of positives
    observed_low: np.ndarray  # [bins] 95 % Wilson interval of that share
    observed_high: np.ndarray  # [bins]
    counts: np.ndarray  # [bins] rows


@dataclass(frozen=True)
class RocCurve:
    """True against false positive rate, from (0, 0) to (1, 1); one point per distinct score."""

    false_positive_rate: np.ndarray  # [points]
    true_positive_rate: np.ndarray  # [points]
    thresholds: np.ndarray  # [points - 1] point k + 1 calls score >= thresholds[k] positive


@dataclass(frozen=True)
class RiskCoverage:
    """Error rate among the questions answered, as the least certain are left out."""

    coverage: np.ndarray  # [n] share of the questions answered, 1/n .. 1
    risk: np.ndarray  # [n] error rate among those answered
    aurc: float  # mean risk over all coverages; lower is better
    best_aurc: float  # the same had every wrong answer been ranked last
    error_rate: float  # risk at full coverage, and the AURC expected of a random order
    risk_low: np.ndarray | None = None  # [n] 95 % bootstrap band over questions, if asked for
    risk_high: np.ndarray | None = None  # [n]


def reliability(
    probabilities: np.ndarray,
    labels: np.ndarray,
    n_bins: int = 10,
    *,
    groups: Sequence[object] | np.ndarray | None = None,
) -> ReliabilityCurve:
    """Compare predicted probabilities with observed frequencies in bins of equal width.

    Bins without a row are left out. Raises ValueError naming a row that is not a probability.
    Intervals: Wilson 1927. With groups they are as wide as if the rows that a group has in a bin
    were copies of one row: for as many rows as are then independent, (Σ m)² / Σ m² for groups of
    m rows (Kish 1965).
    """
    p, y = probability("probabilities", probabilities), binary("labels", labels)
    _check_lengths(p, y)
    bins = equal_width_bins(p, n_bins)
    all_counts = np.bincount(bins, minlength=n_bins)
    filled = np.flatnonzero(all_counts)
    counts = all_counts[filled]
    observed = np.bincount(bins, y, n_bins)[filled] / counts
    low, high = wilson_interval(observed, _independent(bins, groups, n_bins)[filled])
    return ReliabilityCurve(
        low_edge=filled / n_bins,
        high_edge=(filled + 1) / n_bins,
        mean_predicted=np.bincount(bins, p, n_bins)[filled] / counts,
        observed=observed,
        observed_low=low,
        observed_high=high,
        counts=counts,
    )


def _independent(
    bins: np.ndarray, groups: Sequence[object] | np.ndarray | None, n_bins: int
) -> np.ndarray:
    """The number of independent rows in each bin, [n_bins]; 0 where it is empty."""
    of_group = group_index(groups, len(bins))
    if of_group is None:
        return np.bincount(bins, minlength=n_bins).astype(float)
    sizes = np.zeros((group_count(of_group), n_bins))
    np.add.at(sizes, (of_group, bins), 1.0)
    squares = (sizes**2).sum(axis=0)
    return sizes.sum(axis=0) ** 2 / np.maximum(squares, 1.0)


def wilson_interval(share: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % Wilson score interval of a share seen in `counts` rows, as (low, high)."""
    z2 = Z_95**2
    centre = (share + z2 / (2 * counts)) / (1 + z2 / counts)
    half = Z_95 / (1 + z2 / counts) * np.sqrt(share * (1 - share) / counts + z2 / (4 * counts**2))
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def roc_curve(scores: np.ndarray, labels: np.ndarray) -> RocCurve:
    """The ROC curve; rows of equal score are one step, so its area is the AUROC with midranks.

    Raises ValueError, in words, when there is only one class.
    """
    scores, y = finite("scores", scores), binary("labels", labels)
    _check_lengths(scores, y)
    if not 0 < y.sum() < len(y):
        raise ValueError(f"roc: only one class ({int(y.sum())} of {len(y)} positive)")
    thresholds, group = np.unique(-scores, return_inverse=True)
    hits = np.cumsum(np.bincount(group, y))
    misses = np.cumsum(np.bincount(group, 1 - y))
    return RocCurve(
        false_positive_rate=np.r_[0, misses / misses[-1]],
        true_positive_rate=np.r_[0, hits / hits[-1]],
        thresholds=-thresholds,
    )


def risk_coverage(
    scores: np.ndarray,
    wrong: np.ndarray,
    *,
    n_boot: int = 0,
    seed: int = 0,
    groups: Sequence[object] | np.ndarray | None = None,
) -> RiskCoverage:
    """How the error rate falls when only the questions of lowest score (uncertainty) are answered.

    Questions of equal score are answered in no particular order: the risk within a tie is the one
    expected of a random order. With `n_boot` the curve has a 95 % band: at each coverage the
    middle 95 % of the risks of as many resamples (of whole groups of rows, with groups), each
    ranked anew. The band holds for one coverage at a time, not for the whole curve at once.
    Intervals of the area and of the accuracy at one coverage are in helpers/selective_metrics.py.
    Raises ValueError when there is no row.
    """
    scores, y = finite("scores", scores), binary("wrong", wrong)
    n = _check_lengths(scores, y)
    if n == 0:
        raise ValueError("risk coverage: no rows")
    ties = SortedGroups(scores)
    answered = np.arange(1, n + 1)
    risk = _risk(ties, y, np.ones((1, n)))[0]
    low = high = None
    if n_boot:
        draws = np.concatenate([_risk(ties, y, w) for w in resamples(n, n_boot, seed, groups)])
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return RiskCoverage(
        coverage=answered / n,
        risk=risk,
        aurc=float(risk.mean()),
        best_aurc=float((np.cumsum(np.sort(y)) / answered).mean()),
        error_rate=float(y.mean()),
        risk_low=low,
        risk_high=high,
    )


def _risk(ties: SortedGroups, wrong: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Risk of each resample at coverages 1/n … 1: [B, n] for row weights [B, n]."""
    n = weights.shape[1]
    # Resamples of whole groups need not hold n rows.
    answered = np.arange(1, n + 1) * (weights.sum(axis=1, keepdims=True) / n)
    start = np.zeros((len(weights), 1))
    # Errors grow in a straight line within a tie: that is the mean over all orders of its rows.
    ends = np.cumsum(np.hstack([start, ties.sums(weights)]), axis=1)
    errors = np.cumsum(np.hstack([start, ties.sums(weights * wrong)]), axis=1)
    risen = [np.interp(*each) for each in zip(answered, ends, errors, strict=True)]
    return np.array(risen) / answered


def _check_lengths(values: np.ndarray, labels: np.ndarray) -> int:
    if len(values) != len(labels):
        raise ValueError(f"{len(values)} predictions for {len(labels)} labels")
    return len(values)
