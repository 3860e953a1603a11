"""How well each predictor tells the two classes of a label apart, as numbers and in sentences.

The same metrics, intervals and curves as everywhere (`helpers.evaluation.scores`); whole groups
are resampled, because the rows of one are alike. Computed once for all visitors who ask alike.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np

from helpers.analysis_table.about import About, Label, Predictor
from helpers.analysis_table.file import AnalysisTable
from helpers.dashboard.data import OpenRun
from helpers.dashboard.filters import Signal, certainty, class_names, of_class
from helpers.evaluation.metrics import Metric, aurc, auroc
from helpers.evaluation.scores import (
    RiskCoverage,
    RocCurve,
    Score,
    risk_coverage,
    roc_curve,
    score_metric,
)
from helpers.views.style import score_numbers

RESAMPLES = 500
FEWEST_RESAMPLES = 100
CELLS = 5_000_000
"""Rows × resamples of one metric: with more rows there are fewer resamples."""
REMEMBERED = 64
"""Selections whose scores are kept."""


@dataclass(frozen=True, eq=False)
class PredictorScore:
    """A predictor's scores for a label, with its curves where they are defined."""

    predictor: Predictor
    auroc: Score
    aurc: Score
    """Area under risk–coverage, the least certain left out first; lower is better."""
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
        auroc=_score(auroc(sure, truth, label.positive), resamples, groups),
        aurc=_score(aurc(-sure, 1 - truth), resamples, groups),
        roc=roc_curve(sure, truth),
        risk=risk_coverage(-sure, 1 - truth),
    )


def _score(metric: Metric, resamples: int, groups: np.ndarray) -> Score:
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


# --- figures in sentences ------------------------------------------------------------------------


SHOWN_CLASSES = 6


def share_words(
    table: AnalysisTable, rows: np.ndarray, column: str, predictor: Predictor, label: Label
) -> str:
    """How many rows lie above 0, and how many of them are positive, above and below."""
    unit, above = table.about.unit, table[column][rows] > 0
    parts = [
        f"{unit.count(int(side.sum()))} {where} the line ({_positive(table, rows[side], label)})"
        for side, where in ((above, "above"), (~above, "below"))
    ]
    return (
        f"In words: of {unit.count(len(rows))}, {parts[0]}, where the {predictor.title} calls "
        f"{table.about.event(predictor)} the likelier, and {parts[1]}."
    )


def side_words(table: AnalysisTable, rows: np.ndarray, label: Label, predictor: Predictor) -> str:
    """What a predictor says on either side of the threshold that makes its label."""
    about = table.about
    given, measured = table[f"probability_{predictor.name}"][rows], table[f"number_{label.number}"]
    said = f"the {predictor.title}'s probability of {about.event(predictor)} is"
    if label.threshold is None:
        return f"In words: {about.unit.count(len(rows))}; {said} {_median(given)}."
    above = measured[rows] > label.threshold
    parts = [
        f"for {about.unit.count(int(side.sum()))} {where} the threshold "
        f"({label.threshold:.2f} {about.number(label.number).unit}) {said} {_median(given[side])}"
        for side, where in ((above, "above"), (~above, "at or below"))
        if side.any()
    ]
    return f"In words: {'; '.join(parts)}."


def map_words(table: AnalysisTable, rows: np.ndarray, signal: Signal) -> str:
    """What colours the map, with its counts or its middle half."""
    if signal.kind == "class":
        names = class_names(table, signal.column)
        counts = [(int(of_class(table, signal.column, n)[rows].sum()), n) for n in names]
        shown = [f"{count:,} {name}" for count, name in counts[:SHOWN_CLASSES]]
        more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
        said = ", ".join(shown) + more
    else:
        known = table[signal.column][rows]
        said = _median(known[np.isfinite(known)])
    return (
        f"In words: {table.about.unit.count(len(rows))} on a plane where near points have similar "
        f"hidden states, coloured by {signal.title}: {said}."
    )


def scores_words(scores: SelectionScores, metric: str) -> str:
    """The scores of all predictors on the graded rows of a selection."""
    parts = [
        f"{found.predictor.title} {score_words(getattr(found, metric))}"
        for found in scores.by_predictor.values()
    ]
    event = scores.label.event_word
    names = {
        "auroc": f"AUROC for {event}",
        "aurc": f"area under risk–coverage for {event} (lower is better)",
    }
    return f"In words: {names[metric]} on {graded_words(scores)}: {'; '.join(parts)}."


def graded_words(scores: SelectionScores) -> str:
    """How many rows a score is of, and how many are left out."""
    unit, group = scores.about.unit, scores.about.group
    words = f"{scores.units:,} graded {unit.one if scores.units == 1 else unit.many}"
    words += f" of {group.count(scores.groups)}" if group else ""
    if scores.left_out:
        words += f" ({scores.left_out:,} ungraded left out)"
    return words


def score_words(score: Score) -> str:
    """A score with its interval, or why it has none."""
    return f"undefined, because {score.undefined}" if score.value is None else score_numbers(score)


def _positive(table: AnalysisTable, rows: np.ndarray, label: Label) -> str:
    """The share of positive rows among those that are graded."""
    truth = table.truth(label.name, rows)
    truth = truth[np.isfinite(truth)]
    if not len(truth):
        return "none of them graded"
    return f"{100 * truth.mean():.0f} % of {len(truth):,} graded ones {label.positive}"


def _median(values: np.ndarray) -> str:
    """The middle of some values and their middle half."""
    if not len(values):
        return "not known"
    low, middle, high = np.quantile(values.astype(np.float64), [0.25, 0.5, 0.75])
    digits = 0 if high >= 100 else 2
    return (
        f"{middle:,.{digits}f} in the median, half of them {low:,.{digits}f} to {high:,.{digits}f}"
    )
