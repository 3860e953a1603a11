"""Scores of the study's probes, in and out of distribution, against baselines and tripwires.

Every choice was made on train and validation before; the scored splits change none of them.
Questions are the units: intervals draw whole questions, p-values deal out whole questions' labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from helpers.evaluation import Score
from helpers.probe_training import HIGH
from helpers.progress import Progress
from helpers.studies.reasoning.checks import study_tripwires
from helpers.studies.reasoning.curves import (
    layer_curve,
    reliability_curves,
    risk_curves,
    roc_curves,
)

# The file of all numbers belongs to this module's face; it has a module of its own for its length.
from helpers.studies.reasoning.metrics_file import metrics_as_json as metrics_as_json
from helpers.studies.reasoning.notes import study_notes
from helpers.studies.reasoning.predictors import (
    GIVES_CORRECT,
    LENGTH,
    Predictor,
    correctness_predictors,
    high_entropy_predictors,
)
from helpers.studies.reasoning.probes import (
    COMBINED,
    CORRECT,
    CORRECTNESS,
    ENTROPY,
    THINKING,
)
from helpers.studies.reasoning.records import (
    SCORED_SPLITS,
    Prediction,
    RunTable,
    StudyAssessment,
    StudyProbes,
    Traced,
)
from helpers.studies.reasoning.scores import (
    LabelledSplit,
    Resampling,
    add_within_questions,
    differences,
    labelled_split,
    mean_probability,
    score_predictors,
)

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
