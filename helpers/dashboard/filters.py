"""Which rows are looked at: what can be filtered and coloured, and what each filter leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np

from helpers.analysis_table.about import About, Label
from helpers.analysis_table.file import AnalysisTable

# --- labels, predictors and signals --------------------------------------------------------------

Kind = Literal["class", "probability", "margin", "number"]


@dataclass(frozen=True)
class Signal:
    """Something that points can be coloured by."""

    column: str
    """Its column of the table, and its name in an address."""
    title: str
    """With its unit."""
    kind: Kind


def signals(about: About) -> dict[str, Signal]:
    """What points can be coloured by: by column, in the order in which they are offered."""
    found = [Signal(f"label_{label.name}", label.title, "class") for label in about.labels]
    found += [Signal("dataset", "dataset", "class"), Signal("split", "split", "class")]
    for p in about.predictors:
        title = f"{p.title}: probability of {about.event(p)}"
        found.append(Signal(f"probability_{p.name}", title, "probability"))
    for p in about.predictors:
        title = f"{p.title}: log-odds of {about.event(p)} (nats)"
        found.append(Signal(f"margin_{p.name}", title, "margin"))
    for number in about.numbers:
        kind: Kind = "probability" if number.unit == "0 to 1" else "number"
        found.append(Signal(f"number_{number.name}", number.titled, kind))
    return {signal.column: signal for signal in found}


def scorable_labels(about: About) -> tuple[Label, ...]:
    """The labels of two classes, which can be scored; where there is none, all labels."""
    return tuple(label for label in about.labels if label.positive) or about.labels


def certainty(table: AnalysisTable, predictor: str, label: str) -> np.ndarray:
    """How sure a predictor is that each label is positive, `[n]`, nats; NaN where it cannot say.

    A predictor of something that speaks against the label counts the other way.
    """
    direction = table.about.predictor(predictor).directions.get(label, np.nan)
    return table[f"margin_{predictor}"] * np.float32(direction)


def known_predictors(table: AnalysisTable) -> tuple[str, ...]:
    """The predictors that say something of at least one row."""
    names = (predictor.name for predictor in table.about.predictors)
    return tuple(name for name in names if np.isfinite(table[f"margin_{name}"]).any())


def class_columns(about: About) -> tuple[str, ...]:
    """The columns of classes by which rows are filtered; also their keys in an address."""
    return ("dataset", "split", *(f"label_{label.name}" for label in about.labels))


def unknown_word(about: About, column: str) -> str | None:
    """What rows without a class of this column are called; None: every row has one."""
    if not column.startswith("label_"):
        return None
    return about.label(column.removeprefix("label_")).unknown


def class_names(table: AnalysisTable, column: str) -> tuple[str, ...]:
    """The classes of a coded column that some row has, in the column's order.

    Rows without a label, which has no name in the file, come last under the label's word for that.
    """
    codes = np.unique(table[column]).tolist()
    names = [table.names[column][code] for code in codes if code >= 0]
    unknown = unknown_word(table.about, column)
    return (*names, unknown) if unknown is not None and -1 in codes else tuple(names)


def of_class(table: AnalysisTable, column: str, name: str) -> np.ndarray:
    """Mask `[n]` of the rows of a class."""
    unknown = name == unknown_word(table.about, column)
    return table[column] == (-1 if unknown else table.names[column].index(name))


RANGE_PREFIX = "p_"
"""Before a predictor's name: the filter by its probability, and its key in an address."""
POINTS = (500, 1000, 2000, 5000, 10_000, 20_000)
"""How many points a figure may have at most."""
USUAL_POINTS = 2000
SUBSET_SEED = 0
NOTHING_LEFT = "Nothing is left under these filters. Widen one of them to see points again."


@dataclass(frozen=True)
class Filters:
    """What rows must be like; every part must hold."""

    classes: Mapping[str, tuple[str, ...]]
    """By column of classes: dataset, split, and every label's."""
    representative: bool = False
    """Only one row a group, the one that the file marks."""
    length: tuple[int, int] | None = None
    """Of the file's length, both ends included; None: any."""
    probabilities: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """By predictor, both ends included; predictors that are not named may say anything."""
    points: int = USUAL_POINTS
    """How many points a figure has at most; it has no part in the scores."""


@dataclass(frozen=True)
class FilterCount:
    """What a filter and those before it leave."""

    units: int
    groups: int


@dataclass(frozen=True, eq=False)
class FilteredRows:
    """The rows that all filters leave."""

    rows: np.ndarray
    """Ascending."""
    groups: int
    steps: dict[str, FilterCount]
    """After each filter, in order: columns of classes, representative, length, predictors."""
    filters: Filters


def usual_filters(table: AnalysisTable) -> Filters:
    """The filters at first: the rows that no choice has seen."""
    classes = {column: class_names(table, column) for column in class_columns(table.about)}
    scored = {split.name for split in table.about.splits if split.scored}
    classes["split"] = tuple(s for s in classes["split"] if s in scored) or classes["split"]
    return Filters(classes)


def length_range(table: AnalysisTable) -> tuple[int, int]:
    """The least and the greatest length; (0, 0) for a table without rows or without a length."""
    if not table.about.length or not len(table):
        return (0, 0)
    lengths = table[f"number_{table.about.length}"]
    return (int(lengths.min()), int(lengths.max()))


def apply_filters(table: AnalysisTable, filters: Filters) -> FilteredRows:
    """The rows that the filters leave, with the count after each of them."""
    mask = np.ones(len(table), dtype=bool)
    steps: dict[str, FilterCount] = {}
    for name, passed in _masks(table, filters):
        mask &= passed
        steps[name] = FilterCount(int(mask.sum()), _groups(table, mask))
    return FilteredRows(np.flatnonzero(mask), _groups(table, mask), steps, filters)


def _masks(table: AnalysisTable, filters: Filters) -> Iterator[tuple[str, np.ndarray]]:
    about, everything = table.about, np.ones(len(table), dtype=bool)
    for column, names in filters.classes.items():
        passed = [of_class(table, column, name) for name in names]
        yield column, np.logical_or.reduce([~everything, *passed])
    if about.representative:
        yield "representative", table["representative"] if filters.representative else everything
    if about.length:
        lengths = table[f"number_{about.length}"]
        shortest, longest = filters.length or length_range(table)
        yield "length", (lengths >= shortest) & (lengths <= longest)
    for predictor in about.predictors:
        name = predictor.name
        if name not in filters.probabilities:
            yield RANGE_PREFIX + name, everything
            continue
        low, high = filters.probabilities[name]
        given = table[f"probability_{name}"]
        # Stored with 24 bits, so that 0.3 is not quite the 0.3 of the control; NaN never passes.
        yield RANGE_PREFIX + name, (given >= low - 1e-6) & (given <= high + 1e-6)


def _groups(table: AnalysisTable, rows: np.ndarray) -> int:
    return len(np.unique(table["group_id"][rows]))


def drawn_rows(kept: FilteredRows, total: int, chosen: tuple[int, ...] = ()) -> np.ndarray:
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


def chosen_rows(kept: FilteredRows, chosen: tuple[int, ...]) -> np.ndarray:
    """The chosen rows that the filters leave, ascending."""
    return np.intersect1d(kept.rows, np.asarray(chosen, dtype=np.int64))


def cautions(table: AnalysisTable, kept: FilteredRows, label: str) -> list[str]:
    """What a reader must know of scores for a label under these filters, in sentences."""
    about, found, filters = table.about, [], kept.filters
    seen = [split.name for split in about.splits if not split.scored]
    if looked := [
        s for s in seen if s in filters.classes["split"] and _any(table, kept, "split", s)
    ]:
        found.append(
            f"The filter includes {' and '.join(looked)} {about.unit.many}. The probes were fitted "
            "or chosen on these, so that the scores below are optimistic."
        )
    if filters.probabilities:
        titles = [p.title for p in about.predictors if p.name in filters.probabilities]
        names = " and ".join(f"the {title}" for title in titles)
        found.append(
            f"The filter selects {about.unit.many} by the probability that {names} gives. The "
            "scores below are conditional on that range: they do not say how good a probe is on "
            f"all {about.unit.many}."
        )
    scored, column = about.label(label), f"label_{label}"
    graded = {scored.positive, scored.negative} & set(class_names(table, column))
    if not graded <= set(filters.classes[column]):
        found.append(
            f"The filter selects {about.unit.many} by “{scored.title}”, which is what the scores "
            "below are about: with one class only they are undefined."
        )
    if filters.representative and about.group:
        found.append(
            f"One {about.unit.one} a {about.group.one} is kept, {about.representative}: such are "
            f"not like all {about.unit.many}, and the scores are of these only."
        )
    kinds = {
        about.datasets.get(name, "in")
        for name in class_names(table, "dataset")
        if _any(table, kept, "dataset", name)
    }
    if len(kinds) > 1:
        many = about.unit.many.capitalize()
        found.append(
            f"{many} in and out of distribution are pooled: telling the two apart is a part of the "
            "scores below. Choose one split for a score within it."
        )
    return found


def _any(table: AnalysisTable, kept: FilteredRows, column: str, name: str) -> bool:
    return bool(of_class(table, column, name)[kept.rows].any())
