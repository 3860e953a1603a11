"""The address of a view: what a visitor's query asks for, checked, and the link to a view.

A query is untrusted. Nothing in it is ever part of a path, a piece of HTML or a message: a value
counts only if it is one of those that exist, or a plain number, which is clamped to the range.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import unquote, urlencode

import numpy as np

from helpers.analysis_table.about import About
from helpers.analysis_table.file import AnalysisTable
from helpers.dashboard.data import Listed
from helpers.dashboard.filters import (
    POINTS,
    RANGE_PREFIX,
    Filters,
    class_columns,
    class_names,
    known_predictors,
    length_range,
    scorable_labels,
    signals,
    usual_filters,
)

RUN = "run"
PICK = "pick"
"""A chosen row: group id and number, as in lab-12/3."""
OF_MARIMO = ("file", "kiosk", "theme", "show-chrome", "include-code", "show-code", "view-as")
"""Keys that are marimo's own, and none of this page's business."""
MOST_CHOSEN = 10
"""Runs whose details are shown, and which a link remembers."""
LONGEST = 4000
"""Characters of a key's value; a longer one is not looked at."""
MOST_VALUES = 64
"""Values of one key; of more, none is looked at."""
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
    label: str
    """What is scored, and colours the points of the first figures."""
    probe: str
    """Whose margin the first figure shows."""
    colour: str
    """The signal that colours the map."""
    chosen: tuple[int, ...] = ()
    """Rows whose details are shown."""


@dataclass(frozen=True)
class Asked:
    """A view that was asked for, and what of the address was not used."""

    view: View
    ignored: tuple[str, ...] = ()
    """Keys of this page whose values are wholly or partly not usable."""
    unknown: int = 0
    """How many keys are not this page's."""


def usual_view(table: AnalysisTable) -> View:
    """The view of an address that says nothing."""
    known = known_predictors(table)
    label = scorable_labels(table.about)[0].name
    return View(
        filters=usual_filters(table),
        label=label,
        probe=known[0] if known else table.about.predictors[0].name,
        colour=f"label_{label}",
    )


@dataclass(frozen=True)
class FirstRun:
    """The run that a page opens with."""

    name: str | None
    """None where no run can be shown."""
    in_vain: bool
    """Whether the address asks for a run that cannot be shown."""


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

    def read(key: str, convert: Callable[[list[str]], T | None], otherwise: T) -> T:
        values = _values(params, key)
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

        return read(key, convert, otherwise)

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
    picks = _values(params, PICK)
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


def _values(params: Params, key: str) -> list[str] | None:
    """The values of a key; [] where there is none, None where they cannot be looked at."""
    found = params.get(key)
    values = found if isinstance(found, list) else [] if found is None else [found]
    if any(not isinstance(value, str) or len(value) > LONGEST for value in values):
        return None
    if key in ("dataset", "split", PICK) or key.startswith("label_"):
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
