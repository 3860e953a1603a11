"""Bootstrap and permutations of four metrics, against a loop that calls a library for each.

python tests/benchmarks/bootstrap.py
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from helpers.evaluation.metrics import Metric, auroc, average_precision, brier, spearman
from helpers.evaluation.resampling import permutations, resamples
from tests.benchmarks.harness import ROUNDS, Comparison, in_turns, require

ROWS = {"tiny": 20, "quick": 240, "full": 240}
DRAWS = {"tiny": 50, "quick": 200, "full": 2000}
TOLERANCE = 1e-9
SEED = 0


@dataclass(frozen=True)
class Predictions:
    """Made-up predictions of a probe that is neither perfect nor useless, with ties."""

    scores: np.ndarray
    """`[n]` in 0 … 1, also taken as probabilities."""
    labels: np.ndarray
    """`[n]`, 0 or 1."""
    values: np.ndarray
    """`[n]`, what the scores are correlated with."""


@dataclass(frozen=True)
class Draws:
    """The row indices of each resample and of each permutation, `[draws, n]`."""

    resampled: np.ndarray
    permuted: np.ndarray


def benchmark(size: str = "full") -> list[Comparison]:
    """All four metrics of as many resamples and as many permutations."""
    data, n = predictions(ROWS[size]), DRAWS[size]
    for name in LIBRARIES:
        by_library(data, drawn_rows(len(data.labels), 2), name)  # imports before the clock runs
    draws = drawn_rows(len(data.labels), n)  # ours remembers them too: neither side pays for them
    held = f"{len(data.labels)} rows, the same {n:,} resamples and {n:,} permutations"
    return [
        Comparison(
            f"bootstrap, {name}",
            f"{LIBRARIES[name]} in a loop, its draws given to it",
            in_turns(
                partial(by_library, data, draws, name),
                partial(at_once, data, n, name),
                ROUNDS[size],
                partial(check, name),
            ),
            held,
            50.0,
        )
        for name in LIBRARIES
    ]


def predictions(n: int) -> Predictions:
    """Scores that tell labels with an AUROC of about 0.8; every tenth of them is tied."""
    rng = np.random.default_rng(SEED)
    values = rng.normal(size=n)
    labels = (values + rng.normal(size=n) > 0).astype(float)
    scores = 1 / (1 + np.exp(-(values + rng.normal(size=n))))
    scores[::10] = np.round(scores[::10], 1)
    return Predictions(scores, labels, values)


def drawn_rows(n: int, draws: int) -> Draws:
    """The rows behind ours: a resample is a row of weights, how often each was drawn."""
    weights = np.concatenate(list(resamples(n, draws, SEED)))
    rows = np.arange(n)
    return Draws(
        np.stack([np.repeat(rows, each.astype(int)) for each in weights]),
        np.concatenate(list(permutations(n, draws, SEED))),
    )


def at_once(data: Predictions, n: int, name: str) -> np.ndarray:
    """Ours, as `helpers.evaluation.scores` does it; the draws are those of `drawn_rows`."""
    truth = data.values if name == "spearman" else data.labels
    metric = METRICS[name](data.scores, truth)
    rows = len(data.scores)
    found = [metric.weighted(weights) for weights in resamples(rows, n, SEED)]
    if metric.permuted is not None:
        found += [metric.permuted(indices) for indices in permutations(rows, n, SEED)]
    return np.concatenate(found)


def by_library(data: Predictions, draws: Draws, name: str) -> np.ndarray:
    """The naive way: one call of a library a draw, the draws given; NaN where it is undefined."""
    call = _library_call(name)
    truth = data.values if name == "spearman" else data.labels
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for rows in draws.resampled:
            found.append(call(truth[rows], data.scores[rows]))
        for rows in draws.permuted:
            found.append(call(truth[rows], data.scores))
    return np.array(found)


def _library_call(name: str) -> Callable[[np.ndarray, np.ndarray], float]:
    from scipy.stats import spearmanr
    from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

    if name == "spearman":
        return lambda truth, scores: float(spearmanr(truth, scores).statistic)
    call = {"auroc": roc_auc_score, "average_precision": average_precision_score,
            "brier": brier_score_loss}[name]  # fmt: skip
    return lambda truth, scores: float(call(truth, scores))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], Metric]] = {
    "auroc": auroc,
    "average_precision": average_precision,
    "brier": brier,
    "spearman": spearman,
}
LIBRARIES = {
    "auroc": "sklearn.metrics.roc_auc_score",
    "average_precision": "sklearn.metrics.average_precision_score",
    "brier": "sklearn.metrics.brier_score_loss",
    "spearman": "scipy.stats.spearmanr",
}


def check(name: str, naive: np.ndarray, found: np.ndarray) -> str:
    """The same value in every draw in which both are defined, and undefined in the same draws."""
    require(naive.shape == found.shape, f"bootstrap: {found.shape} values, naively {naive.shape}")
    require(
        bool((np.isnan(naive) == np.isnan(found)).all()),
        f"bootstrap: {name} is undefined in other draws",
    )
    off = float(np.nanmax(np.abs(naive - found)))
    require(off < TOLERANCE, f"bootstrap: {name} differs by up to {off}")
    return f"{len(naive):,} values equal to {TOLERANCE:g}"


if __name__ == "__main__":
    from tests.benchmarks.run_all import main

    raise SystemExit(main(only="bootstrap"))
