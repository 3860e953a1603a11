"""The targets of a run and its probes; every choice is made on train and validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from helpers.config import RunConfig
from helpers.evaluation import (
    best_split_threshold,
)
from helpers.meanings import Meanings
from helpers.pipeline import HiddenStates, SampledAnswers
from helpers.probe_mlp import fit_mlp
from helpers.probes import (
    LinearProbe,
    MlpProbe,
    Probe,
    Sweep,
    UndefinedTarget,
    fit_probe,
    sweep,
)
from helpers.progress import Progress
from helpers.store import Store, array_hash, content_key

PROMPT_POSITION = "tbg"
"""Probes at this position need one forward pass of the prompt, and no answer."""


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
                sweeps[name] = _sweep(states.hidden, target, kind, words, targets)
            except UndefinedTarget as reason:
                undefined[name] = str(reason)
            else:
                chosen = sweeps[name]
                probes[name] = fit_chosen(states.hidden, target, chosen, name, words, targets)
                if chosen.best_position != PROMPT_POSITION and PROMPT_POSITION in states.hidden:
                    prompt_only = best_at(chosen, PROMPT_POSITION)
                    short = f"{name}_prompt"
                    probes[short] = fit_chosen(
                        states.hidden, target, prompt_only, short, words, targets
                    )
            stage.advance(1)
        if "semantic_entropy" in sweeps:
            probes["semantic_entropy_mlp"] = _fit_mlp(
                config, states.hidden, sweeps["semantic_entropy"], targets, store
            )
        stage.advance(1)
    return TrainedProbes(probes, sweeps, undefined)


def _sweep(
    hidden: Mapping[str, np.ndarray], target: np.ndarray, kind: str, words: str, targets: Targets
) -> Sweep:
    """Choose layer, position and regularisation; says why where the target is undefined."""
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


def fit_chosen(
    hidden: Mapping[str, np.ndarray],
    target: np.ndarray,
    chosen: Sweep,
    name: str,
    words: str,
    targets: Targets,
) -> LinearProbe:
    """The probe at a sweep's best entry, fitted on the training rows whose target is known."""
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
        version=2,
        seed=config.seed,
        place=[chosen.best_position, chosen.best_layer],
        features=array_hash({"features": features[train | validation]}),
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
