"""What the dashboard can show of a run: predictors and signals, in words, with their units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from helpers.analysis_file import AnalysisTable
from helpers.studies.reasoning.records import PREDICTORS

TITLES = {
    "correctness": "correctness probe",
    "semantic_entropy": "semantic-entropy probe",
    "thinking_entropy": "thinking-entropy baseline",
    "combined": "combination of the three",
}
"""The predictors as a reader meets them."""
EVENTS = {name: "correct" for name in PREDICTORS} | {"semantic_entropy": "high semantic entropy"}
"""Whose probability each predictor gives."""
UNGRADED = "not graded"
"""The status of a run whose question has no reference answer."""

Kind = Literal["class", "probability", "margin", "number"]


@dataclass(frozen=True)
class Signal:
    """Something that points can be coloured by."""

    column: str
    """Its column of the table, and its name in an address."""
    title: str
    """With its unit."""
    kind: Kind


_PROBABILITIES = [
    Signal(f"probability_{name}", f"{TITLES[name]}: probability of {EVENTS[name]}", "probability")
    for name in PREDICTORS
]
_MARGINS = [
    Signal(f"margin_{name}", f"{TITLES[name]}: log-odds of {EVENTS[name]} (nats)", "margin")
    for name in PREDICTORS
]
SIGNALS: dict[str, Signal] = {
    signal.column: signal
    for signal in (
        Signal("status", "correct or not", "class"),
        Signal("dataset", "dataset", "class"),
        Signal("split", "split", "class"),
        *_PROBABILITIES,
        *_MARGINS,
        Signal("semantic_entropy", "semantic entropy of the question (nats)", "number"),
        Signal("thinking_entropy", "mean token entropy of the thinking (nats)", "number"),
        Signal("agreement", "share of the question's other runs that agree", "probability"),
        Signal("thinking_tokens", "length of the thinking (tokens)", "number"),
    )
}
"""By column, in the order in which they are offered."""


def certainty(table: AnalysisTable, predictor: str) -> np.ndarray:
    """How sure a predictor is that each run is correct, `[n]`, nats; NaN where it cannot say.

    High semantic entropy speaks against being correct, so that its probe counts the other way.
    """
    margin = table[f"margin_{predictor}"]
    return -margin if predictor == "semantic_entropy" else margin


def known_predictors(table: AnalysisTable) -> tuple[str, ...]:
    """The predictors that say something of at least one run."""
    return tuple(p for p in PREDICTORS if np.isfinite(table[f"margin_{p}"]).any())


def class_names(table: AnalysisTable, column: str) -> tuple[str, ...]:
    """The classes of a coded column that some run has, in the column's order.

    The status of ungraded runs, which has no name in the file, comes last as `UNGRADED`.
    """
    codes = np.unique(table[column]).tolist()
    names = [table.names[column][code] for code in codes if code >= 0]
    return (*names, UNGRADED) if column == "status" and -1 in codes else tuple(names)


def of_class(table: AnalysisTable, column: str, name: str) -> np.ndarray:
    """Mask `[n]` of the runs of a class."""
    code = -1 if name == UNGRADED else table.names[column].index(name)
    return table[column] == code
