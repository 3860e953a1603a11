"""`metrics.json` of the study: every number with its interval, n of runs and questions, and p."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from helpers.evaluation import Score
from helpers.studies.reasoning.predictors import NEEDS_OTHER_RUNS, known
from helpers.studies.reasoning.probes import COMBINED, ENTROPY, parts_of
from helpers.studies.reasoning.records import (
    SPLITS,
    LayerCurve,
    RunCounts,
    RunTable,
    StudyAssessment,
    StudyProbes,
)
from helpers.studies.reasoning.scores import WITHIN


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
