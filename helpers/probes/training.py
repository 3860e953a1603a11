"""Targets of a run's probes, and the probes, each fitted at its best place; choices are made on
train and validation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from scipy.special import expit

from helpers.config import RunConfig
from helpers.hidden_states.stored import HiddenStates
from helpers.probes.combined import HybridProbe, fit_hybrid
from helpers.probes.mlp import fit_mlp
from helpers.probes.probe import (
    DisplayMap,
    LinearKind,
    LinearProbe,
    MlpProbe,
    Probe,
    Sweep,
    UndefinedTarget,
    display_map,
    fit_probe,
    margin,
    states_at,
    sweep,
    training_statistics,
)
from helpers.progress import Progress
from helpers.store.cache import Store, content_key
from helpers.store.files import array_hash

# --- targets -------------------------------------------------------------------------------------


class Splits(Protocol):
    """What fitting a probe needs to know of a table of rows: which are of which split."""

    @property
    def threshold(self) -> float | None:
        """γ, nats; None where there is none."""

    def rows(self, split: str, target: np.ndarray | None = None) -> np.ndarray:
        """Mask of a split's rows, of those only for which `target` is known."""


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
    entropy_share: np.ndarray | None = None
    """`[n]`, semantic entropy as a share of ln K, its largest value with K samples."""
    wrong_share: np.ndarray | None = None
    """`[n]`, wrong samples among those that state an answer; NaN where none does."""

    def rows(self, split: str, target: np.ndarray | None = None) -> np.ndarray:
        """Mask of a split's questions, of those only for which `target` is known."""
        chosen = self.splits == split
        return chosen if target is None else chosen & ~np.isnan(target)


PROMPT_POSITION = "tbg"
"""Probes at this position need one forward pass of the prompt, and no answer."""
HIGH, WRONG = "high semantic entropy", "wrong most likely answer"


@dataclass(frozen=True)
class TrainedProbes:
    """The probes of a run, the sweeps that chose them, and why any of them is undefined."""

    probes: dict[str, Probe]
    sweeps: dict[str, Sweep]
    undefined: dict[str, str]
    """Probe name to the reason in words."""
    hybrids: dict[str, HybridProbe] = field(default_factory=dict)
    """Probes that weigh two others and may read two places; `combined.predict_at` asks them."""


@dataclass(frozen=True)
class _Plan:
    """A target, the kind of linear probe that learns it, and what its messages call it."""

    name: str
    kind: LinearKind
    target: np.ndarray
    words: str


def train_probes(
    config: RunConfig, states: HiddenStates, targets: Targets, store: Store, progress: Progress
) -> TrainedProbes:
    """Fit every probe; a target with one class leaves its probe undefined, with the reason.

    A linear probe for each target, at the place that is best on validation; a perceptron for each
    of the first three targets at the same place; and the hybrid of two of them. Where a probe
    reads the answer, a second one named `…_prompt` reads the prompt alone.
    """
    plans = _plans(targets)
    trained = TrainedProbes({}, {}, {}, {})
    with progress("Training probes", len(plans) + 4, "probes") as stage:
        for plan in plans:
            _train_linear(plan, states.hidden, targets, trained)
            stage.advance(1)
        for plan in plans[:3]:
            _train_mlps(config, plan, states.hidden, targets, store, trained)
            stage.advance(1)
        _train_hybrids(states.hidden, targets, trained)
        stage.advance(1)
    return trained


def _plans(targets: Targets) -> tuple[_Plan, ...]:
    """What is learnt, and by which kind of linear probe; the first three by a perceptron too."""
    unknown = np.full(len(targets.splits), np.nan)
    shares = [unknown if s is None else s for s in (targets.entropy_share, targets.wrong_share)]
    as_share = "semantic entropy as a share of ln K"
    return (
        _Plan("semantic_entropy", "ridge", targets.semantic_entropy, "semantic entropy"),
        _Plan("high_semantic_entropy", "logistic", targets.high, HIGH),
        _Plan("wrong_answer", "logistic", targets.wrong, WRONG),
        _Plan("semantic_entropy_soft", "soft-logistic", shares[0], as_share),
        _Plan("wrong_answer_soft", "soft-logistic", shares[1], "share of wrong samples"),
    )


def _train_linear(
    plan: _Plan, hidden: Mapping[str, np.ndarray], targets: Targets, trained: TrainedProbes
) -> None:
    """Add the sweep of a target and its probes, or why there are none."""
    try:
        chosen = sweep_target(hidden, plan.target, plan.kind, plan.words, targets)
    except UndefinedTarget as reason:
        trained.undefined[plan.name] = str(reason)
        return
    trained.sweeps[plan.name] = chosen
    for name, place in _places(plan.name, chosen).items():
        trained.probes[name] = fit_chosen(hidden, plan.target, place, name, plan.words, targets)


def _places(name: str, chosen: Sweep) -> dict[str, Sweep]:
    """Probe names to a sweep's best place and, if that is in the answer, the best in the prompt."""
    found = {name: chosen}
    if chosen.best_position != PROMPT_POSITION and PROMPT_POSITION in chosen.positions:
        found[f"{name}_prompt"] = best_at(chosen, PROMPT_POSITION)
    return found


def sweep_target(
    hidden: Mapping[str, np.ndarray],
    target: np.ndarray,
    kind: LinearKind,
    words: str,
    targets: Splits,
    progress: Callable[[int, int], None] | None = None,
) -> Sweep:
    """Choose layer, position and regularisation for a target [n], NaN where it is unknown.

    `words` names the target; for `HIGH` and `WRONG` what the targets say of it is checked first.
    `progress` as for `helpers.probes.probe.sweep`.
    Raises UndefinedTarget, saying why, where the target is undefined.
    """
    if words == HIGH and targets.threshold is None:
        raise UndefinedTarget(
            "every training question has the same semantic entropy, so nothing splits high from "
            "low; raise --temperature or --limit"
        )
    if words == WRONG:
        _check_correctness(target)
    if np.isnan(target).all():
        raise UndefinedTarget(
            f"the {words} is not known of any question: it takes reference answers, and answers "
            "that state a final one"
        )
    return sweep(
        hidden,
        target,
        kind=kind,
        train=targets.rows("train", target),
        validation=targets.rows("validation", target),
        target_name=words,
        progress=progress,
    )


def _check_correctness(wrong: np.ndarray) -> None:
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


def _train_hybrids(
    hidden: Mapping[str, np.ndarray], targets: Targets, trained: TrainedProbes
) -> None:
    """Add the hybrid of the entropy and the correctness probe, fitted to the validation rows."""
    parts = ("high_semantic_entropy", "wrong_answer")
    name = "wrong_answer_hybrid"
    missing = [part for part in parts if part not in trained.probes]
    if missing:
        reasons = "; ".join(f"{part}: {trained.undefined[part]}" for part in missing)
        trained.undefined[name] = f"it weighs two probes, and one is undefined ({reasons})"
        return
    pairs = {name: [trained.probes[part] for part in parts]}
    prompt_only = [trained.probes.get(f"{part}_prompt", trained.probes[part]) for part in parts]
    if prompt_only != pairs[name] and all(p.position == PROMPT_POSITION for p in prompt_only):
        pairs[f"{name}_prompt"] = prompt_only
    for own, (entropy_probe, correctness_probe) in pairs.items():
        assert isinstance(entropy_probe, LinearProbe)
        assert isinstance(correctness_probe, LinearProbe)
        trained.hybrids[own] = fit_hybrid(
            hidden,
            targets.wrong,
            entropy_probe,
            correctness_probe,
            rows=targets.rows("validation", targets.wrong),
            name=own,
            target_name=WRONG,
        )


def display_maps(
    states: HiddenStates, targets: Targets, trained: TrainedProbes
) -> dict[str, DisplayMap]:
    """Test scores at every place for each sweep, for display; no choice looks at them."""
    plans = {plan.name: plan.target for plan in _plans(targets)}
    return {
        name: display_map(
            states.hidden,
            plans[name],
            chosen,
            train=targets.rows("train", plans[name]),
            test=targets.rows("test", plans[name]),
        )
        for name, chosen in trained.sweeps.items()
    }


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
    targets: Splits,
) -> LinearProbe:
    """The probe at a sweep's best entry, fitted on the training rows whose target is known.

    A logistic probe's probabilities are calibrated on the validation rows.
    """
    probe = fit_probe(
        hidden,
        target,
        kind=chosen.kind,
        position=chosen.best_position,
        layer=chosen.best_layer,
        regularisation=chosen.best_regularisation,
        rows=targets.rows("train", target),
        name=name,
        target_name=words,
        threshold=targets.threshold if words == HIGH else None,
    )
    return calibrated(probe, hidden, target, targets) if probe.kind == "logistic" else probe


def calibrated(
    probe: LinearProbe, hidden: Mapping[str, np.ndarray], target: np.ndarray, targets: Splits
) -> LinearProbe:
    """The same ranking, with log-odds stretched and shifted to fit the validation rows.

    The regularisation is chosen by AUROC, which does not see how far probabilities are from 0 and
    1; strong regularisation leaves them all near the base rate. Platt 1999; the probe is returned
    as it is where the validation rows have one class or rank the other way round.
    """
    rows, train = targets.rows("validation", target), targets.rows("train", target)
    raw = margin(probe, states_at(hidden, probe.position, probe.layer))
    if len(np.unique(target[rows])) < 2 or np.ptp(raw[rows]) == 0:
        return probe
    line = fit_probe(
        {"log-odds": raw[:, None, None]}, target, kind="logistic", position="log-odds", layer=0,
        regularisation=1.0, rows=rows, name="calibration",
    )  # fmt: skip
    slope = float(line.weight[0] / line.scale[0])
    if slope <= 0:
        return probe
    shift = line.bias - slope * float(line.mean[0])
    probabilities = expit(slope * raw[train] + shift)
    training = training_statistics(target[train], probabilities, probe.kind)
    return replace(
        probe,
        weight=slope * probe.weight,
        bias=slope * probe.bias + shift,
        training=training | {"n_calibration": int(rows.sum())},
    )


def _train_mlps(
    config: RunConfig,
    plan: _Plan,
    hidden: Mapping[str, np.ndarray],
    targets: Targets,
    store: Store,
    trained: TrainedProbes,
) -> None:
    """Add the perceptrons of a target, where its linear probes read."""
    if plan.name in trained.undefined:
        trained.undefined[f"{plan.name}_mlp"] = trained.undefined[plan.name]
        return
    for name, place in _places(f"{plan.name}_mlp", trained.sweeps[plan.name]).items():
        trained.probes[name] = _fit_mlp(config, plan, hidden, place, name, targets, store)


def _fit_mlp(
    config: RunConfig,
    plan: _Plan,
    hidden: Mapping[str, np.ndarray],
    chosen: Sweep,
    name: str,
    targets: Targets,
    store: Store,
) -> MlpProbe:
    """The two-layer perceptron where a linear probe reads; stored, as it needs torch."""
    features = hidden[chosen.best_position][:, chosen.best_layer]
    target = plan.target
    train, validation = targets.rows("train", target), targets.rows("validation", target)
    threshold = targets.threshold if plan.words == HIGH else None
    key = content_key(
        stage="mlp",
        version=3,
        seed=config.seed,
        name=name,
        threshold=threshold,
        place=[chosen.best_position, chosen.best_layer],
        features=array_hash({"features": features[train | validation]}),
        target=target[train | validation].tolist(),
        train=train.tolist(),
    )
    arrays, card = store.get_arrays(key), store.get(key)
    if arrays and card:
        values = {**card, **arrays, "output_bias": arrays["output_bias"].item()}
        return MlpProbe(**values)
    probe = fit_mlp(
        features[train],
        target[train],
        features[validation],
        target[validation],
        kind="regression" if plan.kind == "ridge" else "classification",
        name=name,
        position=chosen.best_position,
        layer=chosen.best_layer,
        target_name=plan.words,
        seed=config.seed,
        threshold=threshold,
    )
    values = dict(probe.__dict__)
    tensors = ("hidden_weight", "hidden_bias", "output_weight", "output_bias", "mean", "scale")
    store.put_arrays(key, {name: np.asarray(values.pop(name)) for name in tensors})
    store.put(key, values)
    return probe
