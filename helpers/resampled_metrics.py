"""Bound metrics over the bootstrap's resamples and over permutations, several metrics at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from helpers.metric_core import Metric, Weighted
from helpers.resampling import group_count, group_index, permutations, unit_resamples

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
