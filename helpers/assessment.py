"""Trains the probes of a run and says how well they work, against baselines and tripwires.

Choices (layer, position, regularisation, the threshold γ) are made on train and validation;
every score is on the test questions, which no choice has seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from helpers.config import RunConfig
from helpers.curves import ReliabilityCurve, RocCurve, reliability, roc_curve
from helpers.evaluation import (
    Score,
    correlation,
    evaluate_classifier,
    evaluate_regression,
    paired_difference,
)
from helpers.metrics import auroc
from helpers.pipeline import HiddenStates, SampledAnswers
from helpers.probe_training import PROMPT_POSITION, Targets, TrainedProbes, fit_chosen
from helpers.probe_tripwires import memorisation_check, shuffled_label_scores
from helpers.probes import (
    LinearProbe,
    UndefinedTarget,
    predict,
    sweep,
)
from helpers.progress import Progress
from helpers.tripwires import (
    Tripwire,
    constant_input_tripwire,
    memorisation_tripwire,
    shuffled_scores_tripwire,
)

LENGTH, INPUT_LAYER = "question length", "input layer at tbg"
LEXICAL = {
    "lexical_entropy": "lexical entropy of the samples",
    "predictive_entropy": "predictive entropy of the samples",
    "predictive_entropy_normalised": "length-normalised predictive entropy",
    "mean_token_entropy": "mean token entropy of the samples",
}
"""Baselines that need the K samples but not their meanings."""


@dataclass(frozen=True)
class Assessment:
    """Every score of a run, on its test questions."""

    regression: dict[str, dict[str, Score]]
    """Predictor of semantic entropy to RMSE, MAE, Spearman."""
    high_entropy: dict[str, dict[str, Score]]
    """Predictor of high semantic entropy to AUROC, average precision, Brier, ECE."""
    wrong_answer: dict[str, dict[str, Score]]
    """Predictor of a wrong most likely answer to the same, and Spearman's correlation."""
    differences: dict[str, Score]
    """AUROC for high semantic entropy: the probe minus each baseline, paired."""
    tripwires: tuple[Tripwire, ...]
    roc: dict[str, RocCurve]
    reliability: ReliabilityCurve | None
    shuffled: np.ndarray
    """Test AUROC of probes fitted to shuffled labels."""
    predicted: dict[str, np.ndarray]
    """Probe name to its prediction for every question, `[n]`."""


def assess(
    config: RunConfig,
    answers: SampledAnswers,
    uncertainty: Mapping[str, np.ndarray],
    states: HiddenStates,
    targets: Targets,
    trained: TrainedProbes,
    progress: Progress,
) -> Assessment:
    """Score probes and baselines on the test questions, and run the tripwires."""
    predicted = {
        name: predict(probe, states.hidden[probe.position][:, probe.layer])
        for name, probe in trained.probes.items()
    }
    test = targets.rows("test")
    with progress("Evaluating", 4, "parts") as stage:
        regression = _regression(config, predicted, uncertainty, targets)
        stage.advance(1)
        baselines = baseline_scores(answers, uncertainty, states, targets)
        scored: dict[str, np.ndarray] = {
            name: predicted[name] for name in _named(predicted, "high_semantic_entropy")
        }
        high = _classification(config, {**scored, **baselines}, targets.high, targets, "high")
        curves = {
            name: roc_curve(values[test], targets.high[test])
            for name, values in {**scored, **baselines}.items()
            if high[name]["auroc"].value is not None
        }
        stage.advance(1)
        scored = {name: predicted[name] for name in _named(predicted, "wrong_answer")}
        scored |= {name: predicted[name] for name in _named(predicted, "high_semantic_entropy")}
        scored["semantic entropy of the samples"] = uncertainty["semantic_entropy"]
        wrong = _classification(config, {**scored, **baselines}, targets.wrong, targets, "wrong")
        stage.advance(1)
        differences = _differences(config, predicted, baselines, targets)
        tripwires, shuffled = _tripwires(config, states, targets, trained, high)
        stage.advance(1)
    main = predicted.get("high_semantic_entropy")
    calibrated = None
    if main is not None and high["high_semantic_entropy"]["auroc"].value is not None:
        calibrated = reliability(main[test], targets.high[test])
    return Assessment(
        regression, high, wrong, differences, tripwires, curves, calibrated, shuffled, predicted
    )


def baseline_scores(
    answers: SampledAnswers,
    uncertainty: Mapping[str, np.ndarray],
    states: HiddenStates,
    targets: Targets,
) -> dict[str, np.ndarray]:
    """Simple predictors of high semantic entropy, name to `[n]`, higher meaning more likely.

    Of the question's length the sign is learned on train; the input layer is a logistic probe.
    """
    length = np.array([float(len(q.question)) for q in answers.questions])
    train = targets.rows("train", targets.high)
    if (
        len(set(targets.high[train])) == 2
        and auroc(length[train], targets.high[train]).value() < 0.5
    ):
        length = -length
    scores = {LENGTH: length}
    if PROMPT_POSITION in states.hidden:
        probe = _input_layer_probe(states.hidden[PROMPT_POSITION][:, :1], targets)
        if probe is not None:
            scores[INPUT_LAYER] = predict(probe, states.hidden[PROMPT_POSITION][:, 0])
    scores |= {title: uncertainty[name] for name, title in LEXICAL.items()}
    return {k: v for k, v in scores.items() if not np.isnan(v).any()}


def _input_layer_probe(layer: np.ndarray, targets: Targets) -> LinearProbe | None:
    try:
        chosen = sweep(
            {PROMPT_POSITION: layer},
            targets.high,
            kind="logistic",
            train=targets.rows("train", targets.high),
            validation=targets.rows("validation", targets.high),
        )
    except UndefinedTarget:
        return None
    return fit_chosen(
        {PROMPT_POSITION: layer}, targets.high, chosen, "input", "high semantic entropy", targets
    )


def _regression(
    config: RunConfig,
    predicted: Mapping[str, np.ndarray],
    uncertainty: Mapping[str, np.ndarray],
    targets: Targets,
) -> dict[str, dict[str, Score]]:
    test, train = targets.rows("test"), targets.rows("train")
    entropy = targets.semantic_entropy
    sources = {name: predicted[name] for name in _named(predicted, "semantic_entropy")}
    sources["mean of train"] = np.full(len(entropy), entropy[train].mean())
    options = _resampling(config)
    return {
        name: evaluate_regression(values[test], entropy[test], **options)
        for name, values in sources.items()
    }


def _classification(
    config: RunConfig,
    scores: Mapping[str, np.ndarray],
    labels: np.ndarray,
    targets: Targets,
    positive: str,
) -> dict[str, dict[str, Score]]:
    rows = targets.rows("test", labels)
    results = {}
    for name, values in scores.items():
        own = name in ("high_semantic_entropy", "high_semantic_entropy_prompt")
        if positive == "wrong":
            own = name.startswith("wrong_answer")
        results[name] = evaluate_classifier(
            values[rows],
            labels[rows],
            probabilities=values[rows] if own else None,
            positive=positive,
            **_resampling(config),
        )
        if positive == "wrong":
            results[name]["spearman"] = correlation(
                values[rows], labels[rows], **_resampling(config)
            )
    return results


def _differences(
    config: RunConfig,
    predicted: Mapping[str, np.ndarray],
    baselines: Mapping[str, np.ndarray],
    targets: Targets,
) -> dict[str, Score]:
    main = predicted.get("high_semantic_entropy")
    if main is None:
        return {}
    test = targets.rows("test")
    return {
        name: paired_difference(
            main[test], values[test], targets.high[test], "auroc",
            n_boot=config.n_bootstrap, seed=config.seed,
        )
        for name, values in baselines.items()
    }  # fmt: skip


def _tripwires(
    config: RunConfig,
    states: HiddenStates,
    targets: Targets,
    trained: TrainedProbes,
    high: Mapping[str, Mapping[str, Score]],
) -> tuple[tuple[Tripwire, ...], np.ndarray]:
    probe = trained.probes.get("high_semantic_entropy")
    if not isinstance(probe, LinearProbe):
        reason = "there is no probe for high semantic entropy"
        names = ("shuffled labels", "memorisation", "constant input")
        return tuple(Tripwire(n, None, None, "", reason) for n in names), np.array([])
    train, test = targets.rows("train"), targets.rows("test")
    features = states.hidden[probe.position][:, probe.layer]
    real = high["high_semantic_entropy"]["auroc"].value
    shuffled = np.array([])
    if real is None:
        scattered = Tripwire(
            "shuffled labels", None, None, "", high["high_semantic_entropy"]["auroc"].undefined
        )
    else:
        shuffled = shuffled_label_scores(
            features, targets.high, train, test,
            regularisation=probe.regularisation, seed=config.seed,
        )  # fmt: skip
        scattered = shuffled_scores_tripwire(shuffled, real_score=real, seed=config.seed)
    memorised = memorisation_tripwire(memorisation_check(features, seed=config.seed))
    return (scattered, memorised, _canary(config, states, targets)), shuffled


def _canary(config: RunConfig, states: HiddenStates, targets: Targets) -> Tripwire:
    """A probe on the embedding, without positions, of the last prompt token."""
    embedding = states.token_embedding
    if len(np.unique(embedding, axis=0)) > 1:
        reason = "prompts end in different tokens, so the embedding may tell something"
        return Tripwire("constant input", None, None, "AUROC 0.5", reason)
    probe = _input_layer_probe(embedding[:, None, :], targets)
    if probe is None:
        reason = "high semantic entropy has one class on train or validation"
        return Tripwire("constant input", None, None, "AUROC 0.5", reason)
    test = targets.rows("test")
    scores = evaluate_classifier(
        predict(probe, embedding[test]), targets.high[test], **_resampling(config)
    )
    return constant_input_tripwire(scores["auroc"])


def _named(predicted: Mapping[str, np.ndarray], stem: str) -> list[str]:
    return [n for n in predicted if n in (stem, f"{stem}_prompt", f"{stem}_mlp")]


def _resampling(config: RunConfig) -> dict:
    return {"n_boot": config.n_bootstrap, "n_perm": config.n_permutations, "seed": config.seed}
