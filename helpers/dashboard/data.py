"""What is held once for all visitors: the run folders that are shown, and selections' scores."""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from helpers.analysis_table.about import About, Label, Predictor
from helpers.analysis_table.file import FILE_NAME, AnalysisTable, read_narrow
from helpers.errors import UserError
from helpers.evaluation.metrics import Metric, aurc, auroc
from helpers.evaluation.scores import (
    RiskCoverage,
    RocCurve,
    Score,
    risk_coverage,
    roc_curve,
    score_metric,
)

OUTPUTS_VARIABLE = "SEP_OUTPUTS"
HELD = 4  # runs whose columns stay in memory
LARGEST_JSON = 5_000_000  # bytes; a larger manifest or file of metrics is not looked at

Stamp = tuple[str, int, int]
"""Path, time of the last change (ns) and size: another file has another stamp."""
_READING = Lock()


@dataclass(frozen=True)
class Listed:
    """A run folder as a list shows it; of a damaged one only the reason is known."""

    name: str  # the folder's name
    folder: Path
    stamp: Stamp
    model: str = ""
    datasets: tuple[str, ...] = ()
    size: str = ""  # how many rows it has, in words: "8,000 runs of 800 questions"
    damaged: str = ""  # why it cannot be shown; "" where it can

    @property
    def written(self) -> float:
        """When its analysis was written, in seconds since 1970 (UTC)."""
        return self.stamp[1] / 1e9


@dataclass(frozen=True, eq=False)
class OpenRun:
    """A run that is looked at; the table is one object for all who look at it."""

    listed: Listed
    table: AnalysisTable

    @property
    def path(self) -> Path:
        """Where the texts of single rows are read."""
        return self.listed.folder / FILE_NAME


def outputs_folder() -> Path:
    """The folder of the run folders: `SEP_OUTPUTS`, or `outputs`."""
    return Path(os.environ.get(OUTPUTS_VARIABLE) or "outputs").expanduser()


def listed_runs(out: Path) -> tuple[Listed, ...]:
    """The run folders with an analysis, the newest first and damaged ones last; others not.

    Empty where there is no such folder.
    """
    found = sorted(_listed(out), key=lambda run: (bool(run.damaged), -run.stamp[1], run.name))
    return tuple(found)


def _listed(out: Path) -> Iterator[Listed]:
    try:
        folders = sorted(out.iterdir())
    except OSError:  # absent, or no folder
        return
    for folder in folders:
        try:
            path = folder / FILE_NAME
            if not path.is_file():
                continue
            about = path.stat()
        except OSError as error:
            reason = f"it cannot be read ({error.strerror})"
            yield Listed(_name(folder), folder, (str(folder), 0, 0), damaged=reason)
            continue
        yield _entry(folder, (str(path), about.st_mtime_ns, about.st_size))


@lru_cache(maxsize=1024)
def _entry(folder: Path, stamp: Stamp) -> Listed:
    try:
        table = _read(stamp)
    except UserError as problem:
        # The page is public: it names the folder, not where it lies.
        reason = str(problem).replace(str(folder), folder.name)
        return Listed(_name(folder), folder, stamp, damaged=reason)
    return Listed(
        _name(folder), folder, stamp, model=table.about.model, datasets=table.names["dataset"],
        size=table.about.size(len(table), len(table.names["group_id"])),
    )  # fmt: skip


def _name(folder: Path) -> str:
    """A folder's name, which on some disks need not be text."""
    return folder.name.encode("utf-8", "replace").decode()


def open_run(listed: Listed) -> OpenRun:
    """A listed run with its table, which all visitors share and nobody can write to.

    Raises `UserError` where the file was damaged since, or is gone.
    """
    return OpenRun(listed, _read(listed.stamp))


def _read(stamp: Stamp) -> AnalysisTable:
    # Visitors who come at once would otherwise each read the file.
    with _READING:
        return _table(stamp)


@lru_cache(maxsize=HELD)
def _table(stamp: Stamp) -> AnalysisTable:
    table = read_narrow(Path(stamp[0]))
    for values in table.columns.values():
        values.setflags(write=False)
    return table


def read_json(path: Path) -> dict[str, Any]:
    """An optional JSON file of a run folder; {} where it is absent, damaged or very large."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            return {}
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def stored_scores(
    folder: Path, about: About, label: Label, metric: str = "auroc"
) -> dict[str, dict[str, Score]]:
    """A score for a label in the run's own metrics, by scored split and predictor, where present.

    Reads the label's key → split → predictor → metric of `metrics.json`; what is not as expected
    is left out.
    """
    found = read_json(folder / "metrics.json").get(label.stored)
    scores: dict[str, dict[str, Score]] = {}
    for split in about.splits:
        row = _mapping(_mapping(found).get(split.name)) if split.scored else {}
        for predictor in about.predictors:
            score = _score(_mapping(_mapping(row.get(predictor.name)).get(metric)))
            if score is not None:
                scores.setdefault(split.name, {})[predictor.name] = score
    return scores


def _mapping(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}


def _score(found: Mapping[str, Any]) -> Score | None:
    """A score from its JSON, if that is one."""
    n, undefined, note = found.get("n"), found.get("undefined"), found.get("note")
    value, low, high = (found.get(name) for name in ("value", "low", "high"))
    numbers = [number for number in (value, low, high) if number is not None]
    if not isinstance(n, int) or not all(isinstance(number, int | float) for number in numbers):
        return None
    if not np.isfinite(numbers).all():
        return None
    if value is None and not undefined:
        return None
    return Score("auroc", value, low, high, None, n, str(undefined or ""), str(note or ""))


# --- scores of a selection -----------------------------------------------------------------------
#
# The same metrics, intervals and curves as everywhere (`helpers.evaluation.scores`); whole groups
# are resampled, because the rows of one are alike.


RESAMPLES = 500
FEWEST_RESAMPLES = 100
CELLS = 5_000_000  # rows × resamples of one metric: with more rows there are fewer resamples
REMEMBERED = 64  # selections whose scores are kept


@dataclass(frozen=True, eq=False)
class PredictorScore:
    """A predictor's scores for a label, with its curves where they are defined."""

    predictor: Predictor
    auroc: Score
    aurc: Score  # area under risk–coverage, the least certain left out first; lower is better
    roc: RocCurve | None
    risk: RiskCoverage | None


@dataclass(frozen=True, eq=False)
class SelectionScores:
    """All predictors on the graded rows of a selection."""

    by_predictor: dict[str, PredictorScore]
    about: About
    label: Label
    units: int
    """Graded rows, whose label is positive or negative; others have no place in these scores."""
    groups: int
    left_out: int
    """Rows of the selection that are not graded."""
    resamples: int


_KNOWN: OrderedDict[tuple, SelectionScores] = OrderedDict()
_SCORING = Lock()


def selection_scores(run: OpenRun, rows: np.ndarray, label: str) -> SelectionScores:
    """Scores of every predictor for a label on some rows of a run, from memory where known."""
    rows = np.asarray(rows, dtype=np.int64)
    key = (run.listed.stamp, label, hashlib.sha256(rows.tobytes()).digest())
    with _SCORING:  # visitors who come at once would each resample
        if key not in _KNOWN:
            _KNOWN[key] = score_rows(run.table, rows, label)
        _KNOWN.move_to_end(key)
        while len(_KNOWN) > REMEMBERED:
            _KNOWN.popitem(last=False)
        return _KNOWN[key]


def score_rows(table: AnalysisTable, rows: np.ndarray, label: str) -> SelectionScores:
    """The same, computed."""
    about, said = table.about, table.about.label(label)
    graded = rows[np.isfinite(table.truth(label, rows))]
    resamples = int(np.clip(CELLS // max(len(graded), 1), FEWEST_RESAMPLES, RESAMPLES))
    return SelectionScores(
        by_predictor={p.name: _scored(table, graded, p, said, resamples) for p in about.predictors},
        about=about,
        label=said,
        units=len(graded),
        groups=len(np.unique(table["group_id"][graded])),
        left_out=len(rows) - len(graded),
        resamples=resamples,
    )


def certainty(table: AnalysisTable, predictor: str, label: str) -> np.ndarray:
    """How sure a predictor is that each label is positive, `[n]`, nats; NaN where it cannot say.

    A predictor of something that speaks against the label counts the other way.
    """
    direction = table.about.predictor(predictor).directions.get(label, np.nan)
    return table[f"margin_{predictor}"] * np.float32(direction)


def _scored(
    table: AnalysisTable, graded: np.ndarray, predictor: Predictor, label: Label, resamples: int
) -> PredictorScore:
    sure = certainty(table, predictor.name, label.name)
    rows = graded[np.isfinite(sure[graded])]
    sure, truth = sure[rows].astype(np.float64), table.truth(label.name, rows)
    if why := _undefined(table.about, predictor, label, graded, truth):
        none = Score("auroc", None, None, None, None, len(rows), why)
        return PredictorScore(predictor, none, replace(none, name="aurc"), None, None)
    groups = table["group_id"][rows]
    return PredictorScore(
        predictor,
        auroc=_with_interval(auroc(sure, truth, label.positive), resamples, groups),
        aurc=_with_interval(aurc(-sure, 1 - truth), resamples, groups),
        roc=roc_curve(sure, truth),
        risk=risk_coverage(-sure, 1 - truth),
    )


def _with_interval(metric: Metric, resamples: int, groups: np.ndarray) -> Score:
    # No permutations: a p-value is no help in choosing what to look at.
    return score_metric(replace(metric, permuted=None), resamples, 0, groups=groups)


def _undefined(
    about: About, predictor: Predictor, label: Label, graded: np.ndarray, truth: np.ndarray
) -> str:
    """Why a predictor has no score on these rows, in words; "" where it has one."""
    if predictor.undefined:
        return predictor.undefined
    if not label.positive:
        return f"“{label.title}” has more than two classes"
    if label.name not in predictor.directions:
        return f"it says nothing of “{label.title}”"
    if not len(graded):
        return f"no {about.unit.one} of the selection is graded"
    if not len(truth):
        return f"it says nothing of these {about.unit.many}"
    if len(truth) < 2:
        return f"there is one graded {about.unit.one} only"
    if not 0 < truth.sum() < len(truth):
        only = label.positive if truth[0] else label.negative
        return f"all {len(truth):,} graded {about.unit.many} are {only}"
    return ""
