"""How well each predictor tells correct runs from wrong ones, under the current filters.

The same metrics, intervals and curves as everywhere (`helpers.evaluation`); whole questions are
resampled, because runs of one question are alike. Computed once for all visitors who ask alike.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np

from helpers.analysis_file import AnalysisTable
from helpers.curves import RiskCoverage, RocCurve, risk_coverage, roc_curve
from helpers.dashboard.data import OpenRun
from helpers.dashboard.signals import certainty
from helpers.evaluation import Score, score_metric
from helpers.metric_core import Metric
from helpers.metrics import auroc
from helpers.selective_metrics import aurc
from helpers.studies.reasoning.records import PREDICTORS

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
