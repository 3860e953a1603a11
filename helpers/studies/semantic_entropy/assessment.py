"""Trains the probes of a run and says how well they work, against baselines and tripwires.

Choices (layer, position, regularisation, the threshold γ) are made on train and validation;
every score is on the test questions, which no choice has seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from helpers.config import RunConfig
from helpers.evaluation.metrics import auroc
from helpers.evaluation.records import Array
from helpers.evaluation.scores import (
    ReliabilityCurve,
    RocCurve,
    Score,
    correlation,
    evaluate_classifier,
    evaluate_regression,
    paired_difference,
    reliability,
    roc_curve,
)
from helpers.generation.samples import SampledAnswers
from helpers.hidden_states.stored import HiddenStates
from helpers.probes.combined import HybridReport, predict_at, report_hybrid
from helpers.probes.probe import DisplayMap, LinearProbe, UndefinedTarget, predict, sweep
from helpers.probes.training import (
    PROMPT_POSITION,
    Targets,
    TrainedProbes,
    display_maps,
    fit_chosen,
)
from helpers.probes.tripwires import (
    Tripwire,
    constant_input_tripwire,
    memorisation_check,
    memorisation_tripwire,
    shuffled_label_scores,
    shuffled_scores_tripwire,
)
from helpers.progress import Progress
from helpers.uncertainty.estimators import ESTIMATORS

SHARES = ("semantic_entropy_soft", "semantic_entropy_soft_prompt")
"""Probes that learn semantic entropy as a share of ln K."""
LENGTH, INPUT_LAYER = "question_length", "input_layer"
"""Baselines that need no answer: the question's length, and the input of the first block at tbg."""


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
    shuffled: Array
    """Test AUROC of probes fitted to shuffled labels."""
    predicted: dict[str, Array]
    """Probe name to its prediction for every question, `[n]`; of entropies in nats."""
    hybrid: HybridReport | None
    """The hybrid of two probes against each alone."""
    test_maps: dict[str, DisplayMap]
    """Target to its test score at every place: to look at, no choice has seen them."""


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
    predicted = probe_predictions(trained, states, config.k)
    test = targets.rows("test")
    with progress("Evaluating", 5, "parts") as stage:
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
        scored |= _computed(uncertainty, ESTIMATORS, test)
        wrong = _classification(config, {**baselines, **scored}, targets.wrong, targets, "wrong")
        stage.advance(1)
        differences = _differences(config, predicted, baselines, targets)
        hybrid = _hybrid(config, predicted, targets)
        stage.advance(1)
        tripwires, shuffled = _tripwires(config, states, targets, trained, high)
        stage.advance(1)
    main = predicted.get("high_semantic_entropy")
    calibrated = None
    if main is not None and high["high_semantic_entropy"]["auroc"].value is not None:
        calibrated = reliability(main[test], targets.high[test])
    return Assessment(
        regression, high, wrong, differences, tripwires, curves, calibrated, shuffled, predicted,
        hybrid, display_maps(states, targets, trained),
    )  # fmt: skip


def probe_predictions(
    trained: TrainedProbes, states: HiddenStates, k: int
) -> dict[str, np.ndarray]:
    """Every probe's prediction for every question, by name, `[n]`; of entropies in nats."""
    asked = {**trained.probes, **trained.hybrids}
    predicted = {name: predict_at(probe, states.hidden) for name, probe in asked.items()}
    return predicted | {name: predicted[name] * np.log(k) for name in SHARES if name in predicted}


def _hybrid(
    config: RunConfig, predicted: Mapping[str, np.ndarray], targets: Targets
) -> HybridReport | None:
    """The hybrid against the two probes that it weighs; None where there is none."""
    names = ("wrong_answer_hybrid", "high_semantic_entropy", "wrong_answer")
    rows = targets.rows("test", targets.wrong)
    if any(name not in predicted for name in names) or len(set(targets.wrong[rows])) < 2:
        return None
    hybrid, entropy, correctness = (predicted[name][rows] for name in names)
    return report_hybrid(
        hybrid, entropy, correctness, targets.wrong[rows], targets.semantic_entropy[rows],
        **_resampling(config),
    )  # fmt: skip


def baseline_scores(
    answers: SampledAnswers,
    uncertainty: Mapping[str, np.ndarray],
    states: HiddenStates,
    targets: Targets,
) -> dict[str, np.ndarray]:
    """Simple predictors of high semantic entropy, name to `[n]`, higher meaning more likely.

    Of the question's length the sign is learned on train; the input layer is a logistic probe.
    Estimators are baselines where they see no meanings and no judgements, of which the label is
    made.
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
    return scores | _computed(uncertainty, lexical_estimators(), targets.rows("test"))


def lexical_estimators() -> list[str]:
    """The estimators that see neither the meanings of the answers nor a judge's verdicts."""
    of_meaning = {"meanings", "judgements"}
    return [name for name, card in ESTIMATORS.items() if not of_meaning & set(card.requires)]


def _computed(
    uncertainty: Mapping[str, np.ndarray], names: Iterable[str], rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Those estimators that have a value for each of the rows."""
    known = (name for name in names if name in uncertainty)
    return {name: uncertainty[name] for name in known if np.isfinite(uncertainty[name][rows]).all()}


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
        own = name.startswith("wrong_answer" if positive == "wrong" else "high_semantic_entropy")
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
    endings = ("", "_prompt", "_mlp", "_soft", "_hybrid")
    return [f"{stem}{ending}" for ending in endings if f"{stem}{ending}" in predicted]


def _resampling(config: RunConfig) -> dict:
    return {"n_boot": config.n_bootstrap, "n_perm": config.n_permutations, "seed": config.seed}
