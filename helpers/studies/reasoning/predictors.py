"""What predicts a label of the study: the probes, and the simple baselines beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from helpers.evaluation.metrics import auroc
from helpers.studies.reasoning.probes import (
    COMBINED,
    CORRECTNESS,
    ENTROPY,
    THINKING,
    parts_of,
)
from helpers.studies.reasoning.records import (
    PREDICTORS,
    Prediction,
    RunTable,
    StudyProbes,
)

LENGTH = "thinking_length"
QUESTION_ENTROPY, AGREEMENT = "question_semantic_entropy", "agreement"
NEEDS_OTHER_RUNS = (QUESTION_ENTROPY, AGREEMENT)
"""Baselines that a single run does not have: they need the question's other runs."""
GIVES_CORRECT = (CORRECTNESS, THINKING, COMBINED)
"""Probes whose probability is that of a correct run."""
TITLES = {
    CORRECTNESS: "correctness probe",
    ENTROPY: "semantic-entropy probe",
    THINKING: "thinking entropy",
    COMBINED: "combination of the three",
    LENGTH: "length of the thinking",
    QUESTION_ENTROPY: "semantic entropy of the question*",
    AGREEMENT: "agreement with the other runs*",
}
"""As a reader meets them; * needs the question's other runs."""


@dataclass(frozen=True, eq=False)
class Predictor:
    """What predicts a label, of every run: higher means that the label is likelier 1."""

    values: np.ndarray
    """`[n]`, NaN where it cannot say."""
    probability: np.ndarray | None = None
    """`[n]`, of the label 1, where it claims to be one; NaN where it cannot say."""
    calibrated: bool = False
    """Whether it should have a probability, also where it is undefined."""
    undefined: str = ""


def correctness_predictors(
    table: RunTable, probes: StudyProbes, predictions: Mapping[str, Prediction]
) -> dict[str, Predictor]:
    """What predicts that a run is correct; of the thinking's length the sign is learnt on train."""
    found = {name: _probe(name, table, probes, predictions) for name in PREDICTORS}
    found[LENGTH] = _signed(table, table.thinking_tokens, table.correct)
    found[QUESTION_ENTROPY] = Predictor(-table.semantic_entropy)
    found[AGREEMENT] = Predictor(table.agreement)
    return found


def high_entropy_predictors(
    table: RunTable, probes: StudyProbes, predictions: Mapping[str, Prediction]
) -> dict[str, Predictor]:
    """What predicts that the question's semantic entropy is high.

    `thinking_entropy` is here the entropy itself and not the probe on it, which learnt another
    label; the correctness probe counts with its sign turned.
    """
    found = {}
    for name, sign in ((ENTROPY, 1.0), (CORRECTNESS, -1.0)):
        if name in predictions:
            said = predictions[name]
            own = name == ENTROPY
            found[name] = Predictor(sign * said.margin, said.probability if own else None, own)
        else:
            found[name] = _undefined_predictor(name, table, probes, calibrated=name == ENTROPY)
    found[THINKING] = Predictor(table.thinking_entropy)
    found[LENGTH] = _signed(table, table.thinking_tokens, table.high)
    return found


def known(name: str, table: RunTable, probes: StudyProbes) -> np.ndarray:
    """Mask `[n]` of the runs for which a predictor can say something, wherever it is defined."""
    if name == COMBINED and COMBINED in probes.probes:
        parts = parts_of(probes.probes[COMBINED])
        return np.all([known(part, table, probes) for part in parts], axis=0)
    columns = {
        THINKING: table.thinking_entropy,
        QUESTION_ENTROPY: table.semantic_entropy,
        AGREEMENT: table.agreement,
    }
    return ~np.isnan(columns[name]) if name in columns else np.ones(len(table), dtype=bool)


def _probe(
    name: str, table: RunTable, probes: StudyProbes, predictions: Mapping[str, Prediction]
) -> Predictor:
    """A probe as a predictor of a correct run."""
    if name not in predictions:
        return _undefined_predictor(name, table, probes, calibrated=name in GIVES_CORRECT)
    said = predictions[name]
    if name not in GIVES_CORRECT:
        return Predictor(-said.margin)
    return Predictor(said.margin, said.probability, calibrated=True)


def _undefined_predictor(
    name: str, table: RunTable, probes: StudyProbes, *, calibrated: bool
) -> Predictor:
    reason = f"there is no such probe ({probes.undefined[name]})"
    return Predictor(np.full(len(table), np.nan), calibrated=calibrated, undefined=reason)


def _signed(table: RunTable, values: np.ndarray, label: np.ndarray) -> Predictor:
    """The values with the sign that ranks the training runs better than chance."""
    rows = table.rows("train", label)
    values = values.astype(float)
    area = auroc(values[rows], label[rows])
    if area.undefined:
        reason = f"its sign is learnt on train: {area.undefined}"
        return Predictor(np.full(len(values), np.nan), undefined=reason)
    return Predictor(values if area.value() >= 0.5 else -values)
