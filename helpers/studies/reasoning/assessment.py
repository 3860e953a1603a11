"""Scores of the study's probes, in and out of distribution, against baselines; their curves and
notes.

Every choice was made on train and validation before; the scored splits change none of them.
Questions are the units: intervals draw whole questions, p-values deal out whole questions' labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from helpers.evaluation.scores import (
    ReliabilityCurve,
    RiskCoverage,
    RocCurve,
    Score,
    reliability,
    risk_coverage,
    roc_curve,
)
from helpers.probes.probe import Sweep, refits
from helpers.probes.training import HIGH
from helpers.progress import Progress
from helpers.studies.reasoning.predictors import (
    GIVES_CORRECT,
    LENGTH,
    NEEDS_OTHER_RUNS,
    TITLES,
    Predictor,
    correctness_predictors,
    high_entropy_predictors,
    known,
)
from helpers.studies.reasoning.probes import (
    COMBINED,
    CORRECT,
    CORRECTNESS,
    ENTROPY,
    THINKING,
    parts_of,
)
from helpers.studies.reasoning.records import (
    OOD,
    PREDICTORS,
    SCORED_SPLITS,
    SPLITS,
    LayerCurve,
    Prediction,
    RunCounts,
    RunTable,
    StudyAssessment,
    StudyProbes,
    Traced,
)
from helpers.studies.reasoning.scores import (
    WITHIN,
    LabelledSplit,
    Resampling,
    add_within_questions,
    differences,
    labelled_split,
    mean_probability,
    score_predictors,
    study_tripwires,
)

# --- curves --------------------------------------------------------------------------------------


POINTS = 500
"""A stored curve has no more."""
RESAMPLES = 500
"""The intervals of curves are of no more: they are for looking at."""


def layer_curve(
    chosen: Sweep,
    words: str,
    target: np.ndarray,
    train: np.ndarray,
    splits: Mapping[str, LabelledSplit],
    traced: Traced,
    resampling: Resampling,
) -> LayerCurve:
    """AUROC on the scored splits of a probe refitted at each layer, for looking at.

    At each layer the regularisation is the one that is best there on validation. Intervals are of
    `RESAMPLES` resamples at most, and there are no p-values. `words` names the target `[n]`,
    `train` `[n]` is the mask of the runs on which the sweep fitted.
    """
    rows = np.zeros(len(target), dtype=bool)
    for on in splits.values():
        rows |= on.rows
    few = replace(resampling, n_boot=min(RESAMPLES, resampling.n_boot), n_perm=0)
    scores: dict[str, list[Score]] = {name: [] for name in splits}
    for raw in _raw_outputs(chosen, target, train, rows, traced):
        values = np.full(len(target), np.nan)
        values[rows] = raw
        for name, on in splits.items():
            found = score_predictors({words: Predictor(values)}, on, few)
            scores[name].append(found[words]["auroc"])
    return LayerCurve(
        target=words,
        layers=chosen.layers,
        validation=tuple(chosen.validation_score[0].max(axis=1).tolist()),
        scores={name: tuple(found) for name, found in scores.items()},
        chosen=chosen.best_layer,
    )


def _raw_outputs(
    chosen: Sweep, target: np.ndarray, train: np.ndarray, rows: np.ndarray, traced: Traced
) -> Iterable[np.ndarray]:
    """What the refitted probe of each layer says of the rows; without rows nothing is fitted."""
    if not rows.any():
        return [np.zeros(0)] * len(chosen.layers)
    hidden = {traced.position: traced.hidden}
    return (raw for _, _, raw in refits(hidden, target, chosen, train=train, rows=rows))


def roc_curves(predictors: Mapping[str, Predictor], on: LabelledSplit) -> dict[str, RocCurve]:
    """The ROC curve of every predictor whose AUROC is defined, at `POINTS` thresholds at most."""
    found = {}
    for name, predictor in predictors.items():
        rows = _rows(predictor, on)
        if len(np.unique(on.label[rows])) == 2:
            found[name] = thin_roc(roc_curve(predictor.values[rows], on.label[rows]))
    return found


def reliability_curves(
    predictors: Mapping[str, Predictor], on: LabelledSplit
) -> dict[str, ReliabilityCurve]:
    """Predicted against observed of every probability; intervals as if only questions counted."""
    found = {}
    for name, predictor in predictors.items():
        rows = _rows(predictor, on)
        if predictor.probability is not None and rows.any():
            found[name] = reliability(
                predictor.probability[rows], on.label[rows], groups=on.question[rows]
            )
    return found


def risk_curves(
    predictors: Mapping[str, Predictor], on: LabelledSplit, resampling: Resampling
) -> dict[str, RiskCoverage]:
    """Share of label 0 among the runs kept, as those with the lowest values are left out.

    Bands draw whole questions, `RESAMPLES` times at most.
    """
    found = {}
    for name, predictor in predictors.items():
        rows = _rows(predictor, on)
        if rows.any():
            curve = risk_coverage(
                -predictor.values[rows], 1 - on.label[rows],
                n_boot=min(RESAMPLES, resampling.n_boot), seed=resampling.seed,
                groups=on.question[rows],
            )  # fmt: skip
            found[name] = thin_risk(curve)
    return found


def thin_roc(curve: RocCurve) -> RocCurve:
    """The same curve at `POINTS` points at most, both ends among them."""
    kept = _kept(len(curve.false_positive_rate))
    return RocCurve(
        false_positive_rate=curve.false_positive_rate[kept],
        true_positive_rate=curve.true_positive_rate[kept],
        thresholds=curve.thresholds[kept[1:] - 1],
    )


def thin_risk(curve: RiskCoverage) -> RiskCoverage:
    """The same curve at `POINTS` coverages at most; its areas are those of the whole curve."""
    kept = _kept(len(curve.coverage))
    low, high = (None if edge is None else edge[kept] for edge in (curve.risk_low, curve.risk_high))
    return replace(
        curve,
        coverage=curve.coverage[kept],
        risk=curve.risk[kept],
        risk_low=low,
        risk_high=high,
    )


def _kept(n: int) -> np.ndarray:
    return np.unique(np.linspace(0, n - 1, min(n, POINTS)).round().astype(int))


def _rows(predictor: Predictor, on: LabelledSplit) -> np.ndarray:
    return on.rows & ~np.isnan(predictor.values)


# --- notes ---------------------------------------------------------------------------------------


FEW_QUESTIONS = 30
"""Below this many questions in a split, the notes warn of its intervals."""
SPLIT_TITLES = {"test": "test", OOD: "out of distribution"}


def study_notes(
    table: RunTable, probes: StudyProbes, traced: Traced, n_bootstrap: int
) -> tuple[str, ...]:
    """The units, what is left out, what needs more than one run, and what is undefined."""
    return (
        *_units(table),
        *_left_out(table),
        *_undefined_notes(probes),
        f"Of the baselines, {_listed(NEEDS_OTHER_RUNS)} need the question's other runs; everything "
        "else is known from the run alone.",
        "High semantic entropy is a label of the question, which all its runs share. There, the "
        "thinking entropy is the entropy itself and not the probe on it, and the correctness "
        "probe counts with its sign turned.",
        *([traced.reason] if traced.reason else []),
        f"The curves by layer and the bands of risk are of {min(RESAMPLES, n_bootstrap)} "
        "resamples; no choice has seen them. The intervals of the reliability curves are as wide "
        "as if a question's runs in a bin were copies of one run.",
    )


def runs_and_questions(table: RunTable, split: str) -> tuple[int, int]:
    """How many runs and how many questions a split holds."""
    rows = table.rows(split)
    return int(rows.sum()), len(np.unique(table.question_id[rows]))


def _units(table: RunTable) -> list[str]:
    sizes = {split: runs_and_questions(table, split) for split in SCORED_SPLITS}
    there = [
        f"{SPLIT_TITLES[split]} {runs:,} runs of {questions:,} questions"
        for split, (runs, questions) in sizes.items()
        if runs
    ]
    notes = [
        f"Scored are {' and '.join(there) or 'no runs'}. The runs of a question are alike, so the "
        "questions are the units: intervals draw whole questions again, and p-values deal out "
        "the labels of whole questions among questions with equally many scored runs."
    ]
    notes += [
        f"Only {questions} questions in {SPLIT_TITLES[split]}: intervals of so few units are rough."
        for split, (_, questions) in sizes.items()
        if 0 < questions < FEW_QUESTIONS
    ]
    if not sizes[OOD][0]:
        notes.append("No out-of-distribution questions were asked.")
    return notes


def _left_out(table: RunTable) -> list[str]:
    """How many runs have no known label, and how many no known entropy, by split."""
    notes = []
    for values, what, then in (
        (table.correct, "neither correct nor wrong: they state no answer, or nobody knows the "
         "right one", "They are left out of what concerns correctness"),
        (table.thinking_entropy, "without known token entropies of the thinking", "The thinking "
         "entropy says nothing of them"),
    ):  # fmt: skip
        unknown = {split: int((table.rows(split) & np.isnan(values)).sum()) for split in SPLITS}
        if any(unknown.values()):
            where = ", ".join(f"{count:,} in {split}" for split, count in unknown.items() if count)
            notes.append(f"{sum(unknown.values()):,} runs are {what}. {then} ({where}).")
    return notes


def _undefined_notes(probes: StudyProbes) -> list[str]:
    notes = [f"Undefined: {TITLES[name]} ({why})." for name, why in probes.undefined.items()]
    if COMBINED in probes.probes:
        parts = parts_of(probes.probes[COMBINED])
        if len(parts) < len(PREDICTORS) - 1:
            notes.append(
                f"The combination weighs only {_listed(parts)}, as the other is undefined."
            )
        notes.append(
            "The combination is fitted on validation, where the probes' layers were chosen too."
        )
    return notes


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return " and ".join(TITLES[name].rstrip("*") for name in names)


PAIRS = (
    (COMBINED, CORRECTNESS),
    (CORRECTNESS, ENTROPY),
    (CORRECTNESS, THINKING),
    (ENTROPY, THINKING),
    (COMBINED, THINKING),
    (CORRECTNESS, LENGTH),
)
"""Whose AUROCs for a correct run are compared, the first less the second."""


def assess_study(
    table: RunTable,
    predictions: Mapping[str, Prediction],
    probes: StudyProbes,
    traced: Traced,
    *,
    n_bootstrap: int,
    n_permutations: int,
    seed: int,
    progress: Progress,
) -> StudyAssessment:
    """Score the probes, their combination and simple baselines on test and out of distribution.

    `table`, `predictions` and `traced` have the same rows. A split without runs has empty
    dictionaries; a score that is undefined says why.
    """
    resampling = Resampling(n_bootstrap, n_permutations, seed)
    of_correct = correctness_predictors(table, probes, predictions)
    of_high = high_entropy_predictors(table, probes, predictions)
    correct = _splits(table, table.correct, "correct")
    high = _splits(table, table.high, "high")
    median = _splits(table, table.high_median, "high")
    parts: dict[str, dict[str, Any]] = {}
    with progress("Evaluating", len(SCORED_SPLITS) + 3, "parts") as stage:
        for split in SCORED_SPLITS:
            parts[split] = {}
            if split in correct:
                parts[split] = _scores(
                    of_correct, of_high, correct[split], high[split], median[split], resampling
                )
            stage.advance(1)
        layers = {}
        for name, target, words, splits in (
            (CORRECTNESS, table.correct, CORRECT, correct),
            (ENTROPY, table.high, HIGH, high),
        ):
            if name in probes.sweeps:
                layers[name] = layer_curve(
                    probes.sweeps[name], words, target, table.rows("train", target), splits,
                    traced, resampling,
                )  # fmt: skip
            stage.advance(1)
        tripwires = study_tripwires(table, probes, traced, _real_scores(parts["test"]), seed)
        stage.advance(1)
    return StudyAssessment(
        **{name: {s: parts[s].get(name, {}) for s in SCORED_SPLITS} for name in _PARTS},
        layer_curves=layers,
        tripwires=tripwires,
        notes=study_notes(table, probes, traced, n_bootstrap),
    )


_PARTS = (
    "correctness", "high_entropy", "high_entropy_median", "confidence", "differences", "roc",
    "reliability", "risk_coverage",
)  # fmt: skip


def _splits(table: RunTable, label: np.ndarray, positive: str) -> dict[str, LabelledSplit]:
    """The scored splits that hold runs."""
    found = {split: labelled_split(table, split, label, positive) for split in SCORED_SPLITS}
    return {split: on for split, on in found.items() if on is not None}


def _scores(
    of_correct: Mapping[str, Predictor],
    of_high: Mapping[str, Predictor],
    correct: LabelledSplit,
    high: LabelledSplit,
    median: LabelledSplit,
    resampling: Resampling,
) -> dict[str, Any]:
    """Every part of the assessment that belongs to one split, by `_PARTS`."""
    probability = {name: of_correct[name] for name in GIVES_CORRECT}
    by_median = score_predictors({ENTROPY: of_high[ENTROPY]}, median, resampling)
    return {
        "correctness": add_within_questions(
            score_predictors(of_correct, correct, resampling), of_correct, correct, resampling
        ),
        "high_entropy": score_predictors(of_high, high, resampling),
        "high_entropy_median": {ENTROPY: by_median[ENTROPY]["auroc"]},
        "confidence": {
            name: mean_probability(each, correct, resampling) for name, each in probability.items()
        },
        "differences": differences(of_correct, PAIRS, correct, resampling),
        "roc": roc_curves(of_correct, correct),
        "reliability": reliability_curves(probability, correct)
        | reliability_curves({ENTROPY: of_high[ENTROPY]}, high),
        "risk_coverage": risk_curves(of_correct, correct, resampling),
    }


def _real_scores(parts: Mapping[str, Any]) -> dict[str, Score]:
    """The AUROC of each probe on hidden states for its own label."""
    if not parts:
        return {}
    return {
        CORRECTNESS: parts["correctness"][CORRECTNESS]["auroc"],
        ENTROPY: parts["high_entropy"][ENTROPY]["auroc"],
    }


# --- metrics.json --------------------------------------------------------------------------------


def metrics_as_json(
    table: RunTable,
    probes: StudyProbes,
    assessment: StudyAssessment,
    counts: Mapping[str, RunCounts],
) -> dict[str, Any]:
    """Every number of the study as plain JSON; `counts` by dataset.

    A score has value, low, high (95 %), p_value, n (runs), n_questions, undefined and note.
    """

    def scored(
        by_split: Mapping[str, Mapping[str, Mapping[str, Score]]], label: np.ndarray
    ) -> dict[str, Any]:
        return {split: rows_of(split, rows, label) for split, rows in by_split.items()}

    def rows_of(
        split: str, rows: Mapping[str, Mapping[str, Score]], label: np.ndarray
    ) -> dict[str, Any]:
        return {
            name: {
                m: _plain(score, table, probes, split, label, [name]) for m, score in row.items()
            }
            for name, row in rows.items()
        }

    return {
        "thresholds_nats": {"best_split": table.threshold, "median": table.threshold_median},
        "counts": {name: asdict(each) for name, each in counts.items()},
        "splits": {split: _split_counts(table, split) for split in SPLITS},
        "probes": {name: _chosen(name, probes) for name in probes.probes},
        "undefined_probes": probes.undefined,
        "needs_other_runs": list(NEEDS_OTHER_RUNS),
        "correctness": scored(assessment.correctness, table.correct),
        "high_entropy": scored(assessment.high_entropy, table.high),
        "high_entropy_median": {
            split: rows_of(split, {n: {"auroc": s} for n, s in row.items()}, table.high_median)
            for split, row in assessment.high_entropy_median.items()
        },
        "confidence": assessment.confidence,
        "auroc_differences": {
            split: {
                pair: _plain(s, table, probes, split, table.correct, pair.split(" - "))
                for pair, s in row.items()
            }
            for split, row in assessment.differences.items()
        },
        "layer_curves": {
            name: _layers(curve, table, probes, table.high if name == ENTROPY else table.correct)
            for name, curve in assessment.layer_curves.items()
        },
        "tripwires": [asdict(tripwire) for tripwire in assessment.tripwires],
        "notes": list(assessment.notes),
    }


def _plain(
    score: Score,
    table: RunTable,
    probes: StudyProbes,
    split: str,
    label: np.ndarray,
    predictors: list[str],
) -> dict[str, Any]:
    """A score with the number of questions that its runs are of."""
    rows = table.rows(split, label)
    if score.value is not None:
        for name in predictors:
            rows = rows & known(name, table, probes)
    if score.name == WITHIN:
        both = [set(table.question_id[rows & (label == value)].tolist()) for value in (0, 1)]
        return {**score.as_dict(), "n_questions": len(both[0] & both[1])}
    return {**score.as_dict(), "n_questions": len(np.unique(table.question_id[rows]))}


def _split_counts(table: RunTable, split: str) -> dict[str, int]:
    rows = table.rows(split)
    correct, high = table.correct[rows], table.high[rows]
    return {
        "runs": int(rows.sum()),
        "questions": len(np.unique(table.question_id[rows])),
        "correct": int((correct == 1).sum()),
        "incorrect": int((correct == 0).sum()),
        "correctness_unknown": int(np.isnan(correct).sum()),
        "high_entropy": int((high == 1).sum()),
        "low_entropy": int((high == 0).sum()),
        "thinking_entropy_unknown": int(np.isnan(table.thinking_entropy[rows]).sum()),
    }


def _chosen(name: str, probes: StudyProbes) -> dict[str, Any]:
    """Where a probe reads, how it was chosen, and the rows that it was fitted on."""
    probe = probes.probes[name]
    found: dict[str, Any] = {
        "target": probe.target,
        "position": probe.position,
        "layer": probe.layer,
        "regularisation": probe.regularisation,
        **{key: probe.training[key] for key in ("fitted_on", "train", "validation")},
    }
    if name in probes.sweeps:
        sweep = probes.sweeps[name]
        found |= {"validation_score": sweep.best_score, "validation_score_name": sweep.score_name}
    if name == COMBINED:
        # Of standardised log-odds, so that they can be compared.
        found["weights"] = dict(zip(parts_of(probe), probe.weight.tolist(), strict=True))
    return found


def _layers(
    curve: LayerCurve, table: RunTable, probes: StudyProbes, label: np.ndarray
) -> dict[str, Any]:
    return {
        "target": curve.target,
        "layers": list(curve.layers),
        "validation": list(curve.validation),
        "chosen": curve.chosen,
        "auroc": {
            split: [_plain(s, table, probes, split, label, []) for s in scores]
            for split, scores in curve.scores.items()
        },
    }
