"""What an `analysis.parquet` says of itself, and the columns that follow from it.

No study is known here: its units, labels, predictors, numbers and texts are data of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

MOST_ENTRIES = 64
"""Labels, predictors, numbers, texts, splits or classes of a label that a file may have."""
SHARE = "0 to 1"
"""The unit of a number that has none and lies between 0 and 1."""
PROBE_PARTS = ("probability", "margin", "projection")
"""What stands of every predictor: columns `probability_combined` and so on."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,59}", re.ASCII)

# --- the file's own words ------------------------------------------------------------------------


@dataclass(frozen=True)
class Noun:
    """What a row, or several rows together, are called."""

    one: str
    many: str

    def count(self, number: int) -> str:
        """How many there are, in words: "1 run", "8,000 runs"."""
        return f"{number:,} {self.one if number == 1 else self.many}"


@dataclass(frozen=True)
class Label:
    """What is to be known of a unit: one of the classes, or null."""

    name: str
    title: str
    """As a control names it: "correct or not"."""
    classes: tuple[str, ...]
    """In the order in which they are shown."""
    positive: str = ""
    """The class that predictors speak of, as in "probability of correct"; "": more than two."""
    negative: str = ""
    """Its opposite; units of the other classes have no part in scores."""
    event: str = ""
    """The positive class where it stands alone: "high semantic entropy"; "": its own word."""
    unknown: str = "unknown"
    """What a unit without this label is called."""
    number: str = ""
    """The number that is above a threshold where the label is positive; "": none."""
    threshold: float | None = None
    """In that number's unit; None: there is none."""
    stored: str = ""
    """The key of metrics.json under which the run's own scores for it stand; "": none."""

    @property
    def column(self) -> str:
        """The file's column that holds it."""
        return f"label_{self.name}"

    @property
    def event_word(self) -> str:
        """What predictors give the probability of."""
        return self.event or self.positive or self.title


@dataclass(frozen=True)
class Predictor:
    """What says something of a label: a probe, or a baseline beside it."""

    name: str
    title: str
    label: str
    """The label whose positive class its probability is of."""
    directions: dict[str, Literal[1, -1]]
    """By label for which it is scored: 1 where a higher margin speaks for the positive class."""
    place: str = ""
    """Where the hidden state is read; "": it reads none."""
    layer: int | None = None
    undefined: str = ""
    """Why it says nothing, in words; "" where it does."""


@dataclass(frozen=True)
class Number:
    """Something measured of a unit without a probe: column `number_<name>`."""

    name: str
    title: str  # without the unit: "length of the thinking"
    unit: str  # such as nats; `SHARE` for a share
    whole: bool = False  # whole numbers, always known
    undefined: str = ""  # why no row has one, in words; "" where some have

    @property
    def is_share(self) -> bool:
        """Whether it lies between 0 and 1 and has no unit."""
        return self.unit == SHARE

    @property
    def titled(self) -> str:
        """The title with its unit."""
        return self.title if self.is_share else f"{self.title} ({self.unit})"


@dataclass(frozen=True)
class Text:
    """A text of a unit: column `text_<name>`; of tokens also `entropies_<name>`."""

    name: str
    title: str
    kind: Literal["text", "tokens"] = "text"
    missing: str = ""  # what is said where a unit has none; "": every unit has one
    folded: bool = False  # whether it may be long, and is unfolded by a click


@dataclass(frozen=True)
class Split:
    """A part of the rows, and what it is for."""

    name: str
    title: str
    scored: bool  # whether no choice has seen it: scores of the others are optimistic


@dataclass(frozen=True)
class About:
    """What the file says of itself. Raises ValueError where its parts do not fit together."""

    run: str
    model: str
    title: str
    """Of the study, as a heading."""
    introduction: str
    """What was asked and measured, in sentences."""
    unit: Noun
    """What a row is."""
    group: Noun | None
    """What rows of one `group_id` are, resampled together; None: every row is by itself."""
    labels: tuple[Label, ...]
    """The first one with two classes is the one that is scored at first."""
    predictors: tuple[Predictor, ...]
    numbers: tuple[Number, ...]
    texts: tuple[Text, ...]
    splits: tuple[Split, ...]
    datasets: dict[str, Literal["in", "ood"]]
    """Each source of questions, and whether it is in or out of distribution."""
    baseline: str = ""
    """The number that margins are drawn against; "": the first."""
    length: str = ""
    """The whole number whose range can be filtered; "": none."""
    representative: str = ""
    """Which unit of a group the column `representative` marks, in words; "": no such column."""
    words: dict[str, str] = field(default_factory=dict)
    """The study's terms, explained."""
    facts: dict[str, str] = field(default_factory=dict)
    """Title to what else is known of the run, such as how a number was measured."""
    notes: dict[str, str] = field(default_factory=dict)
    """Sentences to be shown, by what they are about: "position", "umap"."""

    def __post_init__(self) -> None:
        """Check that names are unique, and that what is referred to exists."""
        for kind in ("labels", "predictors", "numbers", "texts", "splits"):
            entries = getattr(self, kind)
            if len(entries) > MOST_ENTRIES:
                raise ValueError(f"{kind}: more than {MOST_ENTRIES}")
            if len(names := _names(entries)) < len(entries):
                raise ValueError(f"{kind}: a name comes twice")
            if odd := [name for name in names if not _NAME.fullmatch(name)]:
                raise ValueError(f"{kind}: {odd[0][:40]!r} is no name of a column")
        if not self.labels or not self.predictors or not self.numbers:
            raise ValueError("a label, a predictor and a number are needed")
        labels, numbers = _names(self.labels), _names(self.numbers)
        for label in self.labels:
            two = {label.positive, label.negative} - {""}
            if not two <= set(label.classes) or len(two) == 1 or label.unknown in label.classes:
                raise ValueError(f"label {label.name}: its classes do not fit together")
            if len(set(label.classes)) < len(label.classes) or len(label.classes) > MOST_ENTRIES:
                raise ValueError(f"label {label.name}: classes come twice, or are too many")
            _check_known(f"label {label.name}", {label.number} - {""}, numbers)
        for predictor in self.predictors:
            named = {predictor.label, *predictor.directions}
            _check_known(f"predictor {predictor.name}", named, labels)
        _check_known("baseline", {self.baseline} - {""}, numbers)
        whole = {number.name for number in self.numbers if number.whole}
        _check_known("length", {self.length} - {""}, whole)

    def label(self, name: str) -> Label:
        """The label of a name."""
        return next(label for label in self.labels if label.name == name)

    def label_in(self, column: str) -> Label | None:
        """The label that a column holds; None for a column of something else."""
        return next((label for label in self.labels if label.column == column), None)

    def predictor(self, name: str) -> Predictor:
        """The predictor of a name."""
        return next(predictor for predictor in self.predictors if predictor.name == name)

    def number(self, name: str) -> Number:
        """The number of a name."""
        return next(number for number in self.numbers if number.name == name)

    def event(self, predictor: Predictor) -> str:
        """What the predictor's probability is of."""
        return self.label(predictor.label).event_word

    def size(self, units: int, groups: int) -> str:
        """How many rows there are, in words: "8,000 runs of 800 questions"."""
        several = f" of {self.group.count(groups)}" if self.group else ""
        return self.unit.count(units) + several


def _names(entries: Iterable[Any]) -> set[str]:
    return {entry.name for entry in entries}


def _check_known(place: str, named: set[str], known: set[str]) -> None:
    if odd := sorted(named - known):
        raise ValueError(f"{place}: there is no {odd[0][:40]!r}")


# --- columns -------------------------------------------------------------------------------------

Kind = Literal["text", "name", "whole", "number", "yes-no", "texts", "numbers"]


@dataclass(frozen=True)
class Column:
    """One column of the file."""

    name: str
    kind: Kind
    """"name" is text of few values; "whole" an int32, "number" a float32."""
    about: str
    """One line, with the unit."""
    optional: bool = False
    """Whether a value may be unknown (null)."""
    wide: bool = False
    """Texts and tokens: read for a few rows only."""
    names: tuple[str, ...] | None = None
    """The values that a column of few values can have, in order; None: any text."""


def columns(about: About) -> tuple[Column, ...]:
    """The columns of a file, in their order."""
    return tuple(_columns(about))


def _columns(about: About) -> Iterator[Column]:
    group = about.group or about.unit
    yield Column("group_id", "text", f"id of the {group.one}, unique in the file")
    yield Column("unit_id", "whole", f"number of the {about.unit.one} in its group, from 0")
    yield Column("dataset", "name", "source of the question", names=tuple(about.datasets))
    splits = "; ".join(f"{split.name}: {split.title}" for split in about.splits)
    yield Column("split", "name", splits, names=tuple(split.name for split in about.splits))
    for label in about.labels:
        said = f"{label.title}: {', '.join(label.classes)}; null: {label.unknown}"
        yield Column(label.column, "name", said, optional=True, names=label.classes)
    for predictor in about.predictors:
        event, by = about.event(predictor), f"by the {predictor.title}"
        for part, said in (
            ("probability", f"calibrated probability of {event}, 0 to 1, {by}"),
            ("margin", f"log-odds of {event}, nats, {by}"),
            ("projection", f"signed distance to its boundary, standard deviations, {by}"),
        ):
            yield Column(f"{part}_{predictor.name}", "number", said, optional=True)
    for number in about.numbers:
        said = f"{number.title}, {number.unit}"
        kind: Kind = "whole" if number.whole else "number"
        yield Column(f"number_{number.name}", kind, said, optional=not number.whole)
    for axis in ("x", "y"):
        said = f"{axis} of the hidden state on the map, no unit"
        yield Column(f"umap_{axis}", "number", said, optional=True)
    if about.representative:
        yield Column("representative", "yes-no", about.representative)
    for text in about.texts:
        if text.kind == "text":
            optional = bool(text.missing)
            yield Column(f"text_{text.name}", "text", text.title, optional, wide=True)
        else:
            said = f"{text.title}: tokens; empty: none, or unknown"
            yield Column(f"text_{text.name}", "texts", said, wide=True)
            said = f"{text.title}: entropy of each token, nats; empty: unknown"
            yield Column(f"entropies_{text.name}", "numbers", said, wide=True)


@dataclass(frozen=True, eq=False)
class Tokens:
    """A text as the model produced it, token by token."""

    texts: tuple[str, ...]
    entropies: np.ndarray  # `[tokens]`, nats, float32; empty where unknown
