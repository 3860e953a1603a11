"""The curves of a run that say when a number is enough: samples, labels, the threshold γ."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from helpers.evaluation.metrics import auroc, finite, spearman
from helpers.evaluation.scores import Score, format_score, score_metric
from helpers.probes.probe import REGULARISATIONS, UndefinedTarget, check_target
from helpers.probes.solvers import (
    Coefficients,
    column_auroc,
    decompose,
    one_thread_if_small,
    raw_outputs,
    solve_logistic,
)
from helpers.progress import Progress, silent_progress
from helpers.studies.semantic_entropy.analyses.abstention import (
    ACCURACIES,
    Abstention,
    Policies,
    Promise,
    Selection,
    SelectiveScores,
    policies,
    selective_scores,
    uncertainty_scores,
)
from helpers.studies.semantic_entropy.analyses.sample_budget import (
    SEMANTIC_ENTROPY,
    Cost,
    SampleBudget,
    sample_budget,
)
from helpers.studies.semantic_entropy.run_files import StoredRun

# --- refits --------------------------------------------------------------------------------------


def refit_margins(
    train: np.ndarray,
    labels: np.ndarray,
    validation: np.ndarray,
    validation_labels: np.ndarray,
    test: np.ndarray,
    regularisations: Sequence[float] = REGULARISATIONS,
) -> np.ndarray:
    """Log-odds `[test rows, targets]` of probes fitted on the same rows to several targets.

    Features are `[rows, width]`, labels `[train rows, targets]` and `[validation rows, targets]`
    of 0 / 1, each target with both classes on both. For each target the regularisation of best
    validation AUROC is taken, among equals the strongest, as `probe.sweep` does. All fits share
    one decomposition and one solver call.
    """
    strengths = np.sort(np.asarray(regularisations, dtype=np.float64))
    n_targets, n_strengths = labels.shape[1], len(strengths)
    wanted = np.repeat(labels.astype(np.float64), n_strengths, axis=1)
    with one_thread_if_small(*train.shape):
        basis = decompose(train)
        solved = solve_logistic(basis.scores, wanted, np.tile(strengths, n_targets))
        judged = raw_outputs(basis, solved, validation)
    areas = column_auroc(judged, np.repeat(validation_labels, n_strengths, axis=1))
    # Turned round, the first of equal areas is that of the strongest regularisation.
    turned = np.round(areas.reshape(n_targets, n_strengths), 10)[:, ::-1]
    best = n_strengths - 1 - turned.argmax(axis=1) + n_strengths * np.arange(n_targets)
    chosen = Coefficients(solved.weights[:, best], solved.bias[best])
    return raw_outputs(basis, chosen, test)


# --- labels that are enough ----------------------------------------------------------------------
#
# The place that the run chose (position, layer) stays as it is; the regularisation is chosen anew
# for each fit on all validation questions, which are not counted as labels here. The place itself
# was chosen with all training questions: small sizes are a little flattered by that.


SMALLEST = 16


@dataclass(frozen=True)
class SizePoint:
    """A probe fitted on some of the training questions."""

    n_train: int
    auroc: float | None
    """On the test questions, the mean over subsets."""
    lowest: float | None
    """Of the subsets with both classes; with `highest` the band, which is no interval: it shows
    how much the choice of training questions matters, not how many test questions there are."""
    highest: float | None
    subsets: int
    """Subsets with both classes: the ones averaged over."""
    undefined: str = ""
    """Why there is no value, in words."""
    note: str = ""
    """How many subsets had only one class and are left out."""


@dataclass(frozen=True)
class LabelEfficiency:
    """Test AUROC of one probe against the number of training questions."""

    target: str
    position: str
    layer: int
    points: tuple[SizePoint, ...]
    full: Score | None
    """With all training questions: bootstrap interval and p-value; None where undefined."""
    undefined: str = ""
    """Why the probe has no curve, in words."""


def label_efficiency(
    features: np.ndarray,
    target: np.ndarray,
    *,
    train: np.ndarray,
    validation: np.ndarray,
    test: np.ndarray,
    sizes: tuple[int, ...] | None = None,
    n_seeds: int = 5,
    n_boot: int = 2000,
    n_perm: int = 2000,
    seed: int = 0,
    name: str = "target",
    position: str = "",
    layer: int = 0,
) -> LabelEfficiency:
    """Fit a logistic probe on growing random subsets of the training rows and score it on test.

    features [n, width], target [n] of 0 / 1, the masks [n] boolean and disjoint; target values
    outside them are never read. sizes default to ten, evenly spaced in their logarithm, from 16
    to all. Subsets are nested: one random order of the training rows for each of `n_seeds`, of
    which each size takes the first rows. A subset of one class has no probe; a size of which all
    subsets have one class is undefined.
    """
    try:
        for mask, split in ((train, "train"), (validation, "validation"), (test, "test")):
            check_target(np.asarray(target[mask], dtype=float), "logistic", f"{name}, {split}")
    except UndefinedTarget as reason:
        return LabelEfficiency(name, position, layer, (), None, str(reason))
    labels = np.asarray(target, dtype=np.float64)
    rows = np.flatnonzero(train)

    def margins(subset: np.ndarray) -> np.ndarray:
        return refit_margins(
            features[subset],
            labels[subset][:, None],
            features[validation],
            labels[validation][:, None],
            features[test],
        )[:, 0]

    points = []
    for size in spaced_sizes(len(rows)) if sizes is None else sizes:
        if not 0 < size <= len(rows):
            raise ValueError(f"sizes: {size}, expected 1 to {len(rows)}")
        orders = (np.random.default_rng([seed, s]).permutation(rows) for s in range(n_seeds))
        # All orders agree on all rows.
        subsets = [rows] if size == len(rows) else [order[:size] for order in orders]
        usable = [subset for subset in subsets if 0 < labels[subset].sum() < size]
        areas = [auroc(margins(subset), labels[test]).value() for subset in usable]
        points.append(_point(size, areas, len(subsets)))
    full = score_metric(auroc(margins(rows), labels[test], name), n_boot, n_perm, seed)
    return LabelEfficiency(name, position, layer, tuple(points), full)


def spaced_sizes(n: int, count: int = 10) -> tuple[int, ...]:
    """At most `count` sizes from 16 to n, evenly spaced in their logarithm; n alone if fewer.

    >>> spaced_sizes(240, 4)
    (16, 39, 97, 240)
    """
    return tuple(sorted({int(s) for s in np.geomspace(min(SMALLEST, n), n, count).round()}))


def _point(size: int, areas: list[float], n_subsets: int) -> SizePoint:
    left_out = n_subsets - len(areas)
    if not areas:
        of = f"all {n_subsets} random subsets" if n_subsets > 1 else "the subset"
        reason = f"{of} of {size} training questions have only one class"
        return SizePoint(size, None, None, None, 0, reason)
    note = f"{left_out} of {n_subsets} subsets have only one class, left out" if left_out else ""
    mean = float(np.mean(areas))
    return SizePoint(size, mean, min(areas), max(areas), len(areas), note=note)


# --- the threshold γ -----------------------------------------------------------------------------
#
# For every γ the labels are made anew, the probe is fitted to them at the place that the run chose,
# its regularisation is chosen on validation, and it is scored on the test questions. The companion
# without any γ is the rank correlation of the ridge probe with the entropy itself.


CHOSEN, GRID_SPLIT, MEDIAN = "chosen", "best of 100 points", "median"
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Threshold:
    """One way to part low from high."""

    value: float
    """γ, nats: above it is high."""
    names: tuple[str, ...]
    """How it comes about; several rules that part the training questions alike share an entry."""


@dataclass(frozen=True)
class ThresholdPoint:
    """The probe for one γ."""

    threshold: Threshold
    high_train: float
    """Share of the training questions called high."""
    high_test: float
    """Share of the test questions called high."""
    auroc: Score
    """On the test questions; undefined where a split has one class only."""


@dataclass(frozen=True)
class ThresholdSensitivity:
    """The probe's AUROC against γ, at one position and layer."""

    position: str
    layer: int
    points: tuple[ThresholdPoint, ...]
    """In ascending order of γ."""
    ridge_spearman: Score | None
    """Spearman's correlation of the ridge probe with semantic entropy on test: no γ in it."""
    undefined: str = ""
    """Why there are no points, in words."""


def threshold_sensitivity(
    features: np.ndarray,
    entropy: np.ndarray,
    chosen: float | None,
    *,
    train: np.ndarray,
    validation: np.ndarray,
    test: np.ndarray,
    ridge: np.ndarray | None = None,
    n_boot: int = 2000,
    n_perm: int = 2000,
    seed: int = 0,
    position: str = "",
    layer: int = 0,
) -> ThresholdSensitivity:
    """Score a logistic probe at one place for a grid of thresholds on the entropy.

    features [n, width], entropy [n] in nats, `chosen` the run's γ (None where all training
    questions have one entropy), disjoint boolean masks [n], ridge [n] the predictions of the
    ridge probe. The test labels differ from γ to γ, and so do the questions that are hard: the
    points are no contest for the best γ.
    """
    companion = None
    if ridge is not None:
        companion = score_metric(spearman(ridge[test], entropy[test]), n_boot, n_perm, seed)
    grid = thresholds(entropy[train], chosen)
    if not grid:
        reason = "every training question has the same semantic entropy"
        return ThresholdSensitivity(position, layer, (), companion, reason)
    high = entropy[:, None] > np.array([threshold.value for threshold in grid])
    one_class = [_one_class(column, train, validation) for column in high.T]
    usable = [i for i, reason in enumerate(one_class) if not reason]
    raw = np.zeros((int(test.sum()), len(grid)))
    if usable:
        raw[:, usable] = refit_margins(
            features[train],
            high[train][:, usable],
            features[validation],
            high[validation][:, usable],
            features[test],
        )
    points = []
    for i, threshold in enumerate(grid):
        score = Score("auroc", None, None, None, None, int(test.sum()), one_class[i])
        if not one_class[i]:
            metric = auroc(raw[:, i], high[test, i].astype(float), "high")
            score = score_metric(metric, n_boot, n_perm, seed)
            if score.undefined:
                score = replace(score, undefined=f"test: {score.undefined}")
        shares = float(high[train, i].mean()), float(high[test, i].mean())
        points.append(ThresholdPoint(threshold, *shares, score))
    return ThresholdSensitivity(position, layer, tuple(points), companion)


def thresholds(entropy: np.ndarray, chosen: float | None) -> tuple[Threshold, ...]:
    """Thresholds on training entropies [n] that part them in different ways, in ascending order.

    The chosen γ, the best of a hundred evenly spaced points, the median and the deciles. A
    quantile that falls on a value parts it from those above. Rules that part the training
    questions alike share one entry, with the value of the first of them. None at all where every
    entropy is the same.

    >>> [round(t.value, 6) for t in thresholds(np.array([0.0, 0.0, 1.0, 2.0]), 0.5)]
    [0.5, 1.1]
    """
    values = finite("entropy", entropy)
    if not len(values) or np.ptp(values) == 0:
        return ()
    candidates: list[tuple[str, float]] = [] if chosen is None else [(CHOSEN, float(chosen))]
    candidates.append((GRID_SPLIT, best_of_grid(values)))
    candidates.append((MEDIAN, float(np.median(values))))
    candidates += [(f"quantile {q:g}", float(np.quantile(values, q))) for q in LEVELS]
    found: dict[int, tuple[float, list[str]]] = {}
    for name, value in candidates:
        n_high = int((values > value).sum())
        if 0 < n_high < len(values):
            found.setdefault(n_high, (value, []))[1].append(name)
    entries = (Threshold(value, tuple(names)) for value, names in found.values())
    return tuple(sorted(entries, key=lambda threshold: threshold.value))


def best_of_grid(values: np.ndarray, count: int = 100) -> float:
    """The best two-way split among `count` evenly spaced thresholds from 1e-10 to the largest.

    The rule of the semantic entropy probes' authors: least Σ (v − mean of its group)², a value
    at the threshold counting as high. Unlike `scores.best_split_threshold`, which looks
    between all neighbouring values, it depends on the spacing. Kossen et al. 2024.
    """
    grid = np.linspace(1e-10, float(values.max()), count)
    spread = [
        sum(((part - part.mean()) ** 2).sum() for part in parts if len(part))
        for parts in ((values[values < g], values[values >= g]) for g in grid)
    ]
    # Here high means above the threshold, there it means at it too.
    return float(np.nextafter(grid[int(np.argmin(spread))], -np.inf))


def _one_class(high: np.ndarray, train: np.ndarray, validation: np.ndarray) -> str:
    """Why no probe can be fitted or chosen for these labels; empty where it can."""
    for mask, split in ((train, "train"), (validation, "validation")):
        count, total = int(high[mask].sum()), int(mask.sum())
        if count in (0, total):
            return f"{split}: only one class ({count} of {total} high)"
    return ""


FITTED_ON_VALIDATION = ("wrong_answer_hybrid", "wrong_answer_hybrid_prompt")
"""Probes that cannot promise anything: they were fitted to the calibration questions."""
TITLES = {
    SEMANTIC_ENTROPY: "semantic entropy",
    "predictive_entropy_normalised": "predictive entropy, per token",
    "mean_token_entropy": "mean token entropy",
    "wrong_answer": "correctness probe",
    "wrong_answer_prompt": "correctness probe, prompt only",
    "high_semantic_entropy": "high-entropy probe",
    "high_semantic_entropy_prompt": "high-entropy probe, prompt only",
    "wrong_answer_hybrid": "hybrid of both probes",
    "wrong_answer_hybrid_prompt": "hybrid, prompt only",
    "greedy_negative_logprob": "likelihood of the answer",
}
"""Measures of uncertainty as a reader meets them."""
FIRST, SCORE, WIDTH = 34, 22, 100
"""Columns of the text: a row's name, a score, and the whole line."""


@dataclass(frozen=True)
class Curves:
    """How many samples, labels and answers are enough, and how much γ matters, in one run."""

    run: str
    """The run folder's name."""
    sample_budget: SampleBudget
    label_efficiency: dict[str, LabelEfficiency]
    """Probe to its curve."""
    threshold_sensitivity: ThresholdSensitivity
    selective: SelectiveScores
    policies: dict[str, Policies]
    """Measure of uncertainty to when it would answer."""

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values, without a NaN or an infinity."""
        return _plain(asdict(self))


def curves(
    run: StoredRun,
    *,
    n_boot: int = 2000,
    n_perm: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Curves:
    """Every curve of a finished run: sample budget, label efficiency, γ, risk–coverage, policies.

    Everything is fitted and chosen on train and validation and scored on test. Raises `UserError`
    where the run is not finished or lacks the hidden states that its probes read.
    """
    metrics = run.metrics()
    options: dict[str, Any] = {"n_boot": n_boot, "n_perm": n_perm, "seed": seed}
    with (progress or silent_progress())("Curves", 5, "parts") as stage:
        budget = sample_budget(run, n_boot=n_boot, seed=seed)
        stage.advance(1)
        labels = {
            name: _label_efficiency(run, name, target, metrics, options)
            for name, target in (
                ("high_semantic_entropy", run.targets.high),
                ("wrong_answer", run.targets.wrong),
            )
        }
        stage.advance(1)
        thresholds = _threshold_sensitivity(run, metrics, options)
        stage.advance(1)
        measures, wrong = uncertainty_scores(run), run.targets.wrong
        test, validation = (run.targets.rows(s, wrong) for s in ("test", "validation"))
        on_test = {name: scores[test] for name, scores in measures.items()}
        selective = selective_scores(on_test, wrong[test], **options)
        stage.advance(1)
        kept = {
            name: policies(
                scores,
                wrong,
                calibration=validation,
                test=test,
                shaped_by_calibration=name in run.predicted and name not in run.uncertainty,
            )
            for name, scores in measures.items()
            if name not in FITTED_ON_VALIDATION
        }
        stage.advance(1)
    return Curves(run.name, budget, labels, thresholds, selective, kept)


def _label_efficiency(
    run: StoredRun,
    name: str,
    target: np.ndarray,
    metrics: Mapping[str, Any],
    options: Mapping[str, Any],
) -> LabelEfficiency:
    place = metrics["chosen"].get(name)
    if place is None:
        reason = metrics["undefined_probes"].get(name, "the run has no such probe")
        return LabelEfficiency(name, "", 0, (), None, reason)
    return label_efficiency(
        _features(run, place),
        target,
        train=run.targets.rows("train", target),
        validation=run.targets.rows("validation", target),
        test=run.targets.rows("test", target),
        name=name,
        position=place["position"],
        layer=place["layer"],
        **options,
    )


def _threshold_sensitivity(
    run: StoredRun, metrics: Mapping[str, Any], options: Mapping[str, Any]
) -> ThresholdSensitivity:
    place = metrics["chosen"].get("high_semantic_entropy") or metrics["chosen"].get(
        "semantic_entropy"
    )
    if place is None:
        return ThresholdSensitivity("", 0, (), None, "the run has no probe for semantic entropy")
    return threshold_sensitivity(
        _features(run, place),
        run.targets.semantic_entropy,
        run.targets.threshold,
        train=run.targets.rows("train"),
        validation=run.targets.rows("validation"),
        test=run.targets.rows("test"),
        ridge=run.predicted.get("semantic_entropy"),
        position=place["position"],
        layer=place["layer"],
        **options,
    )


def _features(run: StoredRun, place: Mapping[str, Any]) -> np.ndarray:
    """Hidden states `[n, width]` at a probe's position and layer."""
    return np.asarray(run.hidden(place["position"])[:, place["layer"]], dtype=np.float64)


def _plain(value: Any) -> Any:
    """Arrays as lists, tuples as lists; raises ValueError for a number that JSON does not have."""
    return json.loads(json.dumps(value, allow_nan=False, default=lambda array: array.tolist()))


# --- as text ------------------------------------------------------------------------------------


def describe_curves(curves: Curves) -> str:
    """Every curve of a run as one text: samples, labels, γ, risk–coverage, when to answer."""
    parts = [
        [f"Curves of {curves.run}"],
        _budget_lines(curves.sample_budget),
        _label_lines(curves.label_efficiency),
        _threshold_lines(curves.threshold_sensitivity),
        _selective_lines(curves.selective),
        *(_policy_lines(curves.policies, i) for i in range(_n_policies(curves.policies))),
    ]
    if any(policy.shaped_by_calibration for policy in curves.policies.values()):
        words = (
            "The probes' places and regularisation were chosen on the same validation questions: "
            "what is promised of them leans a little to the hopeful side."
        )
        if set(curves.selective.scores) - set(curves.policies):
            words += " The hybrid, which was fitted to those questions, is left out."
        parts[-1] += _wrapped(words)
    return "\n\n".join("\n".join(part) for part in parts)


def _budget_lines(budget: SampleBudget) -> list[str]:
    lines = [f"How many samples? AUROC for a wrong most likely answer (test, n = {budget.n})"]
    if budget.undefined:
        return [*lines, *_wrapped(f"undefined: {budget.undefined}")]
    heads = "".join(f"{_title(name).split(',')[0]:<{SCORE}}" for name in budget.curves)
    lines.append(f"    N  {heads}forwards  seconds")
    for points in zip(*budget.curves.values(), strict=True):
        cells = "".join(_cell(point.auroc) for point in points)
        lines.append(f"{points[0].n_samples:>5}  {cells}{_cost(points[0].cost)}")
    lines += _wrapped(
        f"Each N is the mean over subsets of the {budget.k} samples ({budget.clusters_from}); the "
        "cost is semantic entropy's. One answer has one meaning: semantic entropy begins at 0.5."
    )
    words = "".join(("AUROC".ljust(SCORE), "forwards  seconds", "   level  better"))
    lines += ["", f"{'  without samples':<{FIRST}}{words}"]
    for single in budget.singles:
        level, better = (
            f"N = {n}" if n else "never" for n in (single.first_level, single.first_better)
        )
        cells = f"{_cell(single.auroc)}{_cost(single.cost)}{level:>8}{better:>8}"
        lines.append(f"  {_title(single.name):<{FIRST - 2}}{cells}")
    lines += _wrapped(
        "level: the first N at which semantic entropy is as good; better: the first at which the "
        "95 % interval of its lead lies above 0."
    )
    if budget.unknown_seconds:
        lines += _wrapped(f"No seconds: {budget.unknown_seconds}.")
    scores = [p.auroc for points in budget.curves.values() for p in points if p.n_samples > 1]
    return lines + _notes([*scores, *(single.auroc for single in budget.singles)])


def _label_lines(probes: dict[str, LabelEfficiency]) -> list[str]:
    lines = [
        "How many labels? Test AUROC against training questions (mean; lowest to highest draw)"
    ]
    for name, probe in probes.items():
        if probe.undefined:
            lines += _wrapped(f"{_title(name)}: undefined: {probe.undefined}")
    defined = {name: probe for name, probe in probes.items() if not probe.undefined}
    for name, probe in defined.items():
        lines.append(f"  {_title(name)} ({probe.position} {probe.layer})")
        lines += [f"  {point.n_train:>6}  {_size_point(point)}" for point in probe.points]
        if probe.full is not None:
            interval = f"{_cell(probe.full).rstrip()} over test questions (n = {probe.full.n})"
            lines.append(f"     all  {interval}")
    return lines + _notes([probe.full for probe in defined.values() if probe.full])


def _size_point(point: SizePoint) -> str:
    if point.auroc is None:
        return f"undefined: {point.undefined}"
    text = f"{point.auroc:.3f}"
    if point.subsets > 1:
        text += f" ({point.lowest:.3f} to {point.highest:.3f})"
    return f"{text}  {point.note}".rstrip()


def _threshold_lines(sensitivity: ThresholdSensitivity) -> list[str]:
    place = f"{sensitivity.position} {sensitivity.layer}"
    lines = [f"How much does γ matter? Test AUROC of the high-entropy probe ({place})"]
    if sensitivity.undefined:
        return ["How much does γ matter?", *_wrapped(f"undefined: {sensitivity.undefined}")]
    lines.append(f"  γ, nats  high on test  {'AUROC':<{SCORE}}rule")
    for point in sensitivity.points:
        start = f"  {point.threshold.value:7.3f}  {100 * point.high_test:10.0f} %  "
        rules = ", ".join(point.threshold.names)
        line = f"{start}{_cell(point.auroc)}{rules}"
        lines.append(line if len(line) <= WIDTH else line[: WIDTH - 1] + "…")
    lines += _notes([point.auroc for point in sensitivity.points])
    if sensitivity.ridge_spearman is not None:
        score = _cell(sensitivity.ridge_spearman).rstrip()
        lines.append(f"  without γ: Spearman's correlation of the ridge probe {score}")
    return lines


def _selective_lines(selective: SelectiveScores) -> list[str]:
    lines = [f"Answering only where certain (test, n = {selective.n})"]
    if selective.undefined:
        return [*lines, *_wrapped(f"undefined: {selective.undefined}")]
    head = ("area under risk", "above the best", "minus semantic entropy")
    lines.append(" " * FIRST + "".join(f"{words:<{SCORE}}" for words in head).rstrip())
    for name, row in selective.scores.items():
        difference = selective.differences.get(name, {}).get("aurc")
        cells = [row["aurc"], row["e_aurc"], *([difference] if difference else [])]
        lines.append(_row(name, cells))
    heads = (f"accuracy at {metric.rsplit('_', 1)[1]} %" for metric in ACCURACIES)
    lines.append(" " * FIRST + "".join(f"{words:<{SCORE}}" for words in heads).rstrip())
    lines += [_row(n, [row[m] for m in ACCURACIES]) for n, row in selective.scores.items()]
    return lines + _notes([score for row in selective.scores.values() for score in row.values()])


def _policy_lines(by_measure: dict[str, Policies], which: int) -> list[str]:
    """When to answer at one α: with confidence, and on average."""
    made = next(iter(by_measure.values())).promises[which].promise
    at_most = f"at most {100 * made.max_error:g} % of the answers wrong"
    lines = [
        f"When to answer? {at_most} (chosen on {made.n} validation questions)",
        f"{f'  with {100 * made.confidence:g} % confidence':<{FIRST}}"
        f"{'answered on test':<{SCORE}}{'error among them':<{SCORE}}bound",
    ]
    lines += _one_if_alike(by_measure, lambda policy: _promised(policy.promises[which]))
    lines.append("  on average over such questions")
    return lines + _one_if_alike(by_measure, lambda policy: _averaged(policy.on_average[which]))


def _one_if_alike(by_measure: dict[str, Policies], cells: Callable[[Policies], str]) -> list[str]:
    """A line a measure; a single one where nothing can be said of any of them."""
    rows = {name: cells(policy) for name, policy in by_measure.items()}
    if len(rows) > 1 and len(set(rows.values())) == 1:
        rows = {"any measure": next(iter(rows.values()))}
    return [f"  {_title(name):<{FIRST - 2}}{row}" for name, row in rows.items()]


def _promised(kept: Abstention) -> str:
    if kept.share is None or kept.error is None:
        return _refusal(kept.promise)
    bound = {None: "", True: "held", False: "broken"}[kept.held]
    return f"{_cell(kept.share)}{_cell(kept.error)}{bound}".rstrip()


def _averaged(chosen: Selection) -> str:
    if chosen.error.value is None:
        return chosen.error.undefined
    return f"{_cell(chosen.share)}{_cell(chosen.error)}".rstrip()


def _refusal(made: Promise) -> str:
    if made.upper_bound is None:
        return f"no threshold: it takes {made.needed} questions without an error"
    return (
        f"no threshold: {made.wrong} of the {made.answered} most certain wrong "
        f"(bound {100 * made.upper_bound:.0f} %)"
    )


def _n_policies(by_measure: dict[str, Policies]) -> int:
    return len(next(iter(by_measure.values())).promises) if by_measure else 0


def _row(name: str, scores: Sequence[Score]) -> str:
    return f"  {_title(name):<{FIRST - 2}}{''.join(map(_cell, scores))}".rstrip()


def _cell(score: Score) -> str:
    """A score in a column of its own; reasons stand below the table."""
    text = format_score(score)
    if score.value is None:
        text = "undefined"
    elif score.low is None:
        text = f"{score.value:.3f} (no interval)"
    return text.ljust(SCORE)


def _notes(scores: Sequence[Score]) -> list[str]:
    """Why scores are undefined or have no interval, each reason once."""
    reasons = [score.undefined or (score.note if score.low is None else "") for score in scores]
    return [
        line for reason in dict.fromkeys(reasons) if reason for line in _wrapped(f"note: {reason}")
    ]


def _cost(cost: Cost) -> str:
    seconds = "" if cost.seconds is None else f"{cost.seconds:.4f}"
    return f"{cost.forwards:8.1f}{seconds:>9}"


def _title(name: str) -> str:
    return TITLES.get(name, name)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")
