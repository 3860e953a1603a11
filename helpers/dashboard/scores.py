"""How well each predictor tells correct runs from wrong ones, as numbers and in sentences.

The same metrics, intervals and curves as everywhere (`helpers.evaluation.scores`); whole questions
are resampled, because runs of one question are alike. Computed once for all visitors who ask alike.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np

from helpers.analysis_table.file import AnalysisTable
from helpers.dashboard.data import OpenRun
from helpers.dashboard.filters import TITLES, Signal, certainty, class_names, of_class
from helpers.evaluation.metrics import Metric, aurc, auroc
from helpers.evaluation.scores import (
    RiskCoverage,
    RocCurve,
    Score,
    risk_coverage,
    roc_curve,
    score_metric,
)
from helpers.studies.reasoning.records import PREDICTORS
from helpers.views.style import score_numbers

RESAMPLES = 500
FEWEST_RESAMPLES = 100
CELLS = 5_000_000
"""Rows × resamples of one metric: with more rows there are fewer resamples."""
REMEMBERED = 64
"""Selections whose scores are kept."""


@dataclass(frozen=True, eq=False)
class PredictorScore:
    """A predictor's scores for *correct*, with its curves where they are defined."""

    predictor: str
    auroc: Score
    aurc: Score
    """Area under risk–coverage, the least certain left out first; lower is better."""
    questions: int
    roc: RocCurve | None
    risk: RiskCoverage | None


@dataclass(frozen=True, eq=False)
class SelectionScores:
    """All predictors on the graded runs of a selection."""

    by_predictor: dict[str, PredictorScore]
    runs: int
    """Graded runs: correct or wrong; unanswered ones have no place in these scores."""
    questions: int
    left_out: int
    """Runs of the selection that are not graded."""
    resamples: int


_KNOWN: OrderedDict[tuple, SelectionScores] = OrderedDict()
_SCORING = Lock()


def selection_scores(run: OpenRun, rows: np.ndarray) -> SelectionScores:
    """Scores of every predictor on some rows of a run, from memory where they are known."""
    rows = np.asarray(rows, dtype=np.int64)
    key = (run.listed.stamp, hashlib.sha256(rows.tobytes()).digest())
    with _SCORING:  # visitors who come at once would each resample
        if key not in _KNOWN:
            _KNOWN[key] = score_rows(run.table, rows)
        _KNOWN.move_to_end(key)
        while len(_KNOWN) > REMEMBERED:
            _KNOWN.popitem(last=False)
        return _KNOWN[key]


def score_rows(table: AnalysisTable, rows: np.ndarray) -> SelectionScores:
    """The same, computed."""
    graded = rows[np.isfinite(table["correct"][rows])]
    resamples = int(np.clip(CELLS // max(len(graded), 1), FEWEST_RESAMPLES, RESAMPLES))
    return SelectionScores(
        by_predictor={name: _scored(table, graded, name, resamples) for name in PREDICTORS},
        runs=len(graded),
        questions=len(np.unique(table["question_id"][graded])),
        left_out=len(rows) - len(graded),
        resamples=resamples,
    )


def _scored(
    table: AnalysisTable, graded: np.ndarray, predictor: str, resamples: int
) -> PredictorScore:
    sure = certainty(table, predictor)
    rows = graded[np.isfinite(sure[graded])]
    sure, correct = sure[rows].astype(np.float64), table["correct"][rows].astype(np.float64)
    questions = table["question_id"][rows]
    why = _undefined(table, predictor, graded, correct)
    if why:
        none = Score("auroc", None, None, None, None, len(rows), why)
        area = replace(none, name="aurc")
        return PredictorScore(predictor, none, area, len(np.unique(questions)), None, None)
    return PredictorScore(
        predictor,
        auroc=_score(auroc(sure, correct, "correct"), resamples, questions),
        aurc=_score(aurc(-sure, 1 - correct), resamples, questions),
        questions=len(np.unique(questions)),
        roc=roc_curve(sure, correct),
        risk=risk_coverage(-sure, 1 - correct),
    )


def _score(metric: Metric, resamples: int, questions: Sequence[int] | np.ndarray) -> Score:
    # No permutations: a p-value is no help in choosing what to look at.
    return score_metric(replace(metric, permuted=None), resamples, 0, groups=questions)


def _undefined(
    table: AnalysisTable, predictor: str, graded: np.ndarray, correct: np.ndarray
) -> str:
    """Why a predictor has no score on these rows, in words; "" where it has one."""
    if predictor in table.about.undefined:
        return table.about.undefined[predictor]
    if not len(graded):
        return "no run of the selection is graded"
    if not len(correct):
        return "it says nothing of these runs"
    if len(correct) < 2:
        return "there is one graded run only"
    if not 0 < correct.sum() < len(correct):
        return f"all {len(correct):,} graded runs are {'correct' if correct[0] else 'wrong'}"
    return ""


# --- figures in sentences ------------------------------------------------------------------------


SHOWN_CLASSES = 6


def counted_runs(number: int) -> str:
    """How many runs there are, in words."""
    return f"{number:,} run" + ("" if number == 1 else "s")


def counted_questions(number: int) -> str:
    """How many questions there are, in words."""
    return f"{number:,} question" + ("" if number == 1 else "s")


def share_words(
    table: AnalysisTable, rows: np.ndarray, column: str, line: float, title: str, event: str
) -> str:
    """How many runs lie above a line, and how many of them are correct, above and below."""
    above = table[column][rows] > line
    parts = [
        f"{counted_runs(int(side.sum()))} {where} the line ({_correct(table, rows[side])})"
        for side, where in ((above, "above"), (~above, "below"))
    ]
    return (
        f"In words: of {counted_runs(len(rows))}, {parts[0]}, where the {title} calls {event} the "
        f"likelier, and {parts[1]}."
    )


def side_words(table: AnalysisTable, rows: np.ndarray, threshold: float | None) -> str:
    """What the semantic-entropy probe says on either side of the label's threshold."""
    given, entropy = table["probability_semantic_entropy"][rows], table["semantic_entropy"][rows]
    if threshold is None:
        return (
            f"In words: {counted_runs(len(rows))}; the probe's probability of high semantic "
            f"entropy is {_median(given)}."
        )
    high = entropy > threshold
    parts = [
        f"for {counted_runs(int(side.sum()))} of questions {where} the threshold "
        f"({threshold:.2f} nats) the probe's probability of high semantic entropy is "
        f"{_median(given[side])}"
        for side, where in ((high, "above"), (~high, "at or below"))
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
        f"In words: {counted_runs(len(rows))} on a plane where near points have similar hidden "
        f"states, coloured by {signal.title}: {said}."
    )


def scores_words(scores: SelectionScores, metric: str) -> str:
    """The scores of all predictors on the graded runs of a selection."""
    parts = [
        f"{TITLES[name]} {score_words(getattr(found, metric))}"
        for name, found in scores.by_predictor.items()
    ]
    names = {"auroc": "AUROC for correct", "aurc": "area under risk–coverage (lower is better)"}
    return f"In words: {names[metric]} on {graded_words(scores)}: {'; '.join(parts)}."


def graded_words(scores: SelectionScores) -> str:
    """How many runs a score is of, and how many are left out."""
    words = f"{scores.runs:,} graded run{'' if scores.runs == 1 else 's'}"
    words += f" of {counted_questions(scores.questions)}"
    if scores.left_out:
        words += f" ({scores.left_out:,} ungraded left out)"
    return words


def score_words(score: Score) -> str:
    """A score with its interval, or why it has none."""
    return f"undefined, because {score.undefined}" if score.value is None else score_numbers(score)


def _correct(table: AnalysisTable, rows: np.ndarray) -> str:
    """The share of correct runs among those that are graded."""
    graded = table["correct"][rows]
    graded = graded[np.isfinite(graded)]
    if not len(graded):
        return "none of them graded"
    return f"{100 * graded.mean():.0f} % of {len(graded):,} graded ones correct"


def _median(values: np.ndarray) -> str:
    """The middle of some values and their middle half."""
    if not len(values):
        return "not known"
    low, middle, high = np.quantile(values.astype(np.float64), [0.25, 0.5, 0.75])
    digits = 0 if high >= 100 else 2
    return (
        f"{middle:,.{digits}f} in the median, half of them {low:,.{digits}f} to {high:,.{digits}f}"
    )
