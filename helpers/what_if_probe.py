"""What if the probe read another place: a linear probe refitted at any layer and position.

The place that a run uses was chosen on validation. Other places are shown to be looked at: whoever
picks one because of its test score lets the test questions choose, and the score is then too good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np
import plotly.graph_objects as go

from helpers import figures
from helpers.curves import ReliabilityCurve, reliability
from helpers.errors import UserError
from helpers.evaluation import Score, format_score, score_metric
from helpers.figure_style import add_notes, framed, say_instead
from helpers.metric_core import Metric, ratio, too_few
from helpers.metrics import auroc, brier, ece
from helpers.probe_training import HIGH, WRONG, Targets, fit_chosen, sweep_target
from helpers.probes import LinearKind, LinearProbe, UndefinedTarget, predict, states_at
from helpers.report_tables import html_table
from helpers.stored_run import StoredRun
from helpers.summary import cell
from helpers.what_if_figures import check_bins
from helpers.what_if_rules import AnyRun

TARGETS: dict[str, tuple[LinearKind, str, str]] = {
    "semantic_entropy": ("ridge", "semantic entropy", "entropy"),
    "high_semantic_entropy": ("logistic", HIGH, "high"),
    "wrong_answer": ("logistic", WRONG, "wrong"),
}
"""Target to the kind of its linear probe, what it is called, and the word for label 1."""
N_BOOT = 2000
LEAK = (
    "Look, but do not choose: a place picked because of its test score was chosen by the test "
    "questions, and that score is then too good. The validation score is what may choose."
)


@dataclass(frozen=True, eq=False)
class PlaceScore:
    """A linear probe at one place."""

    position: str
    layer: int
    probe: LinearProbe | None
    """Fitted on train, its regularisation chosen on validation; None where it is undefined."""
    validation_score: float | None
    """AUROC, or R² of a regression, with the regularisation that is best there."""
    test: Score
    """The same measure on the test questions, or why it is undefined."""


@dataclass(frozen=True, eq=False)
class ProbeAt:
    """A run's linear probe at a place of one's own, beside the place that validation chose."""

    target: str
    score_name: str
    """"AUROC" or "R²"."""
    gamma: float | None
    """Nats; of the target high semantic entropy."""
    here: PlaceScore
    chosen: PlaceScore | None
    """None where the run chose none."""
    predicted: np.ndarray
    """Of `here`, on the test questions whose label is known, `[rows]`; empty if undefined."""
    labels: np.ndarray
    """Of the same questions, `[rows]`."""


def probe_at(
    run: AnyRun,
    states: Mapping[str, np.ndarray],
    target: str,
    position: str,
    layer: int,
    gamma: float | None = None,
) -> ProbeAt:
    """Refit the run's linear probe of a target at one place; nothing of the run changes.

    states are hidden states by position, `[n, layers + 1, width]` (`run.states.hidden`). The probe
    is fitted on train with the regularisation that is best on validation at that place. `gamma`
    (nats) makes the labels of "high_semantic_entropy"; None: the run's own. Raises `UserError`
    naming the range for a target, position, layer or γ that there is not.
    """
    if target not in TARGETS:
        raise UserError(f"target is {target!r}: choose one of {', '.join(TARGETS)}")
    states_at(states, position, layer)
    targets = run.targets if gamma is None else _with_gamma(run.targets, gamma)
    kind, _, _ = TARGETS[target]
    seed = run.config.seed
    here, predicted, labels = _fit(states, targets, target, position, layer, seed)
    place = chosen_place(run, target)
    chosen = None
    if place == (position, layer):
        chosen = here
    elif place is not None and place[0] in states:
        chosen = _fit(states, targets, target, *place, seed)[0]
    return ProbeAt(
        target=target,
        score_name="R²" if kind == "ridge" else "AUROC",
        gamma=targets.threshold if target == "high_semantic_entropy" else None,
        here=here,
        chosen=chosen,
        predicted=predicted,
        labels=labels,
    )


def chosen_place(run: AnyRun, target: str) -> tuple[str, int] | None:
    """The position and layer that validation chose for a target in the run; None without one."""
    if isinstance(run, StoredRun):
        found = run.metrics()["chosen"].get(target)
        return None if found is None else (found["position"], found["layer"])
    sweep = run.trained.sweeps.get(target)
    return None if sweep is None else (sweep.best_position, sweep.best_layer)


def _with_gamma(targets: Targets, gamma: float) -> Targets:
    if not isinstance(gamma, Real) or not 0 <= float(gamma) < np.inf:
        raise UserError(f"gamma is {gamma!r}: choose a number of nats, 0 or more")
    return replace(targets, threshold=float(gamma), high=(targets.semantic_entropy > gamma) * 1.0)


def _fit(
    states: Mapping[str, np.ndarray],
    targets: Targets,
    target: str,
    position: str,
    layer: int,
    seed: int,
) -> tuple[PlaceScore, np.ndarray, np.ndarray]:
    """A place with its scores, and its predictions and labels on test; as the run's own probes."""
    kind, words, positive = TARGETS[target]
    values = {"entropy": targets.semantic_entropy, "high": targets.high, "wrong": targets.wrong}
    labels, nothing = values[positive], np.array([])
    # One layer alone: the choices of `sweep_target` are then of the regularisation only.
    at = {position: states_at(states, position, layer)[:, None]}
    rows = targets.rows("test", labels)
    name = "R²" if kind == "ridge" else "auroc"
    try:
        swept = sweep_target(at, labels, kind, words, targets)
        probe = fit_chosen(at, labels, swept, target, words, targets)
    except UndefinedTarget as reason:
        score = Score(name, None, None, None, None, int(rows.sum()), str(reason))
        return PlaceScore(position, layer, None, None, score), nothing, nothing
    predicted = predict(probe, at[position][rows, 0])
    if kind == "ridge":
        reference = float(labels[targets.rows("train", labels)].mean())
        metric = r_squared(predicted, labels[rows], reference)
    else:
        metric = auroc(predicted, labels[rows], positive)
    place = PlaceScore(
        position, layer, replace(probe, layer=int(layer)), swept.best_score,
        score_metric(metric, N_BOOT, 0, seed),
    )  # fmt: skip
    return place, predicted, labels[rows]


def r_squared(predicted: np.ndarray, true: np.ndarray, reference: float) -> Metric:
    """R² of predicted `[n]` for true `[n]` against a constant: the mean of the training target.

    1 − Σ (y − ŷ)² / Σ (y − reference)²; below 0 where the constant predicts better.
    """
    errors, spread = (true - predicted) ** 2, (true - reference) ** 2
    reason = too_few(len(true))
    if not reason and not spread.any():
        reason = f"all {len(true)} values are the mean of the training target"
    return Metric(
        "R²", len(true), lambda w: 1.0 - ratio(w @ errors, w @ spread), None, "greater", reason
    )


def probe_table(found: ProbeAt) -> str:
    """The place looked at beside the one that validation chose: HTML, escaped."""
    rows = []
    places = (("here", found.here), ("chosen on validation", found.chosen))
    for words, place in places:
        if place is None:
            continue
        strength = "" if place.probe is None else f"{place.probe.regularisation:g}"
        score = place.validation_score
        rows.append(
            (words, place.position, "input" if place.layer == 0 else str(place.layer), strength,
             "undefined" if score is None else f"{score:.3f}", cell(place.test))
        )  # fmt: skip
    name = found.score_name
    heads = ("", "position", "layer", "regularisation", f"validation {name}", f"test {name}")
    return html_table(heads, rows, _words(found))


def _words(found: ProbeAt) -> str:
    test, parts = found.here.test, []
    if test.value is None:
        parts.append(f"There is no score here: {format_score(test)}.")
    elif found.chosen is None:
        parts.append("The run chose no place for this target.")
    elif (found.here.position, found.here.layer) == (found.chosen.position, found.chosen.layer):
        parts.append("This is the place that validation chose.")
    parts.append(LEAK)
    if found.gamma is not None:
        parts.append(f"High means above γ = {found.gamma:.3f} nats.")
    if found.score_name == "R²":
        parts.append("R²: share of the squared error of always predicting the train mean.")
    parts.append(f"{test.n} test questions, 95 % bootstrap interval.")
    return " ".join(parts)


def reliability_at(found: ProbeAt, bins: int = 10) -> go.Figure:
    """The reliability diagram of the refitted classifier on the test questions, in so many bins.

    Raises `UserError` for bins that are not 2 to 200.
    """
    check_bins(bins)
    if found.score_name == "R²":
        return _no_diagram("A regression predicts nats, not probabilities: choose another target.")
    if not len(found.predicted):
        return _no_diagram(f"Undefined: {found.here.test.undefined}.")
    metrics = (brier(found.predicted, found.labels), ece(found.predicted, found.labels))
    scores = {metric.name: score_metric(metric, N_BOOT, 0) for metric in metrics}
    fig = figures.reliability_diagram(_curve(found, bins), scores)
    return add_notes(fig, [f"{bins} bins are drawn; ECE is always over 10"]) if bins != 10 else fig


def _no_diagram(message: str) -> go.Figure:
    return say_instead(framed("Reliability", "predicted probability", "observed share"), message)


def _curve(found: ProbeAt, bins: int) -> ReliabilityCurve:
    return reliability(found.predicted, found.labels, bins)


def reliability_table(found: ProbeAt, bins: int = 10) -> str:
    """The bins of the reliability diagram that hold a question: HTML, escaped.

    Empty where there is no diagram. Raises `UserError` for bins that are not 2 to 200.
    """
    check_bins(bins)
    if found.score_name == "R²" or not len(found.predicted):
        return ""
    curve = _curve(found, bins)
    rows = [
        (
            f"{curve.low_edge[i]:.3g} to {curve.high_edge[i]:.3g}",
            f"{curve.mean_predicted[i]:.3f}",
            f"{curve.observed[i]:.3f} [{curve.observed_low[i]:.3f}, {curve.observed_high[i]:.3f}]",
            int(curve.counts[i]),
        )
        for i in range(len(curve.counts))
    ]
    note = (
        "Of the questions to which the probe gives a probability of, say, 0.7, seven in ten should "
        "be positive. Intervals: 95 %, Wilson. With more bins each holds fewer questions, and its "
        "interval is wider; the calibration was fitted on validation."
    )
    return html_table(("predicted", "mean predicted", "observed share", "questions"), rows, note)
