"""Two runs side by side: the same metrics, paired where the test questions are the same.

Each run is scored on its own test questions, against its own labels. Differences are taken on the
questions (id and text) that are test questions of both; a resample draws the same ones for both
runs. Scores stay with the labels of their own run, so that the labels need not agree.

P-values are two-sided. A mean over questions (accuracy, semantic entropy, squared error) has a
permutation test: the two runs' values of a question change places at random. AUROC and Spearman
rank the scores of a run among each other; scores of two probes on scales of their own cannot
change places, so their p-value is of the bootstrap, as in `evaluation.paired_difference`, to
which the difference is equal where the runs share their labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from helpers.compare_cautions import cautions, differing
from helpers.compare_report import NOTHING_SHARED, Compared, ComparedMetric

# The views belong to this module's face; they live in a file of their own for its length.
from helpers.compare_report import comparison_figure as comparison_figure
from helpers.compare_report import comparison_view as comparison_view
from helpers.compare_report import describe_comparison as describe_comparison
from helpers.errors import UserError
from helpers.evaluation import SAME, score_metric
from helpers.metric_core import Metric, ratio, too_few
from helpers.metrics import auroc, rmse, spearman
from helpers.open_run import AnyRun
from helpers.progress import Progress, silent_progress
from helpers.resampling import resamples
from helpers.stored_run import StoredRun

CHUNK = 1_000_000
"""Signs drawn at once by the permutation test."""


@dataclass(frozen=True)
class _Measure:
    about: str
    title: str
    metric: str
    label: Literal["high", "wrong", "semantic_entropy"]
    bind: Callable[[np.ndarray, np.ndarray], Metric]
    """Scores [n] and labels [n] to the metric."""
    probe: str = ""
    """Whose predictions are the scores; semantic entropy itself where empty."""
    of_a_question: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    """Values [n] on whose mean alone the metric depends; None where it ranks the scores."""
    chance: float | None = None


def _mean(values: np.ndarray) -> Metric:
    """The mean of values [n]."""
    n = len(values)
    return Metric(
        "mean", n, lambda w: ratio(w @ values, w.sum(axis=1)), None, "greater", too_few(n)
    )


_HIGH, _ENTROPY = "Predicting high semantic entropy", "Predicting semantic entropy (nats)"
_WRONG, _ANSWERS = "Predicting a wrong answer", "The answers (entropy in nats)"
_MEASURES = (
    _Measure(
        _HIGH, "logistic probe", "AUROC", "high", lambda s, y: auroc(s, y, "high"),
        "high_semantic_entropy", chance=0.5,
    ),
    _Measure(
        _ENTROPY, "ridge probe", "RMSE", "semantic_entropy", rmse, "semantic_entropy",
        lambda s, y: (s - y) ** 2,
    ),
    _Measure(
        _ENTROPY, "ridge probe", "Spearman", "semantic_entropy", spearman, "semantic_entropy"
    ),
    _Measure(
        _WRONG, "semantic entropy", "AUROC", "wrong", lambda s, y: auroc(s, y, "wrong"), chance=0.5
    ),
    _Measure(
        _WRONG, "correctness probe", "AUROC", "wrong", lambda s, y: auroc(s, y, "wrong"),
        "wrong_answer", chance=0.5,
    ),
    _Measure(
        _ANSWERS, "accuracy", "share", "wrong", lambda s, y: _mean(1 - y),
        of_a_question=lambda s, y: 1 - y,
    ),
    _Measure(
        _ANSWERS, "mean semantic entropy", "nats", "semantic_entropy", lambda s, y: _mean(y),
        of_a_question=lambda s, y: y,
    ),
)  # fmt: skip


def compare(
    first: AnyRun,
    second: AnyRun,
    n_boot: int = 2000,
    n_perm: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Compared:
    """The metrics of both runs, with 95 % bootstrap intervals, and paired differences.

    Raises `UserError` for a run that has not been evaluated.
    """
    for run in (first, second):
        if "evaluation" not in run.manifest.get("stages_done", ()):
            raise UserError(
                f"{run.folder} has not been evaluated yet, so there is nothing to compare; finish "
                "it: the command that began it goes on from where it was"
            )
    shared = shared_questions(first, second)
    found = []
    with (progress or silent_progress())("Comparing runs", len(_MEASURES), "metrics") as stage:
        for measure in _MEASURES:
            found.append(_compare(measure, first, second, shared, n_boot, n_perm, seed))
            stage.advance(1)
    settings = differing(first, second)
    return Compared(
        first=first.folder.name,
        second=second.folder.name,
        n_test=(int(first.targets.rows("test").sum()), int(second.targets.rows("test").sum())),
        n_shared=len(shared),
        differing=tuple(settings),
        cautions=tuple(cautions(first, second, settings, len(shared))),
        metrics=tuple(found),
    )


def shared_questions(first: AnyRun, second: AnyRun) -> np.ndarray:
    """Rows of the questions that are test questions of both runs, `[shared, 2]`.

    A question is the same where both its id and its text are.
    """
    of_second = {
        (question.id, question.question): row
        for row, question in enumerate(second.answers.questions)
        if question.split == "test"
    }
    pairs = [
        (row, of_second[key])
        for row, question in enumerate(first.answers.questions)
        if question.split == "test" and (key := (question.id, question.question)) in of_second
    ]
    return np.array(pairs, dtype=int).reshape(-1, 2)


# --- one metric ----------------------------------------------------------------------------------


class _Columns(NamedTuple):
    """What a metric is of, an entry for every question; NaN where it is not known."""

    scores: np.ndarray
    labels: np.ndarray
    missing: str
    """Why there are no scores, in words; "" where there are."""


def _columns(run: AnyRun, measure: _Measure) -> _Columns:
    labels = getattr(run.targets, measure.label)
    if not measure.probe:
        return _Columns(run.targets.semantic_entropy, labels, "")
    predicted = run.predicted if isinstance(run, StoredRun) else run.assessment.predicted
    if measure.probe in predicted:
        return _Columns(predicted[measure.probe], labels, "")
    if isinstance(run, StoredRun):
        known = run.metrics().get("undefined_probes", {})
    else:
        known = run.trained.undefined
    reason = known.get(measure.probe, f"the run has no {measure.title}")
    return _Columns(np.full(len(labels), np.nan), labels, reason)


def _compare(
    measure: _Measure,
    first: AnyRun,
    second: AnyRun,
    shared: np.ndarray,
    n_boot: int,
    n_perm: int,
    seed: int,
) -> ComparedMetric:
    own, columns = [], []
    for run in (first, second):
        data = _columns(run, measure)
        columns.append(data)
        rows = run.targets.rows("test") & np.isfinite(data.scores) & np.isfinite(data.labels)
        metric = _named(measure, measure.bind(data.scores[rows], data.labels[rows]), data.missing)
        own.append(score_metric(metric, n_boot, 0, seed))
    known = np.ones(len(shared), dtype=bool)
    for data, rows in zip(columns, shared.T, strict=True):
        known &= np.isfinite(data.scores[rows]) & np.isfinite(data.labels[rows])
    pair = [
        (data.scores[rows[known]], data.labels[rows[known]])
        for data, rows in zip(columns, shared.T, strict=True)
    ]
    bound = [
        _named(measure, measure.bind(*values), data.missing)
        for values, data in zip(pair, columns, strict=True)
    ]
    difference = Metric(
        name=f"{measure.metric} difference",
        n=int(known.sum()),
        weighted=lambda weights: bound[0].weighted(weights) - bound[1].weighted(weights),
        permuted=None,
        better=bound[0].better,
        undefined=_why_undefined(len(shared), columns, bound),
    )
    score = score_metric(difference, n_boot, 0, seed)
    if score.low is not None and measure.of_a_question:
        values = [measure.of_a_question(*columns) for columns in pair]
        score = replace(score, p_value=_permutation_p(values[0] - values[1], n_perm, seed))
    elif score.low is not None:
        score = replace(score, p_value=_bootstrap_p(difference, n_boot, seed))
    return ComparedMetric(
        measure.about, measure.title, measure.metric, own[0], own[1], score,
        "permutation" if measure.of_a_question else "bootstrap", measure.chance,
    )  # fmt: skip


def _why_undefined(n_shared: int, columns: Sequence[_Columns], bound: Sequence[Metric]) -> str:
    """Why there is no difference: "" where there is one."""
    if not n_shared:
        return NOTHING_SHARED
    for reasons in ([data.missing for data in columns], [metric.undefined for metric in bound]):
        for letter, reason in zip("AB", reasons, strict=True):
            if reason:
                return f"{letter}: {reason}"
    return ""


def _named(measure: _Measure, metric: Metric, missing: str) -> Metric:
    return replace(metric, name=measure.metric, undefined=missing or metric.undefined)


def _permutation_p(differences: np.ndarray, n_perm: int, seed: int) -> float:
    """How often the mean of differences [n], signs dealt out at random, is as far from 0."""
    rng, n = np.random.default_rng(seed), len(differences)
    observed, as_far = abs(differences.sum()), 0
    step = max(1, CHUNK // n)
    for start in range(0, n_perm, step):
        signs = rng.integers(0, 2, (min(step, n_perm - start), n)) * 2.0 - 1
        as_far += int((np.abs(signs @ differences) >= observed - SAME * max(1, observed)).sum())
    return (1 + as_far) / (1 + n_perm)


def _bootstrap_p(difference: Metric, n_boot: int, seed: int) -> float:
    """Twice the smaller share of resamples on the other side of zero, or at it."""
    draws = np.concatenate([difference.weighted(w) for w in resamples(difference.n, n_boot, seed)])
    draws = draws[np.isfinite(draws)]
    smaller = min((draws <= SAME).sum(), (draws >= -SAME).sum())
    return min(1.0, 2 * (1 + int(smaller)) / (1 + len(draws)))
