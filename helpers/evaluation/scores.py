"""Scores one may believe: metrics with intervals and p-values, and the curves behind them.

Intervals are 95 % percentile bootstraps over questions; with `groups` (the question of each row)
whole questions are drawn. P-values come from dealing the labels out again at random. A score that
cannot be computed says why, in words; it is never NaN and never a made-up 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy.stats import rankdata

from helpers.evaluation.metrics import (
    CLASSIFIER_METRICS,
    REGRESSION_METRICS,
    Metric,
    SortedGroups,
    Weighted,
    binary,
    equal_width_bins,
    finite,
    probability,
    ratio,
    same_length,
    spearman,
)
from helpers.evaluation.records import Array, FloatOrNan
from helpers.evaluation.resampling import (
    group_count,
    group_index,
    permutations,
    resamples,
    unit_resamples,
)

# --- resampled metrics ---------------------------------------------------------------------------


SAME = 1e-12  # a permutation this close to the observed value equals it


def bootstrap(
    metrics: list[Metric],
    n_boot: int,
    seed: int,
    groups: Sequence[object] | np.ndarray | None,
) -> np.ndarray:
    """Each metric of each resample, [metrics, n_boot]; NaN where undefined."""
    n = metrics[0].n
    defined = [not metric.undefined for metric in metrics]
    values = np.full((len(metrics), n_boot), np.nan)
    if not any(defined):
        return values
    group_of_row = group_index(groups, n)
    if group_of_row is None:
        units, ways = n, [metric.weighted for metric in metrics]
    else:
        units = group_count(group_of_row)
        ways = [
            metric.of_groups(group_of_row) if known else metric.weighted
            for metric, known in zip(metrics, defined, strict=True)
        ]
    done = 0
    for weights in unit_resamples(n, units, n_boot, seed):
        for row, way, known in zip(values, ways, defined, strict=True):
            if known:
                row[done : done + len(weights)] = way(weights)
        done += len(weights)
    return values


def minus(a: Weighted, b: Weighted) -> Weighted:
    """The difference of two metrics of the same rows, resample by resample."""
    return lambda weights: a(weights) - b(weights)


def p_values(
    metrics: list[Metric],
    n_perm: int,
    seed: int,
    groups: Sequence[object] | np.ndarray | None,
    alternative: str = "",
) -> list[float | None]:
    """Each metric's p-value, all by the same permutations; None where it is undefined."""
    tested = [None if metric.undefined else metric.permuted for metric in metrics]
    signs = [-1.0 if (alternative or metric.better) == "less" else 1.0 for metric in metrics]
    size = np.abs if alternative == "two-sided" else np.positive
    observed = [
        np.nan if permuted is None else size(sign * metric.value())
        for metric, permuted, sign in zip(metrics, tested, signs, strict=True)
    ]
    drawn, as_good = 0, [0] * len(metrics)
    if any(tested):
        for indices in permutations(metrics[0].n, n_perm, seed, groups):
            for i, permuted in enumerate(tested):
                if permuted is not None:
                    slack = SAME * max(1.0, abs(observed[i]))
                    found = size(signs[i] * permuted(indices))
                    as_good[i] += int((found >= observed[i] - slack).sum())
            drawn += len(indices)
    return [
        None if permuted is None or not drawn else (1 + count) / (1 + drawn)
        for permuted, count in zip(tested, as_good, strict=True)
    ]


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
    """The value, interval and p-value of one bound metric (see helpers/evaluation/metrics.py)."""
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


# --- order within a group ------------------------------------------------------------------------


CELLS = 2_000_000


def within_group_auroc(
    scores: Sequence[float] | np.ndarray,
    labels: Sequence[int] | np.ndarray,
    groups: Sequence[object] | np.ndarray,
    *,
    n_boot: int = 2000,
    n_perm: int = 2000,
    seed: int = 0,
) -> Score:
    """How often a positive row scores above a negative row of its own group, ties one half.

    The mean over all such pairs, which only groups with both labels have: a score that is the same
    for all rows of a group gets 0.5, however well it orders the groups. The interval draws whole
    groups again, the p-value deals the labels out again within each group (one-sided). `n` counts
    the rows of groups with both labels.

    >>> within_group_auroc([0.9, 0.1, 5, 5], [1, 0, 1, 1], ["a", "a", "b", "b"]).value
    1.0
    """
    scores, labels = finite("scores", np.asarray(scores)), binary("labels", np.asarray(labels))
    same_length(scores, labels)
    of = np.unique(np.asarray(groups), return_inverse=True)[1]
    positives = np.bincount(of, labels)
    mixed = (positives > 0) & (positives < np.bincount(of))
    rows = np.flatnonzero(mixed[of])
    if not len(rows):
        reason = f"none of the {len(mixed)} groups holds both labels"
        return Score("within_question", None, None, None, None, 0, reason)
    rows = rows[np.argsort(of[rows], kind="stable")]
    of = np.unique(of[rows], return_inverse=True)[1]
    labels, sizes = labels[rows], np.bincount(of)
    starts = np.r_[0, np.cumsum(sizes)[:-1]]
    ranks = np.concatenate(
        [rankdata(part) for part in np.split(scores[rows], starts[1:])]
    )  # midranks within each group
    positives = np.bincount(of, labels)
    pairs = positives * (sizes - positives)
    least = positives * (positives + 1) / 2
    wins = np.bincount(of, labels * ranks) - least
    value = float(wins.sum() / pairs.sum())
    draws = np.concatenate(
        [ratio(w @ wins, w @ pairs) for w in unit_resamples(len(rows), len(sizes), n_boot, seed)]
    )
    low, high = np.quantile(draws, [0.025, 0.975])
    p_value = _p_value(
        value, labels, ranks, of, float(least.sum()), float(pairs.sum()), n_perm, seed
    )
    note = f"of {len(sizes)} questions with runs of both kinds"
    few = len(sizes) < 2
    return Score(
        "within_question",
        value,
        None if few else float(low),
        None if few else float(high),
        p_value,
        len(rows),
        note=f"{note}, too few for an interval" if few else note,
    )


def _p_value(
    value: float,
    labels: np.ndarray,
    ranks: np.ndarray,
    of: np.ndarray,
    least: float,
    pairs: float,
    n_perm: int,
    seed: int,
) -> float:
    """(1 + permutations at least as good) / (1 + permutations), labels dealt out within groups."""
    rng, as_good, at_once = np.random.default_rng(seed), 0, max(1, CELLS // len(ranks))
    for start in range(0, n_perm, at_once):
        count = min(at_once, n_perm - start)
        # A group's number and a random fraction: sorting shuffles the rows of each group alone.
        order = np.argsort(of + rng.random((count, len(ranks))), axis=1)
        values = (labels[order] @ ranks - least) / pairs
        as_good += int((values >= value - SAME).sum())
    return (1 + as_good) / (1 + n_perm)


# --- curves --------------------------------------------------------------------------------------


Z_95 = 1.959963984540054


@dataclass(frozen=True)
class ReliabilityCurve:
    """Observed frequency against predicted probability; one entry per bin that holds a row."""

    low_edge: Array  # [bins] the bin's lower edge
    high_edge: Array  # [bins] its upper edge
    mean_predicted: Array  # [bins]
    observed: Array  # [bins] share of positives
    observed_low: Array  # [bins] 95 % Wilson interval of that share
    observed_high: Array  # [bins]
    counts: Array  # [bins] rows


@dataclass(frozen=True)
class RocCurve:
    """True against false positive rate, from (0, 0) to (1, 1); one point per distinct score."""

    false_positive_rate: Array  # [points]
    true_positive_rate: Array  # [points]
    thresholds: Array  # [points - 1] point k + 1 calls score >= thresholds[k] positive


@dataclass(frozen=True)
class RiskCoverage:
    """Error rate among the questions answered, as the least certain are left out."""

    coverage: Array  # [n] share of the questions answered, 1/n .. 1
    risk: Array  # [n] error rate among those answered
    aurc: FloatOrNan  # mean risk over all coverages; lower is better
    best_aurc: FloatOrNan  # the same had every wrong answer been ranked last
    error_rate: FloatOrNan  # risk at full coverage, and the AURC expected of a random order
    risk_low: Array | None = None  # [n] 95 % bootstrap band over questions, if asked for
    risk_high: Array | None = None  # [n]


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
    Intervals of the area and of the accuracy at one coverage are in helpers/evaluation/metrics.py.
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
