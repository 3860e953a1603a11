"""Scores of the study on one split, with intervals by question, and the tripwires of its probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from helpers.errors import UserError
from helpers.evaluation.metrics import Metric, ratio
from helpers.evaluation.scores import (
    Score,
    evaluate_classifier,
    paired_difference,
    score_metric,
    within_group_auroc,
)
from helpers.probes.probe import LinearProbe, UndefinedTarget, fit_probe, predict
from helpers.probes.tripwires import (
    Tripwire,
    constant_input_tripwire,
    memorisation_check,
    memorisation_tripwire,
    shuffled_label_scores,
    shuffled_scores_tripwire,
)
from helpers.studies.reasoning.predictors import TITLES, Predictor
from helpers.studies.reasoning.probes import CORRECT, CORRECTNESS, ENTROPY
from helpers.studies.reasoning.records import RunTable, StudyProbes, Traced

RANKING, PROBABILITIES = ("auroc", "average_precision"), ("brier", "ece")
WITHIN = "within_question"


@dataclass(frozen=True)
class Resampling:
    """How often questions are drawn again and labels dealt out again, and from which seed."""

    n_boot: int
    n_perm: int
    seed: int


@dataclass(frozen=True, eq=False)
class LabelledSplit:
    """The runs of a split whose label is known."""

    name: str
    rows: np.ndarray
    """Mask `[n]` of the table."""
    label: np.ndarray
    """`[n]`, 0 or 1 on the rows."""
    question: np.ndarray
    """`[n]`, a number for each question."""
    positive: str
    """The word for label 1."""
    runs: int
    """Of the split, with a known label or not."""

    def why_none(self) -> str:
        """Why no run can be scored, in words; "" where some can."""
        if self.rows.any():
            return ""
        return f"whether a run is {self.positive} is not known of any of the {self.runs} runs"


def labelled_split(
    table: RunTable, split: str, label: np.ndarray, positive: str
) -> LabelledSplit | None:
    """A split's runs with a known label; None where the split holds no run at all."""
    runs = int(table.rows(split).sum())
    question = np.unique(table.question_id, return_inverse=True)[1]
    rows = table.rows(split, label)
    return LabelledSplit(split, rows, label, question, positive, runs) if runs else None


def score_predictors(
    predictors: Mapping[str, Predictor], on: LabelledSplit, resampling: Resampling
) -> dict[str, dict[str, Score]]:
    """AUROC and average precision of each predictor, and Brier and ECE of a probability.

    Each is scored on the runs for which it can say something. Intervals draw whole questions, and
    p-values deal out whole questions' labels.
    """
    return {name: _score(predictor, on, resampling) for name, predictor in predictors.items()}


def add_within_questions(
    scores: Mapping[str, dict[str, Score]],
    predictors: Mapping[str, Predictor],
    on: LabelledSplit,
    resampling: Resampling,
) -> dict[str, dict[str, Score]]:
    """The scores with one more each: AUROC among the runs of one question.

    A question that is hard makes all its runs likely to be wrong; this asks whether a predictor
    tells which of them are.
    """
    found = {}
    for name, predictor in predictors.items():
        rows = on.rows & ~np.isnan(predictor.values)
        reason = predictor.undefined or on.why_none() or _why_silent(on, rows)
        found[name] = scores[name] | {
            WITHIN: undefined_score(WITHIN, 0, reason)
            if reason
            else within_group_auroc(
                predictor.values[rows], on.label[rows], on.question[rows],
                n_boot=resampling.n_boot, n_perm=resampling.n_perm, seed=resampling.seed,
            )
        }  # fmt: skip
    return found


def _score(predictor: Predictor, on: LabelledSplit, resampling: Resampling) -> dict[str, Score]:
    rows = on.rows & ~np.isnan(predictor.values)
    reason = predictor.undefined or on.why_none() or _why_silent(on, rows)
    if reason:
        names = RANKING + (PROBABILITIES if predictor.calibrated else ())
        n = int(on.rows.sum())
        return {name: undefined_score(name, n, reason) for name in names}
    return evaluate_classifier(
        predictor.values[rows],
        on.label[rows],
        probabilities=None if predictor.probability is None else predictor.probability[rows],
        n_boot=resampling.n_boot,
        n_perm=resampling.n_perm,
        seed=resampling.seed,
        groups=on.question[rows],
        positive=on.positive,
    )


def differences(
    predictors: Mapping[str, Predictor],
    pairs: tuple[tuple[str, str], ...],
    on: LabelledSplit,
    resampling: Resampling,
) -> dict[str, Score]:
    """AUROC of one predictor less that of another, on the runs of which both can say something."""
    found = {}
    for a, b in pairs:
        one, other = predictors[a], predictors[b]
        rows = on.rows & ~np.isnan(one.values) & ~np.isnan(other.values)
        reason = next(
            (f"{n}: {predictors[n].undefined}" for n in (a, b) if predictors[n].undefined), ""
        )
        reason = reason or on.why_none() or _why_silent(on, rows)
        found[f"{a} - {b}"] = (
            undefined_score("auroc difference", int(on.rows.sum()), reason)
            if reason
            else paired_difference(
                one.values[rows], other.values[rows], on.label[rows],
                n_boot=resampling.n_boot, seed=resampling.seed, groups=on.question[rows],
            )
        )  # fmt: skip
    return found


def mean_probability(
    predictor: Predictor, on: LabelledSplit, resampling: Resampling
) -> dict[str, Any]:
    """The mean probability over the runs of either label, with intervals, as plain values.

    "correct" and "incorrect", each with mean, low, high, n (runs), n_questions, and undefined in
    words.
    """
    found: dict[str, Any] = {}
    for word, label in (("correct", 1.0), ("incorrect", 0.0)):
        rows = on.rows & (on.label == label) & ~np.isnan(predictor.values)
        questions = on.question[rows]
        reason = predictor.undefined or ("" if rows.any() else f"no run is {word}")
        score = undefined_score("mean", int(rows.sum()), reason)
        if not reason:
            assert predictor.probability is not None
            score = _mean(predictor.probability[rows], questions, resampling)
        found[word] = {
            "mean": score.value,
            "low": score.low,
            "high": score.high,
            "n": score.n,
            "n_questions": len(np.unique(questions)),
            "undefined": score.undefined,
        }
    return found


def undefined_score(name: str, n: int, reason: str) -> Score:
    """A score that there is not, and why."""
    return Score(name, None, None, None, None, n, reason)


def _mean(values: np.ndarray, groups: np.ndarray, resampling: Resampling) -> Score:
    def weighted(weights: np.ndarray) -> np.ndarray:
        return ratio(weights @ values, weights.sum(axis=1))

    metric = Metric("mean", len(values), weighted, None, "greater")
    return score_metric(metric, resampling.n_boot, 0, resampling.seed, groups)


def _why_silent(on: LabelledSplit, rows: np.ndarray) -> str:
    if rows.any():
        return ""
    return f"what it reads is not known in any of the {int(on.rows.sum())} runs"


# --- tripwires ---

SHUFFLES = 100
THINK_END = "think_end"


def study_tripwires(
    table: RunTable,
    probes: StudyProbes,
    traced: Traced,
    scores: Mapping[str, Score],
    seed: int,
) -> tuple[Tripwire, ...]:
    """Shuffled labels and memorisation for the two probes on hidden states, and constant input.

    `scores` are the test AUROCs of the two, by name. A check that cannot be run says why.
    """
    targets = {CORRECTNESS: table.correct, ENTROPY: table.high}
    found = []
    for name, target in targets.items():
        if name in probes.probes:
            probe = probes.probes[name]
            checks = [
                _shuffled(probe, target, table, traced, scores.get(name), seed),
                _memorised(probe, traced, seed),
            ]
        else:
            reason = f"there is no such probe ({probes.undefined[name]})"
            names = ("shuffled labels", "memorisation")
            checks = [Tripwire(each, None, None, "", reason) for each in names]
        found += [replace(check, name=f"{check.name}: {TITLES[name]}") for check in checks]
    return (*found, constant_input(table, traced))


def _shuffled(
    probe: LinearProbe,
    target: np.ndarray,
    table: RunTable,
    traced: Traced,
    real: Score | None,
    seed: int,
) -> Tripwire:
    """Probes fitted to shuffled labels of runs must score 0.5 on test."""
    try:
        scattered = shuffled_label_scores(
            traced.hidden[:, probe.layer], target, table.rows("train", target),
            table.rows("test", target), regularisation=probe.regularisation,
            n_shuffles=SHUFFLES, seed=seed,
        )  # fmt: skip
    except UndefinedTarget as reason:
        return Tripwire("shuffled labels", None, None, "mean score 0.5", str(reason))
    value = None if real is None else real.value
    return shuffled_scores_tripwire(scattered, real_score=value, seed=seed)


def _memorised(probe: LinearProbe, traced: Traced, seed: int) -> Tripwire:
    try:
        accuracy = memorisation_check(distinct_rows(traced.hidden[:, probe.layer]), seed=seed)
    except UserError as reason:
        return Tripwire("memorisation", None, None, "training accuracy 1", str(reason))
    return memorisation_tripwire(accuracy)


def distinct_rows(states: np.ndarray) -> np.ndarray:
    """Each state once: runs that think the same words have the same state, and no probe can tell
    them apart."""
    first: dict[bytes, int] = {}
    for i, state in enumerate(states):
        first.setdefault(state.tobytes(), i)
    return states[list(first.values())]


def constant_input(table: RunTable, traced: Traced) -> Tripwire:
    """The canary: all states were read at one token, so a probe on that token must score 0.5.

    Where the input of the first block is the same in every run too, as in a model without learnt
    positions, the probe is given that; else the token's id. It is for correctness, on test.
    """
    name, expected = "constant input", "AUROC 0.5"
    tokens = np.unique(traced.token_ids)
    if traced.position != THINK_END:
        reason = f"does not apply: states were read at {traced.position}, whose token varies"
        return Tripwire(name, None, None, expected, reason)
    if len(tokens) > 1:
        reason = f"states were read at {len(tokens)} different tokens instead of at </think> alone"
        return Tripwire(name, False, None, expected, reason)
    first = traced.hidden[:, 0]
    same = bool((first == first[:1]).all())
    features = first if same else traced.token_ids[:, None].astype(np.float32)
    try:
        probe = fit_probe(
            {THINK_END: features[:, None]}, table.correct, kind="logistic", position=THINK_END,
            layer=0, regularisation=1.0, rows=table.rows("train", table.correct), name="canary",
            target_name=CORRECT,
        )  # fmt: skip
    except UndefinedTarget as reason:
        return Tripwire(name, None, None, expected, str(reason))
    test = table.rows("test", table.correct)
    predicted = predict(probe, features[test])
    score = evaluate_classifier(predicted, table.correct[test], n_boot=1, n_perm=1)["auroc"]
    found = constant_input_tripwire(score)
    read = "the input of the first block" if same else f"the id of the token ({tokens[0]})"
    return replace(found, detail=found.detail or f"a probe on {read}, the same in every run")
