"""Test scores at every position and layer, to be looked at after all choices have been made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from helpers.probe_solvers import decompose, raw_outputs
from helpers.probes import SOLVERS, Sweep, UndefinedTarget, check_target, column_scores


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
    score: np.ndarray | None
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
    `helpers.probes.sweep`. The sweep has made its choice before and does not see this.
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
