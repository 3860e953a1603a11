"""Trains the probes of a run and says how well they work, against baselines and tripwires.

Choices (layer, position, regularisation, the threshold γ) are made on train and validation;
every score is on the test questions, which no choice has seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from helpers.config import RunConfig
from helpers.curves import ReliabilityCurve, RocCurve, reliability, roc_curve
from helpers.evaluation import (
    Score,
    best_split_threshold,
    correlation,
    evaluate_classifier,
    evaluate_regression,
    paired_difference,
)
from helpers.metrics import auroc
from helpers.pipeline import HiddenStates, Meanings, SampledAnswers
from helpers.probe_mlp import fit_mlp
from helpers.probe_tripwires import memorisation_check, shuffled_label_scores
from helpers.probes import (
    LinearProbe,
    MlpProbe,
    Probe,
    Sweep,
    UndefinedTarget,
    fit_probe,
    predict,
    sweep,
)
from helpers.progress import Progress
from helpers.store import Store, content_key
from helpers.tripwires import (
    Tripwire,
    constant_input_tripwire,
    memorisation_tripwire,
    shuffled_scores_tripwire,
)

PROMPT_POSITION = "tbg"
"""Probes at this position need one forward pass of the prompt, and no answer."""

LENGTH, INPUT_LAYER = "question length", "input layer at tbg"
LEXICAL = {
    "lexical_entropy": "lexical entropy of the samples",
    "predictive_entropy": "predictive entropy of the samples",
    "predictive_entropy_normalised": "length-normalised predictive entropy",
    "mean_token_entropy": "mean token entropy of the samples",
}
"""Baselines that need the K samples but not their meanings."""


@dataclass(frozen=True)
class Targets:
    """What the probes predict, one entry a question, and the split of each question."""

    semantic_entropy: np.ndarray
    """`[n]`, nats."""
    threshold: float | None
    """γ, nats: semantic entropy above it is high. The best two-way split of train; None if flat."""
    high: np.ndarray
    """`[n]`, 1.0 where semantic entropy is above γ."""
    wrong: np.ndarray
    """`[n]`, 1.0 where the most likely answer is wrong, 0.0 right, NaN unanswered or ungradable."""
    splits: np.ndarray
    """`[n]`, "train", "validation" or "test"."""

    def rows(self, split: str, target: np.ndarray | None = None) -> np.ndarray:
        """Mask of a split's questions, of those only for which `target` is known."""
        chosen = self.splits == split
        return chosen if target is None else chosen & ~np.isnan(target)


@dataclass(frozen=True)
class TrainedProbes:
    """The probes of a run, the sweeps that chose them, and why any of them is undefined."""

    probes: dict[str, Probe]
    sweeps: dict[str, Sweep]
    undefined: dict[str, str]
    """Probe name to the reason in words."""


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


def make_targets(
    answers: SampledAnswers, meanings: Meanings, uncertainty: Mapping[str, np.ndarray]
) -> Targets:
    """The probes' targets; γ is chosen on the training questions."""
    entropy = uncertainty["semantic_entropy"]
    splits = np.array([q.split for q in answers.questions])
    threshold = best_split_threshold(entropy[splits == "train"])
    wrong = [
        np.nan if g is None or g.correct is None else float(not g.correct)
        for g in meanings.greedy_grades
    ]
    high = np.full(len(entropy), np.nan) if threshold is None else (entropy > threshold) * 1.0
    return Targets(entropy, threshold, high, np.array(wrong, dtype=float), splits)


def train_probes(
    config: RunConfig, states: HiddenStates, targets: Targets, store: Store, progress: Progress
) -> TrainedProbes:
    """Fit every probe; a target with one class leaves its probe undefined, with the reason."""
    plan: list[tuple[str, str, np.ndarray, str]] = [
        ("semantic_entropy", "ridge", targets.semantic_entropy, "semantic entropy"),
        ("high_semantic_entropy", "logistic", targets.high, "high semantic entropy"),
        ("wrong_answer", "logistic", targets.wrong, "wrong most likely answer"),
    ]
    probes: dict[str, Probe] = {}
    sweeps: dict[str, Sweep] = {}
    undefined: dict[str, str] = {}
    with progress("Training probes", len(plan) + 1, "probes") as stage:
        for name, kind, target, words in plan:
            try:
                sweeps[name] = _sweep(config, states.hidden, target, kind, words, targets, store)
            except UndefinedTarget as reason:
                undefined[name] = str(reason)
            else:
                chosen = sweeps[name]
                probes[name] = _fit(states.hidden, target, chosen, name, words, targets)
                if chosen.best_position != PROMPT_POSITION and PROMPT_POSITION in states.hidden:
                    prompt_only = best_at(chosen, PROMPT_POSITION)
                    name = f"{name}_prompt"
                    probes[name] = _fit(states.hidden, target, prompt_only, name, words, targets)
            stage.advance(1)
        if "semantic_entropy" in sweeps:
            probes["semantic_entropy_mlp"] = _fit_mlp(
                config, states.hidden, sweeps["semantic_entropy"], targets, store
            )
        stage.advance(1)
    return TrainedProbes(probes, sweeps, undefined)


def _sweep(
    config: RunConfig,
    hidden: Mapping[str, np.ndarray],
    target: np.ndarray,
    kind: str,
    words: str,
    targets: Targets,
    store: Store,
) -> Sweep:
    if words == "high semantic entropy" and targets.threshold is None:
        raise UndefinedTarget(
            "every training question has the same semantic entropy, so nothing splits high from "
            "low; raise --temperature or --limit"
        )
    if words == "wrong most likely answer":
        _check_correctness(target, targets)
    return sweep(
        hidden,
        target,
        kind=kind,  # type: ignore[arg-type]
        train=targets.rows("train", target),
        validation=targets.rows("validation", target),
        target_name=words,
    )


def _check_correctness(wrong: np.ndarray, targets: Targets) -> None:
    """Say in words when correctness has one class or none, as it does for a model too weak."""
    known = wrong[~np.isnan(wrong)]
    n_right, n_wrong, n = int((known == 0).sum()), int((known == 1).sum()), len(wrong)
    if n_right and n_wrong:
        return
    if not len(known):
        found = f"none of the {n} most likely answers could be graded (no final answer stated)"
    else:
        found = f"correctness has one class: {n_right} right, {n_wrong} wrong, of {n} questions"
    raise UndefinedTarget(
        f"{found}; the correctness probe and every AUROC for wrong answers are undefined; use "
        "easier questions or a stronger model"
    )


def best_at(chosen: Sweep, position: str) -> Sweep:
    """The same sweep with its best entry among those at one position."""
    at = chosen.positions.index(position)
    scores = chosen.validation_score[at]
    # Among equals the strongest regularisation, then the earliest layer, as the sweep itself.
    flipped = scores[:, ::-1].T
    regularisation, layer = np.unravel_index(int(flipped.argmax()), flipped.shape)
    return replace(
        chosen,
        best_position=position,
        best_layer=chosen.layers[layer],
        best_regularisation=chosen.regularisations[::-1][regularisation],
        best_score=float(flipped.max()),
    )


def _fit(
    hidden: Mapping[str, np.ndarray],
    target: np.ndarray,
    chosen: Sweep,
    name: str,
    words: str,
    targets: Targets,
) -> LinearProbe:
    return fit_probe(
        hidden,
        target,
        kind=chosen.kind,
        position=chosen.best_position,
        layer=chosen.best_layer,
        regularisation=chosen.best_regularisation,
        rows=targets.rows("train", target),
        name=name,
        target_name=words,
        threshold=targets.threshold if words == "high semantic entropy" else None,
    )


def _fit_mlp(
    config: RunConfig,
    hidden: Mapping[str, np.ndarray],
    chosen: Sweep,
    targets: Targets,
    store: Store,
) -> MlpProbe:
    """The two-layer perceptron where the ridge probe reads; stored, as it needs torch."""
    features = hidden[chosen.best_position][:, chosen.best_layer]
    train, validation = targets.rows("train"), targets.rows("validation")
    entropy = targets.semantic_entropy
    key = content_key(
        stage="mlp",
        version=1,
        seed=config.seed,
        place=[chosen.best_position, chosen.best_layer],
        features=content_key(values=[float(x) for x in features[train | validation].sum(1)]),
        target=entropy[train | validation].tolist(),
        train=train.tolist(),
    )
    arrays, card = store.get_arrays(key), store.get(key)
    if arrays and card:
        values = {**card, **arrays, "output_bias": arrays["output_bias"].item()}
        return MlpProbe(**values)
    probe = fit_mlp(
        features[train],
        entropy[train],
        features[validation],
        entropy[validation],
        kind="regression",
        name="semantic_entropy_mlp",
        position=chosen.best_position,
        layer=chosen.best_layer,
        target_name="semantic entropy",
        seed=config.seed,
    )
    values = dict(probe.__dict__)
    tensors = ("hidden_weight", "hidden_bias", "output_weight", "output_bias", "mean", "scale")
    store.put_arrays(key, {name: np.asarray(values.pop(name)) for name in tensors})
    store.put(key, values)
    return probe


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
    return _fit(
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
