"""Which runs are looked at: the signals that can be filtered, and what each filter leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np

from helpers.analysis_table.file import AnalysisTable
from helpers.studies.reasoning.records import PREDICTORS, SCORED_SPLITS

# --- predictors and signals ----------------------------------------------------------------------


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


POINTS = (500, 1000, 2000, 5000, 10_000, 20_000)
"""How many points a figure may have at most."""
USUAL_POINTS = 2000
SUBSET_SEED = 0
NOTHING_LEFT = "No run is left under these filters. Widen one of them to see points again."


@dataclass(frozen=True)
class Filters:
    """What runs must be like; every part must hold."""

    datasets: tuple[str, ...]
    splits: tuple[str, ...]
    statuses: tuple[str, ...]
    """correct, wrong, unanswered, not graded."""
    representative: bool = False
    """Only one run a question: the first with its most common final answer."""
    length: tuple[int, int] | None = None
    """Tokens of thinking, both ends included; None: any."""
    probabilities: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """By predictor, both ends included; predictors that are not named may say anything."""
    points: int = USUAL_POINTS
    """How many points a figure has at most; it has no part in the scores."""


@dataclass(frozen=True)
class FilterCount:
    """What a filter and those before it leave."""

    runs: int
    questions: int


@dataclass(frozen=True, eq=False)
class FilteredRuns:
    """The runs that all filters leave."""

    rows: np.ndarray
    """Their rows in the table, ascending."""
    questions: int
    steps: dict[str, FilterCount]
    """After each filter, in order: dataset, split, status, representative, length, predictors."""
    filters: Filters


def usual_filters(table: AnalysisTable) -> Filters:
    """The filters at first: the runs that no choice has seen, test and out of distribution."""
    splits = class_names(table, "split")
    return Filters(
        datasets=class_names(table, "dataset"),
        splits=tuple(s for s in splits if s in SCORED_SPLITS) or splits,
        statuses=class_names(table, "status"),
    )


def length_range(table: AnalysisTable) -> tuple[int, int]:
    """The shortest and the longest thinking, in tokens; (0, 0) for a table without rows."""
    tokens = table["thinking_tokens"]
    return (int(tokens.min()), int(tokens.max())) if len(tokens) else (0, 0)


def apply_filters(table: AnalysisTable, filters: Filters) -> FilteredRuns:
    """The runs that the filters leave, with the count after each of them."""
    mask = np.ones(len(table), dtype=bool)
    steps: dict[str, FilterCount] = {}
    for name, passed in _masks(table, filters):
        mask &= passed
        steps[name] = FilterCount(int(mask.sum()), _questions(table, mask))
    return FilteredRuns(np.flatnonzero(mask), _questions(table, mask), steps, filters)


def _masks(table: AnalysisTable, filters: Filters) -> Iterator[tuple[str, np.ndarray]]:
    everything = np.ones(len(table), dtype=bool)
    chosen = {
        "dataset": filters.datasets,
        "split": filters.splits,
        "status": filters.statuses,
    }
    for column, names in chosen.items():
        passed = [of_class(table, column, name) for name in names]
        yield column, np.logical_or.reduce([~everything, *passed])
    yield "representative", table["representative"] if filters.representative else everything
    shortest, longest = filters.length or (0, np.inf)
    tokens = table["thinking_tokens"]
    yield "length", (tokens >= shortest) & (tokens <= longest)
    for name in PREDICTORS:
        if name not in filters.probabilities:
            yield name, everything
            continue
        low, high = filters.probabilities[name]
        given = table[f"probability_{name}"]
        # Stored with 24 bits, so that 0.3 is not quite the 0.3 of the control; NaN never passes.
        yield name, (given >= low - 1e-6) & (given <= high + 1e-6)


def _questions(table: AnalysisTable, rows: np.ndarray) -> int:
    return len(np.unique(table["question_id"][rows]))


def drawn_rows(kept: FilteredRuns, total: int, chosen: tuple[int, ...] = ()) -> np.ndarray:
    """At most as many of the kept rows as the filters say, and the chosen ones among them.

    A row's rank is drawn once for the table of `total` rows: points neither change when the page
    is drawn again nor flicker when a filter moves.
    """
    rows, points = kept.rows, kept.filters.points
    if len(rows) > points:
        rank = _ranks(total)[rows]
        rows = rows[np.argpartition(rank, points)[:points]]
    return np.union1d(rows, chosen_rows(kept, chosen))


@lru_cache(maxsize=8)
def _ranks(total: int) -> np.ndarray:
    ranks = np.random.default_rng(SUBSET_SEED).permutation(total)
    ranks.setflags(write=False)
    return ranks


def chosen_rows(kept: FilteredRuns, chosen: tuple[int, ...]) -> np.ndarray:
    """The chosen rows that the filters leave, ascending."""
    return np.intersect1d(kept.rows, np.asarray(chosen, dtype=np.int64))


def cautions(table: AnalysisTable, kept: FilteredRuns) -> list[str]:
    """What a reader must know of scores under these filters, in sentences."""
    found, filters = [], kept.filters
    seen = [s for s in class_names(table, "split") if s not in SCORED_SPLITS]
    if looked := [s for s in seen if s in filters.splits and _any(table, kept, "split", s)]:
        found.append(
            f"The filter includes {' and '.join(looked)} runs. The probes were fitted or chosen on "
            "these, so that the scores below are optimistic."
        )
    if filters.probabilities:
        names = " and ".join(f"the {TITLES[n]}" for n in PREDICTORS if n in filters.probabilities)
        found.append(
            f"The filter selects runs by the probability that {names} gives. The scores below are "
            "conditional on that range: they do not say how good a probe is on all runs."
        )
    graded = {"correct", "wrong"} & set(class_names(table, "status"))
    if not graded <= set(filters.statuses):
        found.append(
            "The filter selects runs by whether they are correct, which is what the scores below "
            "are about: with one class only they are undefined."
        )
    if filters.representative:
        found.append(
            "One run a question is kept, with the answer that its runs give most often: correct "
            "runs are more frequent among these than among all runs."
        )
    kinds = {
        table.about.datasets.get(name, "in")
        for name in class_names(table, "dataset")
        if _any(table, kept, "dataset", name)
    }
    if len(kinds) > 1:
        found.append(
            "Runs in and out of distribution are pooled: telling the two apart is a part of the "
            "scores below. Choose one split for a score within it."
        )
    return found


def _any(table: AnalysisTable, kept: FilteredRuns, column: str, name: str) -> bool:
    return bool(of_class(table, column, name)[kept.rows].any())


def range_words(predictor: str) -> str:
    """What a range of probabilities is about."""
    return f"{TITLES[predictor]}: probability of {EVENTS[predictor]}"
