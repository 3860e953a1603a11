"""Which rows are looked at: what can be filtered and coloured, and the address that asks for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, TypeVar
from urllib.parse import unquote, urlencode

import numpy as np

from helpers.analysis_table.about import About, Label
from helpers.analysis_table.file import AnalysisTable
from helpers.dashboard.data import Listed

# --- labels, predictors and signals --------------------------------------------------------------

Kind = Literal["class", "probability", "margin", "number"]


@dataclass(frozen=True)
class Signal:
    """Something that points can be coloured by."""

    column: str  # its column of the table, and its name in an address
    title: str  # with its unit
    kind: Kind


def signals(about: About) -> dict[str, Signal]:
    """What points can be coloured by: by column, in the order in which they are offered."""
    found = [Signal(label.column, label.title, "class") for label in about.labels]
    found += [Signal("dataset", "dataset", "class"), Signal("split", "split", "class")]
    for p in about.predictors:
        title = f"{p.title}: probability of {about.event(p)}"
        found.append(Signal(f"probability_{p.name}", title, "probability"))
    for p in about.predictors:
        title = f"{p.title}: log-odds of {about.event(p)} (nats)"
        found.append(Signal(f"margin_{p.name}", title, "margin"))
    for number in about.numbers:
        kind: Kind = "probability" if number.is_share else "number"
        found.append(Signal(f"number_{number.name}", number.titled, kind))
    return {signal.column: signal for signal in found}


def scorable_labels(about: About) -> tuple[Label, ...]:
    """The labels of two classes, which can be scored; where there is none, all labels."""
    return tuple(label for label in about.labels if label.positive) or about.labels


def known_predictors(table: AnalysisTable) -> tuple[str, ...]:
    """The predictors that say something of at least one row."""
    names = (predictor.name for predictor in table.about.predictors)
    return tuple(name for name in names if np.isfinite(table[f"margin_{name}"]).any())


def class_columns(about: About) -> tuple[str, ...]:
    """The columns of classes by which rows are filtered; also their keys in an address."""
    return ("dataset", "split", *(label.column for label in about.labels))


def unknown_word(about: About, column: str) -> str | None:
    """What rows without a class of this column are called; None: every row has one."""
    label = about.label_in(column)
    return label.unknown if label else None


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
POINTS = (500, 1000, 2000, 5000, 10_000, 20_000)  # how many points a figure may have at most
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
    """The rows that all filters leave, ascending; `steps` counts after each filter, in order:
    columns of classes, representative, length, predictors."""

    rows: np.ndarray
    groups: int
    steps: dict[str, FilterCount]
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
    scored = about.label(label)
    graded = {scored.positive, scored.negative} & set(class_names(table, scored.column))
    if not graded <= set(filters.classes[scored.column]):
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


# --- addresses -----------------------------------------------------------------------------------
#
# A query is untrusted. Nothing in it is ever part of a path, a piece of HTML or a message: a value
# counts only if it is one of those that exist, or a plain number, which is clamped to the range.


RUN = "run"
PICK = "pick"  # a chosen row: group id and number, as in lab-12/3
OF_MARIMO = ("file", "kiosk", "theme", "show-chrome", "include-code", "show-code", "view-as")
"""Keys that are marimo's own, and none of this page's business."""
MOST_CHOSEN = 10  # runs whose details are shown, and which a link remembers
LONGEST = 4000  # characters of a key's value; a longer one is not looked at
MOST_VALUES = 64  # values of one key; of more, none is looked at
_WHOLE = re.compile(r"[0-9]{1,9}", re.ASCII)
_RANGE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\.\.([0-9]{1,9}(?:\.[0-9]{1,9})?)", re.ASCII)

Params = Mapping[str, Any]
"""As marimo gives them: a text, or a list of texts for a key that comes several times.

A browser's page keeps only the last of these, so that several values stand in one, with commas.
"""
T = TypeVar("T")


def keys(about: About) -> tuple[str, ...]:
    """Every key but the run's, in the order in which a link has them."""
    ranges = (f"{RANGE_PREFIX}{predictor.name}" for predictor in about.predictors)
    return (
        *class_columns(about), "representative", "length", *ranges, "points", "label", "probe",
        "colour", PICK,
    )  # fmt: skip


@dataclass(frozen=True)
class View:
    """Everything that a visitor can choose, but the run."""

    filters: Filters
    label: str  # what is scored, and colours the points of the first figures
    probe: str  # whose margin the first figure shows
    colour: str  # the signal that colours the map
    chosen: tuple[int, ...] = ()  # rows whose details are shown


@dataclass(frozen=True)
class Asked:
    """A view that was asked for, and what of the address was not used."""

    view: View
    ignored: tuple[str, ...] = ()  # keys of this page whose values are wholly or partly not usable
    unknown: int = 0  # how many keys are not this page's


def usual_view(table: AnalysisTable) -> View:
    """The view of an address that says nothing."""
    known = known_predictors(table)
    label = scorable_labels(table.about)[0]
    return View(
        filters=usual_filters(table),
        label=label.name,
        probe=known[0] if known else table.about.predictors[0].name,
        colour=label.column,
    )


@dataclass(frozen=True)
class FirstRun:
    """The run that a page opens with."""

    name: str | None  # None where no run can be shown
    in_vain: bool  # whether the address asks for a run that cannot be shown


def first_run(params: Params, listed: Sequence[Listed]) -> FirstRun:
    """The run that an address asks for, if its name is on the list; else the newest."""
    names = [run.name for run in listed if not run.damaged]
    values = _values(params, RUN)
    if values and _only(values) in names:
        return FirstRun(values[0], False)
    return FirstRun(names[0] if names else None, values != [])


def asked_view(params: Params, table: AnalysisTable) -> Asked:
    """The view that an address asks for; what it does not say, or says wrongly, is as usual."""
    usual, about = usual_view(table), table.about
    labels = [label.name for label in scorable_labels(about)]
    predictors = [predictor.name for predictor in about.predictors]
    ignored: list[str] = []

    def read(
        key: str, convert: Callable[[list[str]], T | None], otherwise: T, several: bool = False
    ) -> T:
        values = _values(params, key, several)
        if values == []:
            return otherwise
        found = convert(values) if values else None
        if found is None:
            ignored.append(key)
            return otherwise
        return found

    def some_of(key: str, existing: Sequence[str], otherwise: tuple[str, ...]) -> tuple[str, ...]:
        def convert(values: list[str]) -> tuple[str, ...] | None:
            if set(values) - set(existing):
                ignored.append(key)
            return tuple(name for name in existing if name in values) or None

        return read(key, convert, otherwise, several=True)

    length = read("length", lambda v: _length(v, table), None)
    filters = Filters(
        classes={
            column: some_of(column, class_names(table, column), names)
            for column, names in usual.filters.classes.items()
        },
        representative=read(
            "representative", lambda v: {"1": True, "0": False}.get(_only(v)), False
        ),
        length=length if length != length_range(table) else None,
        probabilities={
            name: found
            for name in predictors
            if (found := read(f"{RANGE_PREFIX}{name}", _probabilities, (0.0, 1.0))) != (0.0, 1.0)
        },
        points=read("points", _points, usual.filters.points),
    )
    view = View(
        filters=filters,
        label=read("label", lambda v: _one_of(v, labels), usual.label),
        probe=read("probe", lambda v: _one_of(v, predictors), usual.probe),
        colour=read("colour", lambda v: _one_of(v, signals(about)), usual.colour),
    )
    picks = _values(params, PICK, several=True)
    rows = _picked(picks or [], table)
    if picks is None or len(rows) < len(picks):
        ignored.append(PICK)
    unknown = sum(1 for key in params if key not in (RUN, *keys(about), *OF_MARIMO))
    return Asked(replace(view, chosen=rows), tuple(dict.fromkeys(ignored)), unknown)


def link(run: str, view: View, table: AnalysisTable) -> str:
    """The query that shows a view, beginning with "?"; what is as usual is not in it."""
    usual, filters = usual_view(table), view.filters
    parts: list[tuple[str, str]] = [(RUN, run)]
    for column, names in filters.classes.items():
        # That nothing is chosen cannot be said: an address without a key asks for the usual.
        if names not in ((), usual.filters.classes[column]):
            parts.append((column, _joined(names)))
    if filters.representative:
        parts.append(("representative", "1"))
    if filters.length is not None:
        parts.append(("length", f"{filters.length[0]}..{filters.length[1]}"))
    for name, (low, high) in filters.probabilities.items():
        parts.append((f"{RANGE_PREFIX}{name}", f"{low:.2f}..{high:.2f}"))
    if filters.points != usual.filters.points:
        parts.append(("points", str(filters.points)))
    for key in ("label", "probe", "colour"):
        if getattr(view, key) != getattr(usual, key):
            parts.append((key, str(getattr(view, key))))
    if rows := list(view.chosen[:MOST_CHOSEN]):
        units = zip(table.words("group_id", rows), table["unit_id"][rows].tolist(), strict=True)
        parts.append((PICK, _joined(f"{group}/{unit}" for group, unit in units)))
    return "?" + urlencode(parts, safe="/:,")


def ignored_words(asked: Asked, run_in_vain: bool = False) -> str:
    """What of an address was not used, in a sentence that quotes nothing of it; "" for nothing."""
    keys = [*([RUN] if run_in_vain else []), *asked.ignored]
    parts = []
    if keys:
        parts.append(f"what it says of {', '.join(keys)} is not possible here")
    if asked.unknown:
        several = asked.unknown > 1
        parts.append(f"{asked.unknown} key{'s are' if several else ' is'} not of this page")
    return f"A part of the address was ignored: {'; '.join(parts)}." if parts else ""


def _joined(values: Iterable[str]) -> str:
    """Several values as one text."""
    return ",".join(value.replace("%", "%25").replace(",", "%2C") for value in values)


def _split(values: list[str]) -> list[str]:
    """The values in texts that `_joined` has made."""
    return [unquote(value) for text in values for value in text.split(",")]


def _values(params: Params, key: str, several: bool = False) -> list[str] | None:
    """The values of a key; [] where there is none, None where they cannot be looked at."""
    found = params.get(key)
    values = found if isinstance(found, list) else [] if found is None else [found]
    if any(not isinstance(value, str) or len(value) > LONGEST for value in values):
        return None
    if several:
        values = _split(values)
    return values if len(values) <= MOST_VALUES else None


def _only(values: list[str]) -> str:
    """The value of a key that may come once; "" where it comes several times."""
    return values[0] if len(values) == 1 else ""


def _one_of(values: list[str], existing: Iterable[str]) -> str | None:
    return _only(values) if _only(values) in existing else None


def _points(values: list[str]) -> int | None:
    """The choice that is nearest to a number."""
    if not _WHOLE.fullmatch(_only(values)):
        return None
    return min(POINTS, key=lambda points: abs(points - int(values[0])))


def _ends(values: list[str]) -> tuple[float, float] | None:
    """A range such as 0.2..0.9, whose ends are in order."""
    match = _RANGE.fullmatch(_only(values))
    if match is None or float(match[1]) > float(match[2]):
        return None
    return float(match[1]), float(match[2])


def _probabilities(values: list[str]) -> tuple[float, float] | None:
    ends = _ends(values)
    return None if ends is None else (min(round(ends[0], 2), 1.0), min(round(ends[1], 2), 1.0))


def _length(values: list[str], table: AnalysisTable) -> tuple[int, int] | None:
    """A range of whole tokens, clamped to the lengths that there are."""
    ends, (least, most) = _ends(values), length_range(table)
    if ends is None:
        return None
    low, high = (int(np.clip(end, least, most)) for end in ends)
    return low, high


def _picked(values: list[str], table: AnalysisTable) -> tuple[int, ...]:
    """The chosen rows that exist, each once, in the order asked."""
    rows: list[int] = []
    wanted = [value.rpartition("/") for value in values[:MOST_CHOSEN]]
    for group, slash, unit in wanted:
        if not slash or not _WHOLE.fullmatch(unit) or group not in table.names["group_id"]:
            continue
        code = table.names["group_id"].index(group)
        found = np.flatnonzero((table["group_id"] == code) & (table["unit_id"] == int(unit)))
        rows += [row for row in found[:1].tolist() if row not in rows]
    return tuple(rows)
