"""How far a prediction for one question can be believed, by what came of the validation questions.

Validation questions say how far a prediction is off: the probes' weights were not fitted to them.
The layer and the position were chosen by them, and probabilities calibrated on them, so what is
said here is a little too good.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from helpers.curves import wilson_interval
from helpers.probes import Probe

LEVEL = 0.9
"""Of the interval of a semantic entropy."""
NEAREST = 30
"""Validation questions with the nearest predictions, of which a share is told."""
NEIGHBOURS = 5
"""Training questions to which a question's distance is measured."""
FEWEST_COMPARED = 20
"""Validation questions without which nothing is said of how unlike a question is."""
MOST_TRAIN, MOST_VALIDATION = 2000, 500
"""Questions at most in the distances, which would else take seconds in large runs."""


@dataclass(frozen=True)
class Interval:
    """Where the truth may lie, by what came of the validation questions."""

    low: float | None
    """Nats or a share; None where there are too few questions."""
    high: float | None
    share: float | None
    """Share of the questions with the nearest predictions that are positive; None of entropies."""
    n: int
    """Validation questions behind it."""
    words: str


@dataclass(frozen=True)
class Unlikeness:
    """How unlike the training questions a question looks to the model."""

    quantile: float | None
    """Share of the validation questions that are nearer to the training questions."""
    n: int
    """Validation questions that it was compared with."""
    far: bool
    """Whether the probes should not be trusted with it."""
    words: str


def conformal_interval(
    value: float, predicted: np.ndarray, measured: np.ndarray, *, largest: float
) -> Interval:
    """The split-conformal interval of a predicted entropy, from validation questions `[n]`, nats.

    Its half width is the residual of rank ⌈0.9 (n + 1)⌉, so that it holds the entropy of nine in
    ten questions drawn like those, whatever the probe. Entropies lie between 0 and `largest`, and
    predictions are moved there first. Vovk et al. 2005; Lei et al. 2018.
    """
    n = len(predicted)
    rank = math.ceil(round(LEVEL * (n + 1), 9))
    if rank > n:
        fewest = math.ceil(round(LEVEL / (1 - LEVEL), 9))
        return Interval(
            None, None, None, n, f"no interval: the run has {n} validation questions, and an "
            f"interval of {100 * LEVEL:.0f} % takes at least {fewest}",
        )  # fmt: skip
    half = float(np.sort(np.abs(np.clip(predicted, 0, largest) - measured))[rank - 1])
    centre = min(max(value, 0.0), largest)
    low, high = max(0.0, centre - half), min(largest, centre + half)
    words = f"{100 * LEVEL:.0f} % interval {low:.2f} to {high:.2f} nats: that share of {n} "
    words += f"validation questions was within {half:.2f} nats of the prediction"
    return Interval(low, high, None, n, words)


def observed_share(
    value: float, predicted: np.ndarray, labels: np.ndarray, positive: str
) -> Interval:
    """How often what was predicted came true, among the validation questions `[n]` with the
    nearest predictions, with the 95 % Wilson interval; `positive` is its name.
    """
    n = len(predicted)
    if n < NEAREST:
        return Interval(
            None, None, None, n, f"no interval: the outcome is known of {n} validation questions, "
            f"and it takes {NEAREST}",
        )  # fmt: skip
    nearest = np.argsort(np.abs(predicted - value), kind="stable")[:NEAREST]
    share = float(labels[nearest].mean())
    low, high = (float(end) for end in wilson_interval(np.array(share), np.array(NEAREST)))
    return Interval(
        low, high, share, NEAREST, f"of the {NEAREST} validation questions with the nearest "
        f"predictions ({predicted[nearest].min():.2f} to {predicted[nearest].max():.2f}), "
        f"{100 * share:.0f} % were {positive} (95 % interval {100 * low:.0f} to "
        f"{100 * high:.0f} %)",
    )  # fmt: skip


def unlikeness(
    probe: Probe, state: np.ndarray, hidden: np.ndarray, train: np.ndarray, validation: np.ndarray
) -> Unlikeness:
    """How far a state `[1, width]` is from those of training questions, against validation's.

    `hidden` `[n, width]` is of the probe's place, `train` and `validation` are boolean masks `[n]`.
    Distances are means over the nearest training questions, in the probe's standardised space. Sun
    et al. 2022, nearest neighbours for out-of-distribution detection.
    """
    n = int(validation.sum())
    if n < FEWEST_COMPARED or train.sum() < NEIGHBOURS:
        words = f"not known whether it is like the training questions: only {n} validation "
        return Unlikeness(None, n, False, words + "questions to compare it with")

    def standardised(rows: np.ndarray) -> np.ndarray:
        return (np.asarray(rows, dtype=np.float64) - probe.mean) / probe.scale

    # Thinned before they are read: in large runs the states are mapped from disk.
    known = standardised(hidden[_thinned(train, MOST_TRAIN)])
    usual = _distances(standardised(hidden[_thinned(validation, MOST_VALIDATION)]), known)
    quantile = float((usual < _distances(standardised(state), known)).mean())
    share = "all" if quantile == 1 else f"{100 * quantile:.0f} % of"
    words = f"further from the training questions than {share} {len(usual)} validation questions"
    far = quantile >= 0.99
    if far:
        words += ": do not trust the numbers"
    elif quantile >= 0.95:
        words += ": unusual, so trust the numbers less"
    return Unlikeness(quantile, len(usual), far, words)


def _thinned(chosen: np.ndarray, most: int) -> np.ndarray:
    """At most so many rows of a mask, evenly spread."""
    rows = np.flatnonzero(chosen)
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)]


def _distances(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The mean distance of each row to its nearest known rows, `[n]`."""
    squared = (rows**2).sum(1)[:, None] + (known**2).sum(1) - 2 * rows @ known.T
    nearest = np.partition(squared.clip(min=0), NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
    return np.sqrt(nearest).mean(1)
