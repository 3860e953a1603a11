"""Scores one may believe: metrics with intervals and permutation p-values.

Intervals are 95 % percentile bootstraps over questions; with `groups` (the question of each row)
whole questions are drawn. P-values come from dealing the labels out again at random. A score that
cannot be computed says why, in words; it is never NaN and never a made-up 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

# The curves belong to this module's face; they live in a file of their own for its length.
from helpers.curves import ReliabilityCurve as ReliabilityCurve
from helpers.curves import RiskCoverage as RiskCoverage
from helpers.curves import RocCurve as RocCurve
from helpers.curves import reliability as reliability
from helpers.curves import risk_coverage as risk_coverage
from helpers.curves import roc_curve as roc_curve
from helpers.metrics import CLASSIFIER_METRICS, REGRESSION_METRICS, Metric, finite, spearman
from helpers.resampled_metrics import SAME as SAME
from helpers.resampled_metrics import bootstrap, minus, p_values

MAX_DROPPED = 0.05  # a larger share of undefined resamples leaves no interval to trust


@dataclass(frozen=True)
class Score:
    """A metric's value with its uncertainty, or the reason why it has none."""

    name: str
    value: float | None
    low: float | None  # 95 % bootstrap interval
    high: float | None
    p_value: float | None
    n: int  # rows
    undefined: str = ""  # why there is no value
    note: str = ""  # what to know of the interval or the p-value, such as why one is absent

    def as_dict(self) -> dict[str, float | int | str | None]:
        """The fields as plain JSON values."""
        return asdict(self)


def evaluate_classifier(
    scores: Sequence[float] | np.ndarray,
    labels: Sequence[int] | np.ndarray,
    *,
    probabilities: Sequence[float] | np.ndarray | None = None,
    n_boot: int = 2000,
    n_perm: int = 2000,
    seed: int = 0,
    groups: Sequence[object] | np.ndarray | None = None,
    positive: str = "positive",
) -> dict[str, Score]:
    """AUROC and average precision of scores [n] for 0/1 labels [n], and Brier and ECE if asked.

    Brier and ECE need `probabilities` [n]; `positive` is the word for label 1 in messages. The
    p-values are one-sided: how often shuffled labels do at least as well (ECE has none). Raises
    ValueError naming a row that is not a number.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    asked = [("auroc", scores), ("average_precision", scores)]
    if probabilities is not None:
        asked += [("brier", np.asarray(probabilities)), ("ece", np.asarray(probabilities))]
    metrics = [CLASSIFIER_METRICS[name](values, labels, positive) for name, values in asked]
    return _score_all(metrics, n_boot, n_perm, seed, groups)


def evaluate_regression(
    predicted: Sequence[float] | np.ndarray,
    true: Sequence[float] | np.ndarray,
    *,
    n_boot: int = 2000,
    n_perm: int = 2000,
    seed: int = 0,
    groups: Sequence[object] | np.ndarray | None = None,
) -> dict[str, Score]:
    """RMSE, MAE (units of `true`) and Spearman's correlation of predicted [n] with true [n].

    The p-values are one-sided: how often shuffled targets are predicted at least as well. Raises
    ValueError naming a row that is not a number.
    """
    predicted, true = np.asarray(predicted), np.asarray(true)
    metrics = [bind(predicted, true) for bind in REGRESSION_METRICS.values()]
    return _score_all(metrics, n_boot, n_perm, seed, groups)


def correlation(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    *,
    n_boot: int = 2000,
    n_perm: int = 2000,
    seed: int = 0,
    groups: Sequence[object] | np.ndarray | None = None,
) -> Score:
    """Spearman's correlation of two columns neither of which predicts the other: two-sided p."""
    metric = spearman(np.asarray(a), np.asarray(b))
    return score_metric(metric, n_boot, n_perm, seed, groups, alternative="two-sided")


def paired_difference(
    scores_a: Sequence[float] | np.ndarray,
    scores_b: Sequence[float] | np.ndarray,
    labels: Sequence[float] | np.ndarray,
    metric: str = "auroc",
    *,
    n_boot: int = 2000,
    seed: int = 0,
    groups: Sequence[object] | np.ndarray | None = None,
) -> Score:
    """Metric of `scores_a` less that of `scores_b`, on the same questions in every resample.

    `metric` is any of auroc, average_precision, brier, ece (0/1 labels; the last two take
    probabilities) and rmse, mae, spearman (`labels` are then the true values). The p-value is
    two-sided and of the bootstrap: twice the smaller share of resamples in which the difference
    is on the other side of zero or at zero. It so agrees with the interval, and needs no
    assumption that the two methods' scores could be exchanged. Two identical methods differ by
    exactly 0 with p = 1. Raises ValueError for an unknown metric or a row that is not a number.
    """
    bind = (CLASSIFIER_METRICS | REGRESSION_METRICS).get(metric)
    if bind is None:
        known = ", ".join(CLASSIFIER_METRICS | REGRESSION_METRICS)
        raise ValueError(f"metric: {metric!r} is not one of {known}")
    a = bind(np.asarray(scores_a), np.asarray(labels))
    b = bind(np.asarray(scores_b), np.asarray(labels))
    difference = Metric(
        name=f"{metric} difference",
        n=a.n,
        weighted=minus(a.weighted, b.weighted),
        permuted=None,
        better=a.better,
        undefined=a.undefined or b.undefined,
        grouped=lambda rows: minus(a.of_groups(rows), b.of_groups(rows)),
    )
    draws = bootstrap([difference], n_boot, seed, groups)[0]
    score = _score(difference, draws, None, groups)
    if score.low is None:
        return score
    draws = draws[np.isfinite(draws)]
    at_or_below, at_or_above = (draws <= SAME).sum(), (draws >= -SAME).sum()
    p = min(1.0, 2 * (1 + min(at_or_below, at_or_above)) / (1 + len(draws)))
    return replace(score, p_value=float(p))


def score_metric(
    metric: Metric,
    n_boot: int = 2000,
    n_perm: int = 2000,
    seed: int = 0,
    groups: Sequence[object] | np.ndarray | None = None,
    alternative: str = "",
) -> Score:
    """The value, interval and p-value of one bound metric (see helpers/metrics.py)."""
    p_value = permutation_p_value(metric, n_perm, seed, groups, alternative)
    return _score(metric, bootstrap([metric], n_boot, seed, groups)[0], p_value, groups)


def permutation_p_value(
    metric: Metric,
    n_perm: int = 2000,
    seed: int = 0,
    groups: Sequence[object] | np.ndarray | None = None,
    alternative: str = "",
) -> float | None:
    """(1 + permutations at least as good) / (1 + permutations): never 0; None where undefined.

    `alternative` is "greater", "less" or "two-sided" (in absolute value); by default the
    direction in which the metric is better. With groups, whole groups of labels change places
    among groups of equal size, rows kept in order; None when no two groups are of equal size.
    """
    return p_values([metric], n_perm, seed, groups, alternative)[0]


def format_score(score: Score, digits: int = 3) -> str:
    """A score as people read it.

    >>> format_score(Score("auroc", 0.912, 0.861, 0.951, 0.0005, 160))
    '0.912 [0.861, 0.951]'
    >>> format_score(Score("auroc", None, None, None, None, 160, "only one class (0 of 160 wrong)"))
    'undefined: only one class (0 of 160 wrong)'
    """
    if score.value is None:
        return f"undefined: {score.undefined}"
    if score.low is None or score.high is None:
        return f"{score.value:.{digits}f} (no interval: {score.note})"
    return f"{score.value:.{digits}f} [{score.low:.{digits}f}, {score.high:.{digits}f}]"


def best_split_threshold(values: Sequence[float] | np.ndarray) -> float | None:
    """γ*: the threshold that best parts values into a low and a high group; high = value > γ*.

    Minimises Σ_low (v − mean_low)² + Σ_high (v − mean_high)² over the midpoints between
    neighbouring distinct values; the lowest of equally good ones. None when all values are equal,
    or there are none: nothing can be called high. Raises ValueError naming a row that is not a
    number. Kossen et al. 2024, "Semantic Entropy Probes", binarisation by best split.

    >>> best_split_threshold([0.0, 0.25, 1.75, 2.0])
    1.0
    """
    ordered = np.sort(finite("values", np.asarray(values, dtype=np.float64)))
    cuts = np.flatnonzero(ordered[1:] > ordered[:-1]) + 1  # rows that fall in the low group
    if not cuts.size:
        return None
    # The squares within the groups and between them add up to a constant: maximise the latter.
    centred = ordered - ordered.mean()
    below = np.cumsum(centred)[cuts - 1]
    between = below**2 / cuts + (centred.sum() - below) ** 2 / (len(ordered) - cuts)
    cut = cuts[np.argmax(between)]
    low, high = ordered[cut - 1], ordered[cut]
    middle = low + (high - low) / 2
    return float(middle if middle < high else low)  # neighbouring floats have no middle


def _score_all(
    metrics: list[Metric],
    n_boot: int,
    n_perm: int,
    seed: int,
    groups: Sequence[object] | np.ndarray | None,
) -> dict[str, Score]:
    """Score metrics of the same rows on the same resamples."""
    draws = bootstrap(metrics, n_boot, seed, groups)
    found = p_values(metrics, n_perm, seed, groups)
    return {
        metric.name: _score(metric, d, p, groups)
        for metric, d, p in zip(metrics, draws, found, strict=True)
    }


def _score(
    metric: Metric,
    draws: np.ndarray,
    p_value: float | None,
    groups: Sequence[object] | np.ndarray | None,
) -> Score:
    """Put a metric's value, resampled values [n_boot] and p-value together."""
    if metric.undefined:
        return Score(metric.name, None, None, None, None, metric.n, metric.undefined)
    defined = draws[np.isfinite(draws)]
    dropped = 1 - len(defined) / max(len(draws), 1)
    low = high = None
    if groups is not None and len(set(np.asarray(groups).tolist())) < 2:
        note = "all rows belong to one group"
    elif len(defined) == 0 or dropped > MAX_DROPPED:
        note = f"undefined in {dropped:.0%} of {len(draws)} resamples"
    else:
        low, high = (float(edge) for edge in np.quantile(defined, [0.025, 0.975]))
        note = ""
        if dropped > 0:
            note = f"{len(draws) - len(defined)} of {len(draws)} resamples undefined, left out"
        elif low == high:
            note = "every resample gives the same value: the rows are too few or too alike"
        if groups is not None and p_value is None and metric.permuted is not None:
            note = "; ".join(filter(None, [note, "no p-value: no two groups are of equal size"]))
    return Score(metric.name, metric.value(), low, high, p_value, metric.n, note=note)
