"""Probes that read a target from hidden states: records, fitting, choosing, predicting, drawing.

Hidden states are a dict from position name to an array [n, layers + 1, width]; entry 0 is the
input of the first block and entry i + 1 the output of block i. Standardisation is fitted on the
training rows, every choice is made on the validation rows, and no function here sees a test row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import expit, ndtr, xlog1py, xlogy

from helpers.errors import UserError
from helpers.evaluation.records import Array, FloatOrNan
from helpers.probes.solvers import (
    column_auroc,
    column_spearman,
    decompose,
    finite_features,
    logistic_path,
    one_thread_if_small,
    raw_outputs,
    ridge_path,
)

LinearKind = Literal["ridge", "logistic", "soft-logistic"]
MlpKind = Literal["regression", "classification"]
SOLVERS = {"ridge": ridge_path, "logistic": logistic_path, "soft-logistic": logistic_path}
CLASSIFIERS = ("logistic", "classification")
PROBABILITIES = (*CLASSIFIERS, "soft-logistic")
"""Kinds whose predictions lie between 0 and 1."""
SCORE_NAMES = {"ridge": "R²", "logistic": "AUROC", "soft-logistic": "D²"}
REGULARISATIONS = tuple(10.0**power for power in range(-1, 7))
QUANTILE_LEVELS = tuple(level / 20 for level in range(21))


class UndefinedTarget(UserError):
    """The target leaves a probe undefined (one class, or no variation); the message says why."""


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A ridge or logistic probe at one position and layer.

    weight [width] and bias apply to (hidden - mean) / scale. A soft-logistic probe was fitted to
    shares between 0 and 1 instead of labels. target says in words what is predicted. threshold is
    the entropy in nats above which the target counted as high, if it was made that way. training
    holds n_train, the target's mean and std (its base rate, if logistic) and the quantiles of the
    predictions on the training rows.
    """

    name: str
    kind: LinearKind
    target: str
    position: str
    layer: int
    weight: np.ndarray
    bias: float
    mean: np.ndarray
    scale: np.ndarray
    regularisation: float
    training: dict[str, Any]
    threshold: float | None = None


@dataclass(frozen=True, eq=False)
class MlpProbe:
    """A two-layer perceptron (linear, GELU, linear) at one position and layer.

    hidden_weight [width, units], hidden_bias [units], output_weight [units] and output_bias apply
    to (hidden - mean) / scale. Other fields as in LinearProbe.
    """

    name: str
    kind: MlpKind
    target: str
    position: str
    layer: int
    hidden_weight: np.ndarray
    hidden_bias: np.ndarray
    output_weight: np.ndarray
    output_bias: float
    mean: np.ndarray
    scale: np.ndarray
    training: dict[str, Any]
    threshold: float | None = None


Probe = LinearProbe | MlpProbe


@dataclass(frozen=True, eq=False)
class Sweep:
    """Validation scores of a probe at every position, layer and regularisation.

    validation_score [positions, layers, regularisations] is, as score_name says, the AUROC
    (logistic), R² against the mean of the training target (ridge; the best R² is the smallest
    squared error) or D², the same for cross-entropy (soft-logistic). validation_spearman has the
    same shape (0 where all predictions are equal) and is None for logistic. The best entry has
    the highest score; among equals the strongest regularisation, then the earliest layer, then
    the first position.
    """

    kind: LinearKind
    score_name: str
    positions: tuple[str, ...]
    layers: tuple[int, ...]
    regularisations: tuple[float, ...]
    validation_score: Array
    validation_spearman: Array | None
    best_position: str
    best_layer: int
    best_regularisation: FloatOrNan
    best_score: FloatOrNan
    n_train: int
    n_validation: int


def margin(probe: Probe, hidden: np.ndarray) -> np.ndarray:
    """The raw output [n] for hidden states [n, width]: log-odds of a classifier, else the value.

    Raises UserError when the width is not the one the probe was trained on, or a value is NaN.
    """
    values = finite_features(hidden)
    if values.ndim != 2 or values.shape[1] != len(probe.mean):
        raise UserError(
            f"probe {probe.name}: reads hidden states [n, {len(probe.mean)}] but got "
            f"{list(values.shape)}: use the model it was trained for"
        )
    values = (values - probe.mean) / probe.scale
    with one_thread_if_small(*values.shape):
        if isinstance(probe, LinearProbe):
            return values @ probe.weight + probe.bias
        units = values @ probe.hidden_weight + probe.hidden_bias
        return (units * ndtr(units)) @ probe.output_weight + probe.output_bias


def predict(probe: Probe, hidden: np.ndarray) -> np.ndarray:
    """Predictions [n] for hidden states [n, width].

    A regression predicts in the target's unit (nats for an entropy) and is not clipped, so it may
    fall a little below 0; a classifier predicts the probability of label 1, a soft-logistic probe
    a share between 0 and 1.
    """
    raw = margin(probe, hidden)
    return expit(raw) if probe.kind in PROBABILITIES else raw


def training_quantile(probe: Probe, predictions: np.ndarray) -> np.ndarray:
    """The share of training predictions below each prediction [n], between 0 and 1."""
    quantiles = probe.training["prediction_quantiles"]
    return np.interp(predictions, quantiles, QUANTILE_LEVELS)


def sweep(
    hidden: Mapping[str, np.ndarray],
    target: np.ndarray,
    *,
    kind: LinearKind,
    train: np.ndarray,
    validation: np.ndarray,
    regularisations: Sequence[float] = REGULARISATIONS,
    target_name: str = "target",
    progress: Callable[[int, int], None] | None = None,
) -> Sweep:
    """Fit the whole regularisation path at every position and layer and score it on validation.

    hidden as in the module's docstring; target [n] in nats, 0 / 1, or shares; train and validation
    are boolean masks [n] (target values outside them are never read). progress is called with the
    number of position-layer pairs done and their total.

    Raises UndefinedTarget when the target does not vary on either side.
    """
    values = np.asarray(target, dtype=np.float64)
    if (train & validation).any():
        raise ValueError("train and validation share rows")
    check_target(values[train], kind, f"{target_name}, train")
    check_target(values[validation], kind, f"{target_name}, validation")
    strengths = tuple(sorted(float(value) for value in regularisations))
    if not strengths or strengths[0] <= 0:
        raise ValueError("regularisations must be positive")
    positions, n_layers = tuple(hidden), _layer_count(hidden, len(values))
    score = np.empty((len(positions), n_layers, len(strengths)))
    spearman = None if kind == "logistic" else np.empty_like(score)
    for row, position in enumerate(positions):
        columns = []
        with one_thread_if_small(int(train.sum()), hidden[position].shape[-1]):
            for layer in range(n_layers):
                states = hidden[position][:, layer]
                basis = decompose(states[train])
                solved = SOLVERS[kind](basis, values[train], strengths)
                columns.append(raw_outputs(basis, solved, states[validation]))
                if progress is not None:
                    progress(row * n_layers + layer + 1, len(positions) * n_layers)
        raw, shape = np.concatenate(columns, axis=1), score[row].shape
        found = column_scores(raw, values[validation], values[train].mean(), kind)
        score[row] = found.reshape(shape)
        if spearman is not None:
            spearman[row] = column_spearman(raw, values[validation]).reshape(shape)
    best = best_entry(score)
    return Sweep(
        kind=kind,
        score_name=SCORE_NAMES[kind],
        positions=positions,
        layers=tuple(range(n_layers)),
        regularisations=strengths,
        validation_score=score,
        validation_spearman=spearman,
        best_position=positions[best[0]],
        best_layer=best[1],
        best_regularisation=strengths[best[2]],
        best_score=float(score[best]),
        n_train=int(train.sum()),
        n_validation=int(validation.sum()),
    )


def fit_probe(
    hidden: Mapping[str, np.ndarray],
    target: np.ndarray,
    *,
    kind: LinearKind,
    position: str,
    layer: int,
    regularisation: float,
    rows: np.ndarray,
    name: str,
    target_name: str = "target",
    threshold: float | None = None,
) -> LinearProbe:
    """Fit one linear probe on the rows of a boolean mask [n].

    Ridge minimises the summed squared error + regularisation |w|^2, logistic the summed log-loss
    (soft-logistic: cross-entropy with shares) + regularisation / 2 |w|^2, on standardised features
    with a free bias.

    Raises UndefinedTarget when the target does not vary on the rows, UserError for a position or
    layer that is not among the hidden states.
    """
    values = np.asarray(target, dtype=np.float64)[rows]
    check_target(values, kind, f"{target_name}, train")
    basis = decompose(states_at(hidden, position, layer)[rows])
    solved = SOLVERS[kind](basis, values, [regularisation])
    with one_thread_if_small(*basis.values.shape):
        raw = basis.scores @ solved.weights[:, 0] + solved.bias[0]
        weight = basis.directions @ solved.weights[:, 0]
    return LinearProbe(
        name=name,
        kind=kind,
        target=target_name,
        position=position,
        layer=int(layer),
        weight=weight,
        bias=float(solved.bias[0]),
        mean=basis.scaler.mean,
        scale=basis.scaler.scale,
        regularisation=float(regularisation),
        training=training_statistics(values, expit(raw) if kind in PROBABILITIES else raw, kind),
        threshold=None if threshold is None else float(threshold),
    )


def check_target(values: np.ndarray, kind: LinearKind | MlpKind, where: str) -> None:
    """Raise UndefinedTarget, naming where, unless the target values [n] vary.

    Raises ValueError for a classifier's target that is not 0 / 1, a soft-logistic probe's outside
    0 to 1, or a value that is not finite.
    """
    if not len(values):
        raise UndefinedTarget(f"{where}: no rows: a probe is undefined; raise the question limit")
    if not np.isfinite(values).all():
        raise ValueError(f"{where}: the target holds NaN or infinity")
    if kind == "soft-logistic" and not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"{where}: a soft target must lie between 0 and 1")
    if kind in CLASSIFIERS:
        if not np.isin(values, (0, 1)).all():
            raise ValueError(f"{where}: a classifier's target must be 0 or 1")
        positive = int(values.sum())
        if positive in (0, len(values)):
            raise UndefinedTarget(
                f"{where}: only one class ({positive} of {len(values)} are positive), so a "
                "classifier is undefined: use more questions, or ones whose outcome varies"
            )
    elif np.ptp(values) == 0:
        raise UndefinedTarget(
            f"{where}: the same value ({values[0]:g}) in all {len(values)} rows, so a regression "
            "is undefined: use more questions, or ones whose outcome varies"
        )


def training_statistics(
    values: np.ndarray, predictions: np.ndarray, kind: LinearKind | MlpKind
) -> dict[str, Any]:
    """What a probe remembers of its training rows: counts, the target, prediction quantiles."""
    quantiles = np.quantile(predictions, QUANTILE_LEVELS)
    statistics: dict[str, Any] = {"n_train": len(values)}
    if kind in CLASSIFIERS:
        statistics["base_rate"] = float(values.mean())
    else:
        statistics |= {"target_mean": float(values.mean()), "target_std": float(values.std())}
    return statistics | {"prediction_quantiles": [float(value) for value in quantiles]}


def states_at(hidden: Mapping[str, np.ndarray], position: str, layer: int) -> np.ndarray:
    """Hidden states [n, width] at one place; raises UserError where it was not captured."""
    if position not in hidden:
        raise UserError(f"position {position!r}: not captured: choose one of {', '.join(hidden)}")
    if not 0 <= layer < hidden[position].shape[1]:
        raise UserError(
            f"layer {layer}: not captured: choose 0 (the embedding) to "
            f"{hidden[position].shape[1] - 1}"
        )
    return hidden[position][:, layer]


def column_scores(
    raw: np.ndarray, target: np.ndarray, reference: float, kind: LinearKind
) -> np.ndarray:
    """The score of each column of raw outputs [n, problems] for a target [n].

    R² and D² are the share of the training mean's (reference's) loss that the probe takes away:
    1 for the target itself, 0 for the training mean.
    """
    if kind == "logistic":
        return column_auroc(raw, target)
    if kind == "ridge":
        errors = ((raw - target[:, None]) ** 2).sum(axis=0)
        return 1.0 - errors / ((target - reference) ** 2).sum()
    own = -(xlogy(target, target) + xlog1py(1 - target, -target)).sum()
    loss = (np.logaddexp(0.0, raw) - target[:, None] * raw).sum(axis=0)
    worst = -(xlogy(target, reference) + xlog1py(1 - target, -reference)).sum()
    return 1.0 - (loss - own) / (worst - own)


def _layer_count(hidden: Mapping[str, np.ndarray], rows: int) -> int:
    shapes = {name: states.shape for name, states in hidden.items()}
    layers = {shape[1] for shape in shapes.values() if len(shape) == 3 and shape[0] == rows}
    if len(layers) != 1 or any(len(s) != 3 or s[0] != rows for s in shapes.values()):
        raise ValueError(f"hidden states must be [{rows}, layers + 1, width] alike: {shapes}")
    return layers.pop()


def best_entry(score: np.ndarray) -> tuple[int, int, int]:
    """Index of the best score [positions, layers, regularisations in ascending order].

    Ties go to the strongest regularisation, then the earliest layer, then the first position.
    """
    # Rounding keeps the choice the same where only the last bits of a score differ.
    rounded = np.round(score, 10)
    tied = np.argwhere(rounded == rounded.max())
    position, layer, strength = min(tied.tolist(), key=lambda at: (-at[2], at[1], at[0]))
    return position, layer, strength


# --- scores at every position and layer ----------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DisplayMap:
    """Scores on the test questions at every place, for display: nothing may be chosen by them.

    score [positions, layers] is as score_name says, each place with the regularisation that is
    best there on validation. It is None where the n test rows leave it undefined, for the reason
    given.
    """

    score_name: str
    positions: tuple[str, ...]
    layers: tuple[int, ...]
    score: Array | None
    n: int
    undefined: str = ""


def display_map(
    hidden: Mapping[str, np.ndarray],
    target: np.ndarray,
    chosen: Sweep,
    *,
    train: np.ndarray,
    test: np.ndarray,
) -> DisplayMap:
    """Test scores of a sweep's probes, refitted on train at every position and layer.

    hidden position to [n, layers + 1, width], target [n], train and test boolean masks [n], as for
    `helpers.probes.probe.sweep`. The sweep has made its choice before and does not see this.
    """
    values = np.asarray(target, dtype=np.float64)
    if (train & test).any():
        raise ValueError("train and test share rows")
    n = int(test.sum())
    name, positions, layers = chosen.score_name, chosen.positions, chosen.layers
    try:
        check_target(values[test], chosen.kind, "test")
    except UndefinedTarget as reason:
        return DisplayMap(name, positions, layers, None, n, str(reason))
    score = np.empty((len(positions), len(layers)))
    for row, column, raw in refits(hidden, values, chosen, train=train, rows=test):
        score[row, column] = column_scores(
            raw[:, None], values[test], float(values[train].mean()), chosen.kind
        )[0]
    return DisplayMap(name, positions, layers, score, n)


def refits(
    hidden: Mapping[str, np.ndarray],
    target: np.ndarray,
    chosen: Sweep,
    *,
    train: np.ndarray,
    rows: np.ndarray,
) -> Iterator[tuple[int, int, np.ndarray]]:
    """A sweep's probe refitted on train at every place, with the regularisation best there.

    Yields the numbers of the position and the layer, and the raw outputs for the rows of a
    boolean mask [n]. Arguments as for `display_map`.
    """
    for row, position in enumerate(chosen.positions):
        for column, layer in enumerate(chosen.layers):
            strength = _best_regularisation(chosen, row, column)
            states = hidden[position][:, layer]
            basis = decompose(states[train])
            solved = SOLVERS[chosen.kind](basis, target[train], [strength])
            yield row, column, raw_outputs(basis, solved, states[rows])[:, 0]


def _best_regularisation(chosen: Sweep, row: int, column: int) -> float:
    """The best on validation at one place; among equals the strongest, as in the sweep."""
    strongest_first = chosen.validation_score[row, column][::-1]
    return chosen.regularisations[::-1][int(np.round(strongest_first, 10).argmax())]
