"""The probes' sweep over positions, layers and regularisations, against scikit-learn.

python tests/benchmarks/sweep.py
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from helpers.models.forwards import TokenSequence
from helpers.probes.probe import REGULARISATIONS, sweep
from tests.benchmarks.capture import POSITIONS, at_named_positions
from tests.benchmarks.harness import ROUNDS, Comparison, in_turns, require
from tests.benchmarks.lab_inputs import answer, lab_model

QUESTIONS = {"tiny": 30, "quick": 120, "full": 600}
RIDGE_TOLERANCE = 1e-5
DEFAULT, STRICT = 1e-4, 1e-8
"""scikit-learn's tolerances: by default it stops a little before the optimum."""
LAYERS = {"tiny": 2, "quick": None, "full": None}
"""How many of the layers; None for all."""


@dataclass(frozen=True)
class Inputs:
    """Hidden states, what to predict from them, and the rows for each purpose."""

    hidden: dict[str, np.ndarray]
    regression: np.ndarray
    """`[n]`: mean entropy of the most likely answer's tokens, in nats."""
    classification: np.ndarray
    """`[n]`, 1.0 where that is above its median."""
    train: np.ndarray
    validation: np.ndarray


def benchmark(size: str = "full") -> list[Comparison]:
    """The whole sweep of a ridge and of a logistic probe."""
    for module in ("sklearn.linear_model", "sklearn.pipeline", "scipy.stats"):
        importlib.import_module(module)  # before the clock runs
    inputs = prepare(QUESTIONS[size], LAYERS[size])
    scaled = "scikit-learn, one at a time: StandardScaler,"
    return [
        _compare(
            "sweep, ridge",
            f"{scaled} Ridge(alpha=r), r2_score, and scipy's spearmanr",
            partial(ridges_by_scikit_learn, inputs),
            partial(our_ridges, inputs),
            partial(check, "ridge", RIDGE_TOLERANCE),
            inputs,
            size,
        ),
        *(
            _compare(
                f"sweep, logistic, tol={tolerance:g}",
                f"{scaled} LogisticRegression(C=1/r, tol={tolerance:g}), roc_auc_score",
                partial(logistics_by_scikit_learn, inputs, tolerance),
                partial(our_logistics, inputs),
                partial(check, "logistic", allowed),
                inputs,
                size,
            )
            for tolerance, allowed in auroc_tolerance(inputs).items()
        ),
    ]


def auroc_tolerance(inputs: Inputs) -> dict[float, float]:
    """How far AUROCs may lie apart, by scikit-learn's tolerance.

    Before the optimum, rows that are nearly tied change places: some pairs of them, of which small
    inputs have few.
    """
    positives = inputs.classification[inputs.validation].sum()
    pairs = positives * (inputs.validation.sum() - positives)
    return {DEFAULT: max(5e-3, 4 / pairs), STRICT: 1e-9}


def _compare(
    stage: str,
    naive: str,
    by_library: Callable[[], np.ndarray],
    by_us: Callable[[], np.ndarray],
    compare: Callable[[np.ndarray, np.ndarray], str],
    inputs: Inputs,
    size: str,
) -> Comparison:
    positions, layers, strengths = _shape(inputs)
    held = (
        f"{len(inputs.regression)} lab questions, {inputs.train.sum()} train and "
        f"{inputs.validation.sum()} validation, {positions} positions x {layers} layers x "
        f"{strengths} regularisations"
    )
    rounds = in_turns(by_library, by_us, ROUNDS[size], compare)
    return Comparison(stage, naive, rounds, held, 10.0)


def _shape(inputs: Inputs) -> tuple[int, int, int]:
    return len(POSITIONS), inputs.hidden[POSITIONS[0]].shape[1], len(REGULARISATIONS)


def prepare(n: int, layers: int | None = None) -> Inputs:
    """Hidden states of n lab questions, and targets that they can tell something about."""
    answered = answer(n, 1)
    sequences = [TokenSequence(a.asked.prompt_ids, a.greedy.token_ids) for a in answered]
    entropy = np.array([np.mean(a.greedy.token_entropies) for a in answered])
    part = np.arange(n) % 5
    hidden = at_named_positions(lab_model(), sequences)
    return Inputs(
        hidden={name: states[:, :layers] for name, states in hidden.items()},
        regression=entropy,
        classification=(entropy > np.median(entropy)).astype(float),
        train=part < 3,
        validation=part == 3,
    )


def our_ridges(inputs: Inputs) -> np.ndarray:
    """R² and Spearman's correlation of every fit, `[2, positions, layers, regularisations]`."""
    found = sweep(
        inputs.hidden,
        inputs.regression,
        kind="ridge",
        train=inputs.train,
        validation=inputs.validation,
    )
    assert found.validation_spearman is not None  # a ridge has it
    return np.stack([found.validation_score, found.validation_spearman])


def our_logistics(inputs: Inputs) -> np.ndarray:
    """AUROC of every fit, `[positions, layers, regularisations]`."""
    return sweep(
        inputs.hidden,
        inputs.classification,
        kind="logistic",
        train=inputs.train,
        validation=inputs.validation,
    ).validation_score


def ridges_by_scikit_learn(inputs: Inputs) -> np.ndarray:
    """The naive way: every ridge on its own, standardised on its own."""
    from scipy.stats import spearmanr
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores = np.empty((2, *_shape(inputs)))
    target, known = inputs.regression[inputs.train], inputs.regression[inputs.validation]
    # R² of ours is against the mean of train, where r2_score takes that of validation.
    scale = known.var() / ((known - target.mean()) ** 2).mean()
    for at in np.ndindex(scores.shape[1:]):
        states = _states(inputs, at)
        model = make_pipeline(StandardScaler(), Ridge(alpha=REGULARISATIONS[at[2]]))
        predicted = model.fit(states[inputs.train], target).predict(states[inputs.validation])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where all predictions are equal
            spearman = spearmanr(predicted, known).statistic
        scores[0][at] = 1 - (1 - r2_score(known, predicted)) * scale
        scores[1][at] = 0.0 if np.isnan(spearman) else spearman
    return scores


def logistics_by_scikit_learn(inputs: Inputs, tolerance: float) -> np.ndarray:
    """The naive way: every logistic regression on its own, standardised on its own."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores = np.empty(_shape(inputs))
    target, known = inputs.classification[inputs.train], inputs.classification[inputs.validation]
    for at in np.ndindex(scores.shape):
        states, strength = _states(inputs, at), REGULARISATIONS[at[2]]
        classifier = LogisticRegression(C=1 / strength, tol=tolerance, max_iter=20_000)
        model = make_pipeline(StandardScaler(), classifier)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # one that has not converged is no fit
            model.fit(states[inputs.train], target)
        scores[at] = roc_auc_score(known, model.decision_function(states[inputs.validation]))
    return scores


def _states(inputs: Inputs, at: tuple[int, ...]) -> np.ndarray:
    return inputs.hidden[POSITIONS[at[0]]][:, at[1]].astype(np.float64)


def check(kind: str, tolerance: float, naive: np.ndarray, found: np.ndarray) -> str:
    """The same validation scores of every fit, within the tolerance."""
    require(naive.shape == found.shape, f"sweep: {found.shape} scores, naively {naive.shape}")
    off = float(np.abs(naive - found).max())
    require(off <= tolerance, f"sweep: validation scores of {kind} differ by up to {off}")
    return f"{naive.size} scores equal to {tolerance:.2g} (found {off:.1g})"


if __name__ == "__main__":
    from tests.benchmarks.run_all import main

    raise SystemExit(main(only="sweep"))
