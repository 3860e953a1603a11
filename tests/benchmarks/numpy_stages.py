"""What computes numbers: the probes' sweep and resampling, each against libraries in a loop."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from helpers.evaluation.metrics import Metric, auroc, average_precision, brier, spearman
from helpers.evaluation.resampling import permutations, resamples
from helpers.probes.probe import REGULARISATIONS
from helpers.probes.probe import sweep as our_sweep
from tests.benchmarks.harness import Comparison, Size, close, compare
from tests.benchmarks.model_stages import POSITIONS, answered, at_named_positions, lab_model

# --- the sweep -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """Hidden states, what to predict from them, and the rows for each purpose."""

    hidden: dict[str, np.ndarray]
    entropy: np.ndarray
    """`[n]`: mean entropy of the most likely answer's tokens, in nats."""
    high: np.ndarray
    """`[n]`, 1.0 where that is above its median."""
    train: np.ndarray
    validation: np.ndarray

    @property
    def fits(self) -> tuple[int, int, int]:
        """Positions, layers and regularisations."""
        return len(POSITIONS), self.hidden[POSITIONS[0]].shape[1], len(REGULARISATIONS)


def sweep(size: Size) -> list[Comparison]:
    """The whole sweep of a ridge and of a logistic probe, over positions, layers and strengths."""
    for module in ("sklearn.linear_model", "sklearn.pipeline", "scipy.stats"):
        importlib.import_module(module)  # before the clock runs
    n = {"tiny": 30, "quick": 120, "full": 600}[size]
    asked, part = answered(n, 1), np.arange(n) % 5
    entropy = np.array([np.mean(a.greedy.token_entropies) for a in asked if a.greedy])
    hidden = at_named_positions(lab_model(), [a.sequence for a in asked])
    layers = 2 if size == "tiny" else None
    inputs = Inputs(
        {name: states[:, :layers] for name, states in hidden.items()},
        entropy, (entropy > np.median(entropy)).astype(float), part < 3, part == 3,
    )  # fmt: skip
    positives = inputs.high[inputs.validation].sum()
    pairs = positives * (inputs.validation.sum() - positives)
    held = (
        f"{n} lab questions, {inputs.train.sum()} train and {inputs.validation.sum()} validation, "
        "{} positions x {} layers x {} regularisations".format(*inputs.fits)
    )
    made = [
        compare(
            size, "sweep, ridge", "StandardScaler, Ridge(alpha=r), r2_score, spearmanr", held,
            partial(ridges_by_libraries, inputs), partial(ours, inputs, "ridge"),
            lambda a, b: close("scores of ridge", a, b, 1e-5), 10.0,
        )
    ]  # fmt: skip
    # By default scikit-learn stops a little before the optimum: nearly tied rows change places.
    for tolerance, allowed in ((1e-4, max(5e-3, 4 / pairs)), (1e-8, 1e-9)):
        words = f"StandardScaler, LogisticRegression(C=1/r, tol={tolerance:g}), roc_auc_score"
        check: Any = partial(close, "scores of logistic", tolerance=allowed)
        made.append(
            compare(
                size, f"sweep, logistic, tol={tolerance:g}", words, held,
                partial(logistics_by_libraries, inputs, tolerance),
                partial(ours, inputs, "logistic"), check, 10.0,
            )
        )  # fmt: skip
    return made


def ours(inputs: Inputs, kind: Any) -> np.ndarray:
    """Of every fit the AUROC, or R² and Spearman's correlation of a ridge, `[…, *fits]`."""
    target = inputs.entropy if kind == "ridge" else inputs.high
    found = our_sweep(
        inputs.hidden, target, kind=kind, train=inputs.train, validation=inputs.validation
    )
    if found.validation_spearman is None:
        return found.validation_score
    return np.stack([found.validation_score, found.validation_spearman])


def _fitted(inputs: Inputs, target: np.ndarray, at: tuple[int, ...], estimator: Any) -> Any:
    """A fit on its own, standardised on its own, and the validation rows' states."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    states = inputs.hidden[POSITIONS[at[0]]][:, at[1]].astype(np.float64)
    model = make_pipeline(StandardScaler(), estimator)
    return model.fit(states[inputs.train], target[inputs.train]), states[inputs.validation]


def ridges_by_libraries(inputs: Inputs) -> np.ndarray:
    """The plain way: one ridge at a time."""
    from scipy.stats import spearmanr
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score

    scores = np.empty((2, *inputs.fits))
    train, known = inputs.entropy[inputs.train], inputs.entropy[inputs.validation]
    # R² of ours is against the mean of train, where r2_score takes that of validation.
    scale = known.var() / ((known - train.mean()) ** 2).mean()
    for at in np.ndindex(inputs.fits):
        model, states = _fitted(inputs, inputs.entropy, at, Ridge(alpha=REGULARISATIONS[at[2]]))
        predicted = model.predict(states)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where all predictions are equal
            correlation = spearmanr(predicted, known).statistic
        scores[0][at] = 1 - (1 - r2_score(known, predicted)) * scale
        scores[1][at] = np.nan_to_num(correlation)
    return scores


def logistics_by_libraries(inputs: Inputs, tolerance: float) -> np.ndarray:
    """The plain way: one logistic regression at a time."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    scores = np.empty(inputs.fits)
    for at in np.ndindex(inputs.fits):
        strength = REGULARISATIONS[at[2]]
        estimator = LogisticRegression(C=1 / strength, tol=tolerance, max_iter=20_000)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # one that has not converged is no fit
            model, states = _fitted(inputs, inputs.high, at, estimator)
        scores[at] = roc_auc_score(inputs.high[inputs.validation], model.decision_function(states))
    return scores


# --- resampling ----------------------------------------------------------------------------------

SEED = 0
LIBRARIES: dict[str, tuple[Callable[[np.ndarray, np.ndarray], Metric], str]] = {
    "auroc": (auroc, "sklearn.metrics:roc_auc_score"),
    "average_precision": (average_precision, "sklearn.metrics:average_precision_score"),
    "brier": (brier, "sklearn.metrics:brier_score_loss"),
    "spearman": (spearman, "scipy.stats:spearmanr"),
}
"""Metric to ours and to a library's."""


def bootstrap(size: Size) -> list[Comparison]:
    """Four metrics of as many resamples and as many permutations."""
    n, draws = {"tiny": (20, 50), "quick": (240, 200), "full": (240, 2000)}[size]
    rows = drawn_rows(n, draws)  # ours remembers them too: neither side pays for them
    for name in LIBRARIES:
        by_library(name, n, tuple(r[:2] for r in rows))  # imports before the clock runs
    return [
        compare(
            size, f"bootstrap, {name}", f"{library} in a loop, its draws given to it",
            f"{n} rows, the same {draws:,} resamples and {draws:,} permutations",
            partial(by_library, name, n, rows), partial(at_once, name, n, draws),
            partial(close, name, tolerance=1e-9), 50.0,
        )
        for name, (_, library) in LIBRARIES.items()
    ]  # fmt: skip


def predictions(n: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores in 0 … 1, every tenth of them tied, and what they tell with an AUROC of about 0.8."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=n)
    labels = (values + rng.normal(size=n) > 0).astype(float)
    scores = 1 / (1 + np.exp(-(values + rng.normal(size=n))))
    scores[::10] = np.round(scores[::10], 1)
    return scores, values if name == "spearman" else labels


def drawn_rows(n: int, draws: int) -> tuple[np.ndarray, ...]:
    """The rows of each resample and of each permutation, `[draws, n]`, as ours draws them.

    A resample is a row of weights: how often each row was drawn.
    """
    weights = np.concatenate(list(resamples(n, draws, SEED)))
    drawn = np.stack([np.repeat(np.arange(n), each.astype(int)) for each in weights])
    return drawn, np.concatenate(list(permutations(n, draws, SEED)))


def at_once(name: str, n: int, draws: int) -> np.ndarray:
    """Ours, as `helpers.evaluation.scores` does it; the draws are those of `drawn_rows`."""
    metric = LIBRARIES[name][0](*predictions(n, name))
    found = [metric.weighted(weights) for weights in resamples(n, draws, SEED)]
    if metric.permuted is not None:
        found += [metric.permuted(indices) for indices in permutations(n, draws, SEED)]
    return np.concatenate(found)


def by_library(name: str, n: int, rows: tuple[np.ndarray, ...]) -> np.ndarray:
    """The plain way: one call of a library a draw, the draws given; NaN where it is undefined."""
    module, _, function = LIBRARIES[name][1].partition(":")
    call = getattr(importlib.import_module(module), function)
    scores, truth = predictions(n, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [call(truth[drawn], scores[drawn]) for drawn in rows[0]]
        found += [call(truth[order], scores) for order in rows[1]]
    return np.array([float(getattr(value, "statistic", value)) for value in found])
