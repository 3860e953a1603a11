"""Two runs side by side: the same metrics, paired where the test questions are the same.

Each run is scored on its own test questions, against its own labels. Differences are taken on the
questions (id and text) that are test questions of both; a resample draws the same ones for both
runs. Scores stay with the labels of their own run, so that the labels need not agree.

P-values are two-sided. A mean over questions (accuracy, semantic entropy, squared error) has a
permutation test: the two runs' values of a question change places at random. AUROC and Spearman
rank the scores of a run among each other; scores of two probes on scales of their own cannot
change places, so their p-value is of the bootstrap, as in `scores.paired_difference`, to
which the difference is equal where the runs share their labels.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, NamedTuple

import numpy as np
import plotly.graph_objects as go

from helpers.errors import UserError
from helpers.evaluation.metrics import Metric, auroc, ratio, rmse, spearman, too_few
from helpers.evaluation.resampling import resamples
from helpers.evaluation.scores import SAME, Score, score_metric
from helpers.formatting import p_value_text
from helpers.progress import Progress, silent_progress
from helpers.studies.semantic_entropy.open_run import AnyRun
from helpers.studies.semantic_entropy.run_files import StoredRun
from helpers.views.html import NONE, html_table, paragraph, reasons, score_cell, signed
from helpers.views.intervals import Panel, Row, interval_rows
from helpers.views.style import cut

# --- the comparison as text, HTML and figure -----------------------------------------------------
#
# The runs are called A and B; their names stand above.


NOTHING_SHARED = "the runs share no test question"
_METHOD = (
    "95 % intervals by bootstrap over test questions. A − B is on the test questions that both "
    "runs have, each run against its own labels. p is two-sided, by permutation for means and "
    "RMSE and by bootstrap for AUROC and Spearman, and not corrected for being several."
)


class Setting(NamedTuple):
    """Something in which two runs differ, with what it is in each, as text."""

    name: str
    first: str
    second: str


@dataclass(frozen=True)
class ComparedMetric:
    """One metric of both runs, and its difference on the questions that they share."""

    about: str
    """What is predicted or counted."""
    title: str
    """By what, or which number of it."""
    metric: str
    first: Score
    """Of the run's own test questions; `n` is how many of them it is computed from."""
    second: Score
    difference: Score
    """First minus second; undefined, with the reason, where no question is shared."""
    p_of: Literal["permutation", "bootstrap"]
    chance: float | None = None
    """The value of a predictor that knows nothing; None where there is no such value."""


@dataclass(frozen=True)
class Compared:
    """Two runs side by side."""

    first: str
    """The name of a run's folder."""
    second: str
    n_test: tuple[int, int]
    """Test questions of the first run, and of the second."""
    n_shared: int
    differing: tuple[Setting, ...]
    cautions: tuple[str, ...]
    """What keeps the numbers from being compared as they stand, in words."""
    metrics: tuple[ComparedMetric, ...]


def describe_comparison(compared: Compared) -> str:
    """The comparison as one text of at most 100 columns, for a terminal."""
    names = (compared.first, compared.second)
    lines = [
        f"{letter}  {cut(name, 70)} ({n:,} test questions)"
        for letter, name, n in zip("AB", names, compared.n_test, strict=True)
    ]
    if compared.differing:
        lines += ["", f"{'Settings that differ':<28}{'A':<36}B"]
        lines += [
            f"  {cut(name, 25):<26}{cut(first, 34):<36}{cut(second, 34)}"
            for name, first, second in compared.differing
        ]
    for about, group in groupby(compared.metrics, key=lambda metric: metric.about):
        lines += ["", *_subject(about, list(group))]
    said = [part for text in (*compared.cautions, _METHOD) for part in textwrap.wrap(text, 98)]
    return "\n".join([*lines, "", *said])


def _subject(about: str, metrics: Sequence[ComparedMetric]) -> list[str]:
    """Lines of one table; why something is undefined is said once."""
    lines = [f"{about} ({_counts(metrics)})"]
    lines.append(f"  {'':<25}{'A':<22}{'B':<22}{'A − B':<21}p")
    for metric in metrics:
        first, second = score_cell(metric.first), score_cell(metric.second)
        difference = f"{_difference(metric):<21}{_p_value(metric)}"
        lines.append(f"  {cut(_metric_title(metric), 24):<25}{first:<22}{second:<22}{difference}")
    told = [f"  note: {reason}" for reason in _reasons(_scores(metrics))]
    return [line.rstrip() for line in lines] + told


def _scores(metrics: Sequence[ComparedMetric]) -> list[Score]:
    return [s for m in metrics for s in (m.first, m.second, m.difference)]


def _reasons(scores: Sequence[Score]) -> list[str]:
    """Why cells are undefined, each reason once; that nothing is shared stands below."""
    return [reason for reason in reasons(scores) if NOTHING_SHARED not in reason]


def _metric_title(metric: ComparedMetric) -> str:
    plain = metric.metric in ("share", "nats")
    return metric.title if plain else f"{metric.title}, {metric.metric}"


def _counts(metrics: Sequence[ComparedMetric]) -> str:
    first, second, shared = (
        max(score.n for score in scores)
        for scores in zip(*((m.first, m.second, m.difference) for m in metrics), strict=True)
    )
    return f"test, n = {first:,} in A, {second:,} in B, {shared:,} shared"


def _difference(metric: ComparedMetric) -> str:
    return NONE if metric.difference.value is None else signed(metric.difference)


def _p_value(metric: ComparedMetric) -> str:
    return p_value_text(metric.difference.p_value) or NONE


def comparison_view(compared: Compared) -> str:
    """The comparison as HTML: what differs, what to beware of, and every metric."""
    tables = []
    for about, group in groupby(compared.metrics, key=lambda metric: metric.about):
        metrics = list(group)
        rows = [
            (
                _metric_title(m),
                score_cell(m.first),
                score_cell(m.second),
                _difference(m),
                _p_value(m),
            )
            for m in metrics
        ]
        told = "; ".join(_reasons(_scores(metrics)))
        note = f"{_counts(metrics)}{f'; undefined: {told}' if told else ''}"
        tables.append(paragraph(about, "font-weight:600;margin-top:1rem"))
        tables.append(html_table(("", "A", "B", "A − B", "p"), rows, note))
    return (
        paragraph(f"A is {compared.first}, B is {compared.second}.", "font-weight:600")
        + "".join(paragraph(caution) for caution in compared.cautions)
        + "".join(tables)
        + paragraph(_METHOD, "margin-top:1rem")
        + _settings(compared.differing)
    )


def _settings(differing: Sequence[Setting]) -> str:
    if not differing:
        return paragraph("The runs do not differ in any setting, model or package version.")
    table = html_table(("settings that differ", "A", "B"), differing)
    return f'<div style="margin-top:1rem">{table}</div>'


def comparison_figure(compared: Compared) -> go.Figure:
    """Both runs and their difference, panel by panel, for the metrics that have no unit.

    Those in nats stand in the table: their axis is another.
    """
    shown = [metric for metric in compared.metrics if metric.metric not in ("RMSE", "nats")]
    n_panels = 3 if compared.n_shared else 2
    rows: list[Row] = []
    for about, group in groupby(shown, key=lambda metric: metric.about):
        rows.append(Row("", said=about, is_heading=True))
        rows += [
            Row(
                name=_metric_title(metric),
                scores=(metric.first, metric.second, metric.difference)[:n_panels],
                references=(metric.chance, metric.chance, 0.0)[:n_panels],
            )
            for metric in group
        ]
    ends = _ends(shown)
    panels = [Panel("A", ends), Panel("B", ends), Panel("A − B, shared questions", style="signed")]
    names = [f"A: {cut(compared.first, 80)}", f"B: {cut(compared.second, 80)}"]
    if n_panels == 2:
        names.append(f"{NOTHING_SHARED}: there is no paired difference")
    return interval_rows("Two runs side by side", rows, panels[:n_panels], names)


def _ends(metrics: Sequence[ComparedMetric]) -> tuple[float, float] | None:
    """Both panels have one axis, so that dots can be compared by eye."""
    scores = [score for metric in metrics for score in (metric.first, metric.second)]
    values = [v for s in scores for v in (s.value, s.low, s.high) if v is not None]
    values += [metric.chance for metric in metrics if metric.chance is not None]
    return (min(values), max(values)) if values else None


# --- what keeps runs from being compared ---------------------------------------------------------


ANSWER_SETTINGS = (
    "temperature", "top_p", "max_new_tokens", "prompt_template", "chat", "thinking", "stop",
)  # fmt: skip
JUDGE_SETTINGS = {
    "nli": ("judge_model", "entailment", "condition_on_question"),
    "cosine": ("embedding_model", "cosine_threshold"),
}
"""Settings that a judge reads; those of another judge change nothing."""


def differing(first: AnyRun, second: AnyRun) -> list[Setting]:
    """The settings, model and package versions in which two runs differ, in the config's order."""
    found = []
    parts = (("config", "{}"), ("hashes", "{}"), ("versions", "package {}"))
    for part, title in parts:
        ours, theirs = first.manifest.get(part, {}), second.manifest.get(part, {})
        for name in dict.fromkeys((*ours, *theirs)):
            values = (_setting(ours, name), _setting(theirs, name))
            if values[0] != values[1]:
                found.append(Setting(title.format(name.replace("_", " ")), *values))
    return found


def _setting(settings: Mapping[str, Any], name: str) -> str:
    """A setting as people read it."""
    value = settings.get(name, "not recorded")
    if isinstance(value, list):
        return ", ".join(repr(v) if name == "stop" else str(v) for v in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def cautions(
    first: AnyRun, second: AnyRun, settings: Sequence[Setting], n_shared: int
) -> list[str]:
    """What keeps the numbers of two runs from being compared as they stand, in sentences."""
    n = [int(run.targets.rows("test").sum()) for run in (first, second)]
    said = []
    if not settings and n_shared == n[0] == n[1]:
        said.append("Both runs have the same settings and questions: they are the same run.")
    if not n_shared:
        said.append(
            "The runs share no test question, so there is no paired difference: where the numbers "
            "differ, the questions may be the reason."
        )
    elif n_shared < max(n):
        said.append(
            f"The runs share {n_shared} test questions, of {n[0]} in A and {n[1]} in B; only "
            "differences are of these alone, so A − B need not be the difference of the columns."
        )
    k = [run.manifest.get("config", {}).get("k") for run in (first, second)]
    if None not in k and k[0] != k[1]:
        most = " and ".join(f"{math.log(value):.2f}" for value in k)
        said.append(
            f"K is {k[0]} in A and {k[1]} in B: semantic entropy is at most ln K ({most} nats), so "
            "entropies, their errors and what counts as high differ for that reason alone."
        )
    judges = {run.manifest.get("config", {}).get("judge") for run in (first, second)}
    of_judge = ("judge", *(name for judge in judges for name in JUDGE_SETTINGS.get(judge, ())))
    for fields, words in (
        (of_judge, "Another judge, or rule, says which answers mean the same"),
        (ANSWER_SETTINGS, "The answers were sampled in another way"),
    ):
        changed = [s.name for s in settings if s.name.replace(" ", "_") in fields]
        if changed:
            said.append(
                f"{words} ({', '.join(changed)}): the semantic entropies to be predicted differ."
            )
    thresholds = (run.targets.threshold for run in (first, second))
    gamma = [threshold for threshold in thresholds if threshold is not None]
    if len(gamma) == 2 and not math.isclose(*gamma):
        said.append(
            f"High means above {gamma[0]:.4g} nats in A and {gamma[1]:.4g} in B, each chosen on "
            "its training questions: each probe is scored against its own run's labels."
        )
    return said


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
        metric = _metric_named(
            measure, measure.bind(data.scores[rows], data.labels[rows]), data.missing
        )
        own.append(score_metric(metric, n_boot, 0, seed))
    known = np.ones(len(shared), dtype=bool)
    for data, rows in zip(columns, shared.T, strict=True):
        known &= np.isfinite(data.scores[rows]) & np.isfinite(data.labels[rows])
    pair = [
        (data.scores[rows[known]], data.labels[rows[known]])
        for data, rows in zip(columns, shared.T, strict=True)
    ]
    bound = [
        _metric_named(measure, measure.bind(*values), data.missing)
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
    for found in ([data.missing for data in columns], [metric.undefined for metric in bound]):
        for letter, reason in zip("AB", found, strict=True):
            if reason:
                return f"{letter}: {reason}"
    return ""


def _metric_named(measure: _Measure, metric: Metric, missing: str) -> Metric:
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
