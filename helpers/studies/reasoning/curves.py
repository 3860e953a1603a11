"""Curves of the study: scores by layer, and what stands behind a score, short enough to store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from helpers.curves import (
    ReliabilityCurve,
    RiskCoverage,
    RocCurve,
    reliability,
    risk_coverage,
    roc_curve,
)
from helpers.evaluation import Score
from helpers.probe_display import refits
from helpers.probes import Sweep
from helpers.studies.reasoning.predictors import Predictor
from helpers.studies.reasoning.records import LayerCurve, Traced
from helpers.studies.reasoning.scores import LabelledSplit, Resampling, score_predictors

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
