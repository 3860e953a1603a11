"""How well scores order the rows of one group: right runs against wrong runs of one question."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from helpers.evaluation import SAME, Score
from helpers.metric_core import binary, finite, ratio, same_length
from helpers.resampling import unit_resamples

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
