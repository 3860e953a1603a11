"""Lists of instructive questions: where wording, meaning, probe, judge and answer disagree.

Everything is computed from the records of an opened run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from helpers.analyses.cluster_agreement import broken_triples, distinct_texts
from helpers.analyses.cluster_audit import LINKS
from helpers.analyses.cluster_rules import ENTAILMENT, verdicts
from helpers.explore import AnyRun, predictions
from helpers.figure_style import cut

ID = "question_id"
"""The column of a table of cases that holds the question's id."""
MOST_CASES = 8
DOUBTFUL = (0.25, 0.75)
"""Between these a probability of entailment says that the judge does not know."""
PROBE = "semantic_entropy"
"""The probe that is compared with sampling: it predicts semantic entropy in nats."""


@dataclass(frozen=True)
class Case:
    """One question, and the values that make it instructive."""

    question_id: str
    question: str
    values: dict[str, float | str]
    """What is shown beside it, by a name that holds the unit."""


@dataclass(frozen=True)
class Cases:
    """Test questions that teach the same thing, the clearest first."""

    lesson: str
    """What there is to learn from them, in one sentence."""
    cases: tuple[Case, ...]
    empty: str
    """Why there is none; "" where there are some."""


def cases(run: AnyRun) -> dict[str, Cases]:
    """Lists of the most instructive test questions, at most eight each, by name."""
    return {
        "same words, different meanings": _different_meanings(run),
        "different words, one meaning": _one_meaning(run),
        "confidently wrong": _confidently_wrong(run),
        "probe and sampling disagree": _disagreeing(run),
        "judge in doubt": _judge_in_doubt(run),
    }


def case_rows(found: Cases) -> list[dict[str, Any]]:
    """The rows of a table to choose a case from; the first column, to be hidden, is the id."""
    return [
        {ID: case.question_id, "question": cut(case.question, 110)} | case.values
        for case in found.cases
    ]


def _different_meanings(run: AnyRun) -> Cases:
    lesson = (
        "The answers share most of their words and yet mean different things: only a judge of "
        "meaning sees how unsure the model is."
    )
    semantic, lexical, threshold = _entropies(run)
    if threshold is None:
        reason = "all training questions have the same semantic entropy, so none counts as high"
        return Cases(lesson, (), reason)
    overlap = 1 - _column(run, "lexical_similarity")
    gap = np.maximum(lexical - semantic, 0).round(9)
    reason = f"no test question with both entropies has a semantic one above γ = {threshold:.2f}"
    high = semantic > threshold
    order = (gap, -np.nan_to_num(overlap), -semantic)
    shown = {**_both(semantic, lexical), "mean ROUGE-L of pairs": overlap}
    return _listed(run, lesson, high & np.isfinite(lexical), order, shown, reason)


def _one_meaning(run: AnyRun) -> Cases:
    lesson = (
        "Many wordings, few meanings: counting wordings would call the model unsure where it only "
        "says the same thing in several ways."
    )
    semantic, lexical, threshold = _entropies(run)
    gap = (lexical - semantic).round(9)
    low = semantic <= (np.inf if threshold is None else threshold)
    reason = (
        "in no test question of low semantic entropy do answers of different wording share a "
        "meaning, or lexical entropy was not computed"
    )
    shown = _both(semantic, lexical)
    return _listed(run, lesson, low & (gap > 0), (-gap, semantic), shown, reason)


def _confidently_wrong(run: AnyRun) -> Cases:
    lesson = (
        "The samples agree, or nearly so, and the most likely answer is wrong: entropy measures "
        "whether the model is consistent, not whether it is right."
    )
    semantic, _, threshold = _entropies(run)
    test, wrong = run.targets.rows("test"), run.targets.wrong
    low = semantic <= (np.inf if threshold is None else threshold)
    if not np.isfinite(wrong[test]).any():
        reason = "no most likely answer of a test question can be graded"
    elif not (wrong[test] == 1).any():
        reason = "every most likely answer of a test question that can be graded is right"
    else:
        reason = "wherever the model errs here, its samples disagree: their entropy is above γ"
    predicted = _predicted(run)
    answers = [greedy.text for greedy in run.answers.greedy]
    references = [q.final_answer or q.answer for q in run.answers.questions]
    shown: dict[str, Sequence[Any] | np.ndarray] = {
        "semantic entropy (nats)": semantic,
        "predicted (nats)": predicted,
        "most likely answer": answers,
        "reference": references,
    }
    return _listed(run, lesson, low & (wrong == 1), (semantic, predicted), shown, reason)


def _disagreeing(run: AnyRun) -> Cases:
    lesson = (
        "The probe reads another uncertainty from the hidden states than sampling measures: one of "
        "the two is wrong, or the samples were too few."
    )
    sampled, predicted = run.targets.semantic_entropy, _predicted(run)
    difference = predicted - sampled
    shown = {
        "sampled (nats)": sampled,
        "predicted (nats)": predicted,
        "predicted − sampled": difference,
    }
    reason = "there is no probe of semantic entropy (yet)"
    # Half of the list each way: the largest alone are often all of one sign.
    higher, lower = (
        _listed(run, lesson, wanted, (-abs(difference),), shown, reason, MOST_CASES // 2)
        for wanted in (difference > 0, difference < 0)
    )
    both = higher.cases + lower.cases
    return Cases(lesson, both, "" if both else reason)


def _judge_in_doubt(run: AnyRun) -> Cases:
    lesson = (
        "The judge contradicts itself (a means b and b means c, but a does not mean c) or does not "
        "know: here the meanings, and with them the entropy, are least certain."
    )
    if run.judgements is None:
        judge = run.meanings.judge
        return Cases(lesson, (), f"the judge ({judge}) gave no probabilities for all pairs")
    k = run.judgements.shape[1] - 1
    said = np.asarray(run.judgements[:, :k, :k])
    distinct = distinct_texts(run)  # type: ignore[arg-type]  # it reads the answers alone
    _, broken = broken_triples(LINKS[run.config.entailment](verdicts(said)), distinct)
    pairs = distinct[:, :, None] & distinct[:, None, :] & ~np.eye(k, dtype=bool)
    entailment = said[..., ENTAILMENT]
    unsure = (entailment > DOUBTFUL[0]) & (entailment < DOUBTFUL[1]) & pairs
    share = unsure.sum((1, 2)) / np.maximum(pairs.sum((1, 2)), 1)
    reason = (
        "the judge is sure of every pair of different answers (no probability of entailment lies "
        f"between {DOUBTFUL[0]} and {DOUBTFUL[1]}) and never contradicts itself"
    )
    # A relation that holds both ways breaks a triple in both orders.
    shown = {"broken triples": (broken // 2).astype(int), "share of pairs in doubt": share}
    return _listed(run, lesson, (broken > 0) | (share > 0), (-broken, -share), shown, reason)


def _listed(
    run: AnyRun,
    lesson: str,
    wanted: np.ndarray,
    order: tuple[np.ndarray, ...],
    shown: Mapping[str, Sequence[Any] | np.ndarray],
    empty: str,
    most: int = MOST_CASES,
) -> Cases:
    """The wanted test questions `[n]`, sorted by the columns of `order`, the first most important.

    Of `shown`, values that are no finite number are left out.
    """
    rows = np.flatnonzero(wanted & run.targets.rows("test"))
    if not len(rows):
        return Cases(lesson, (), empty)
    ranked = rows[np.lexsort([column[rows] for column in reversed(order)])][:most]
    found = []
    for i in ranked.tolist():
        question = run.answers.questions[i]
        values = {name: _shown(column[i]) for name, column in shown.items()}
        known = {name: value for name, value in values.items() if value is not None}
        found.append(Case(question.id, question.question, known))
    return Cases(lesson, tuple(found), "")


def _shown(value: Any) -> float | str | None:
    if isinstance(value, str):
        return cut(value, 60)
    if isinstance(value, np.integer):
        return int(value)
    return round(float(value), 3) if np.isfinite(value) else None


def _entropies(run: AnyRun) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Semantic and lexical entropy, `[n]` in nats, and γ."""
    return run.targets.semantic_entropy, _column(run, "lexical_entropy"), run.targets.threshold


def _both(semantic: np.ndarray, lexical: np.ndarray) -> dict[str, np.ndarray]:
    return {"semantic entropy (nats)": semantic, "lexical entropy (nats)": lexical}


def _column(run: AnyRun, estimator: str) -> np.ndarray:
    """An estimator's values, `[n]`; NaN where it was not computed."""
    unknown = np.full(len(run.answers.questions), np.nan)
    return run.uncertainty.get(estimator, unknown)


def _predicted(run: AnyRun) -> np.ndarray:
    return predictions(run).get(PROBE, np.full(len(run.answers.questions), np.nan))
