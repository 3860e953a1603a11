"""What regrouping, another place of the probe, or another temperature changes, to be looked at."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.evaluation.metrics import Metric, auroc, brier, ece, ratio, too_few
from helpers.evaluation.scores import Score, format_score, reliability, score_metric
from helpers.formatting import p_value_text
from helpers.probes.probe import LinearKind, LinearProbe, UndefinedTarget, predict, states_at
from helpers.probes.training import HIGH, WRONG, Targets, fit_chosen, sweep_target
from helpers.studies.registry import repeat_command
from helpers.studies.semantic_entropy.analyses.audit import mean_score
from helpers.studies.semantic_entropy.analyses.figures import add_banded_curve
from helpers.studies.semantic_entropy.open_run import AnyRun
from helpers.studies.semantic_entropy.records import Run
from helpers.studies.semantic_entropy.run_files import StoredRun
from helpers.studies.semantic_entropy.what_if import GroupingScores, Regrouped, sample_count
from helpers.views import charts
from helpers.views.html import change, html_table, reasons_of, score_cell
from helpers.views.style import (
    BLUE,
    GREY,
    VERMILLION,
    add_bars,
    add_mark,
    add_notes,
    add_reference,
    arm_length,
    cut,
    framed,
    legend_below,
    plain,
    say_instead,
    score_hover,
    score_numbers,
)

MOST_BINS = 200
MEASURES = {
    "entropy": "semantic entropy (nats)",
    "meanings": "meanings a question",
    "high": "questions above γ",
    "wrong_answer": "AUROC, wrong answer",
    "probe": "AUROC, stored probe",
}
"""Fields of `GroupingScores` as a reader meets them."""
_LEGEND = (
    "Means over the test questions; AUROC of semantic entropy for a wrong most likely answer, and "
    "of the run's probe for semantic entropy above γ; Spearman's correlation of semantic entropy "
    "now and as stored."
)
_MOST_WORDINGS, _WORDING = 4, 60


def check_bins(bins: int) -> int:
    """The number of bins; raises `UserError` naming the range for another than 2 to 200."""
    if not isinstance(bins, Integral) or not 2 <= bins <= MOST_BINS:
        raise UserError(f"bins is {bins!r}: choose a whole number from 2 to {MOST_BINS}")
    return int(bins)


def histogram(regrouped: Regrouped, run: AnyRun, bins: int = 30) -> go.Figure:
    """How semantic entropies are spread now, over the outline of how they are stored; γ dashed.

    Of all questions, in bins of equal width from 0 to ln K nats, so that the axis stays where it is
    when the options change. Raises `UserError` for bins that are not 2 to 200.
    """
    check_bins(bins)
    now, stored = regrouped.semantic_entropy, run.targets.semantic_entropy
    most, k = sample_count(run), regrouped.options.k
    end = max(math.log(most), now.max(initial=0.0), stored.max(initial=0.0))
    edges = np.linspace(0.0, end, bins + 1)
    fig = framed(
        "Semantic entropy", f"semantic entropy (nats, at most ln {k} = {math.log(k):.2f})",
        "questions",
    )  # fmt: skip
    add_bars(fig, now, edges, "nats", "questions")
    fig.data[0].name = f"now, from {k} samples"
    counts = np.histogram(stored, edges)[0]
    fig.add_scatter(
        x=np.repeat(edges, 2),
        y=np.concatenate([[0], np.repeat(counts, 2), [0]]),
        mode="lines",
        line={"color": GREY, "width": 1.5},
        name=f"as stored, from {most} samples",
        hoverinfo="skip",
    )
    fig.update_xaxes(range=[-0.01 * end, 1.02 * end])
    if regrouped.gamma is None:
        add_notes(fig, ["γ is undefined: every train question has the same semantic entropy"])
    else:
        above = int((now > regrouped.gamma).sum())
        text = f"γ = {regrouped.gamma:.3g}: {above} of {len(now)} questions above"
        add_mark(fig, regrouped.gamma, text, VERMILLION, "dash")
    return legend_below(fig, one_row=True)


def budget(regrouped: Regrouped, run: AnyRun) -> go.Figure:
    """AUROC of semantic entropy for a wrong answer from N = 1 … k samples, grouped as chosen.

    Beside it the curve of the run's own analysis, where the run has one.
    """
    fig = framed(
        "How many samples?", "answers sampled to a question, N", "AUROC for a wrong answer"
    )
    levels = regrouped.budget
    if reason := regrouped.now.wrong_answer.undefined:
        return say_instead(fig, f"Undefined: {reason}.")
    hovers = [
        f"{score_hover('now', level.auroc)}<br>N = {level.n_samples}, mean of {level.subsets} "
        f"subset{'s' * (level.subsets > 1)}"
        for level in levels
    ]
    label = f"now, N = {levels[-1].n_samples}: {score_numbers(levels[-1].auroc)}"
    scores = [level.auroc for level in levels]
    add_banded_curve(fig, [level.n_samples for level in levels], scores, label, hovers)
    stored = _stored_budget(run)
    if stored:
        end = f"N = {len(stored)}: {score_numbers(stored[-1])}"
        fig.add_scatter(
            x=list(range(1, len(stored) + 1)),
            y=[score.value for score in stored],
            name=plain(f"as stored, {end}", 84),
            mode="lines",
            line={"color": GREY, "width": 1.5, "dash": "dot"},
            customdata=[score_hover("as stored", score) for score in stored],
            hovertemplate="%{customdata}<extra></extra>",
        )
    most = sample_count(run)
    add_reference(fig, [1, most], [0.5, 0.5], "chance")
    fig.update_xaxes(range=[1 - 0.03 * most, 1.03 * most], dtick=max(1, math.ceil(most / 12)))
    # The axis stays where it is when the options change, unless a band leaves it.
    lows = [score.value if score.low is None else score.low for score in scores]
    fig.update_yaxes(range=[min(0.45, *(low for low in lows if low is not None)) - 0.01, 1.01])
    notes = [
        f"{levels[-1].auroc.n} test questions; band: 95 % interval. N = 1 is 0.5 by construction: "
        "one answer has one meaning."
    ]
    return legend_below(add_notes(fig, notes))


def _stored_budget(run: AnyRun) -> list[Score]:
    """The stored analysis' scores of semantic entropy at N = 1 … K; none where there is none."""
    if not isinstance(run, Run) or "curves" not in run.analyses:
        return []
    curves = run.analyses["curves"].result["sample_budget"]["curves"]
    return [Score(**point["auroc"]) for point in curves.get("semantic_entropy", ())]


def summary_table(regrouped: Regrouped, run: AnyRun) -> str:
    """The scores as stored and now, with intervals, and what changed: HTML, escaped."""
    rows = [
        (
            words,
            score_cell(getattr(regrouped.stored, name)),
            score_cell(getattr(regrouped.now, name)),
            change(regrouped.differences.get(name)),
            p_value_text(getattr(regrouped.now, name).p_value),
        )
        for name, words in MEASURES.items()
    ]
    rows.append(("Spearman with stored", "", score_cell(regrouped.spearman), "", ""))
    changed, n = int(regrouped.changed.sum()), len(regrouped.changed)
    k, most = regrouped.options.k, sample_count(run)
    notes = [
        f"In {changed} of {n} questions the same {k} samples are grouped otherwise than as stored.",
        *regrouped.notes,
        f"γ: {_gamma(run.targets.threshold)} as stored, {_gamma(regrouped.gamma)} now.",
        _LEGEND,
        f"{regrouped.now.entropy.n} test questions, {regrouped.now.wrong_answer.n} of them with a "
        "graded answer; 95 % bootstrap intervals; the change is paired, question by question; p "
        "of the score now, by permutation.",
        reasons_of(_scores(regrouped)).strip(),
    ]
    heads = ("", f"as stored, K = {most}", f"now, k = {k}", "change", "p")
    return html_table(heads, rows, " ".join(filter(None, notes)))


def _gamma(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f} nats"


def _scores(regrouped: Regrouped) -> list[Score]:
    """All scores that the table of a grouping shows, but for the differences."""
    groups: Sequence[GroupingScores] = (regrouped.stored, regrouped.now)
    return [*(getattr(group, name) for group in groups for name in MEASURES), regrouped.spearman]


def examples(regrouped: Regrouped, run: AnyRun, n: int = 3) -> str:
    """Questions whose same k samples are grouped otherwise than the run did: HTML, escaped.

    The n whose number of meanings changed most, with their groups before and after.
    """
    k = int(regrouped.options.k)
    own = np.array([row[:k] for row in run.meanings.clusters])
    moved = _moved(regrouped, own)
    rows = [
        (
            cut(run.answers.questions[i].question, 160),
            _groups(run, i, own[i].tolist()),
            _groups(run, i, regrouped.clusters[i].tolist()),
        )
        for i in moved[:n]
    ]
    if not rows:
        return html_table(("No question's samples are grouped otherwise than as stored.",), [])
    note = (
        f"{min(n, len(moved))} of {len(moved)} questions with other groups, those whose number of "
        "meanings changed most; each line is one meaning"
    )
    return html_table(("question", "as stored", "now"), rows, note)


def _moved(regrouped: Regrouped, own: np.ndarray) -> list[int]:
    """Rows that changed, those whose number of meanings changed most first."""
    by = np.abs(regrouped.clusters.max(axis=1) - own.max(axis=1))
    rows: list[int] = np.flatnonzero(regrouped.changed).tolist()
    return sorted(rows, key=lambda i: -by[i])


def _groups(run: AnyRun, i: int, ids: list[int]) -> str:
    """One line a group, the largest first: how many answers it holds, and their wordings."""
    wordings: dict[int, dict[str, int]] = {}
    for sample, group in zip(run.answers.samples[i], ids, strict=False):
        counts = wordings.setdefault(group, {})
        text = cut(sample.text, _WORDING) or "(empty)"
        counts[text] = counts.get(text, 0) + 1
    lines = []
    for counts in sorted(wordings.values(), key=lambda counts: -sum(counts.values())):
        texts = [f"“{t}”" + (f" × {c}" if c > 1 else "") for t, c in counts.items()]
        more = len(texts) - _MOST_WORDINGS
        texts[_MOST_WORDINGS:] = [f"and {more} more wordings"] if more > 0 else []
        lines.append(f"{sum(counts.values())} · {', '.join(texts)}")
    return "\n".join(lines)


# --- another place of the probe ------------------------------------------------------------------
#
# The place that a run uses was chosen on validation. Other places are shown to be looked at:
# whoever picks one because of its test score lets the test questions choose, and the score is then
# too good.


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
             "undefined" if score is None else f"{score:.3f}", score_cell(place.test))
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
    fig = charts.reliability_diagram(reliability(found.predicted, found.labels, bins), scores)
    return add_notes(fig, [f"{bins} bins are drawn; ECE is always over 10"]) if bins != 10 else fig


def _no_diagram(message: str) -> go.Figure:
    return say_instead(framed("Reliability", "predicted probability", "observed share"), message)


# --- another temperature -------------------------------------------------------------------------


FOLLOWS = ("temperature", "preset")
"""Fields in which the runs may differ: the preset only says which values a run started from."""
FOLDERS = ("cache_dir", "out")
PANELS = (
    ("entropy", "entropy (nats)"),
    ("accuracy", "samples right"),
    ("wrong_answer", "AUROC"),
)


@dataclass(frozen=True)
class TemperatureRow:
    """One run, on its test questions."""

    run: str
    temperature: float
    config: RunConfig
    accuracy: Score
    """Share of the sampled answers that are right, of those that state an answer."""
    entropy: Score
    """Mean semantic entropy, nats."""
    wrong_answer: Score
    """AUROC of semantic entropy for a wrong most likely answer; that answer has no temperature."""


def temperature_runs(runs: Sequence[AnyRun]) -> tuple[TemperatureRow, ...]:
    """Those runs that equal the first of them in everything but temperature, coldest first.

    Everything: the model's and tokenizer's contents and every field of the config that changes
    results. Of several runs with one temperature the first counts. No runs, no rows.
    """
    if not runs:
        return ()
    alike = {float(run.manifest["config"]["temperature"]): run for run in reversed(runs)
             if _without_temperature(run) == _without_temperature(runs[0])}  # fmt: skip
    return tuple(_row(alike[temperature]) for temperature in sorted(alike))


def _without_temperature(run: AnyRun) -> dict[str, Any]:
    fields = {k: v for k, v in run.manifest["config"].items() if k not in FOLLOWS}
    return {"config": fields, "hashes": run.manifest.get("hashes")}


def _row(run: AnyRun) -> TemperatureRow:
    targets, config = run.targets, run.config
    test, seed = targets.rows("test"), config.seed
    entropy, wrong = targets.semantic_entropy, targets.wrong
    shares = np.full(len(test), np.nan) if targets.wrong_share is None else targets.wrong_share
    graded, stated = targets.rows("test", wrong), targets.rows("test", shares)
    # The share of a question counts once, however many of its samples state an answer.
    right = 1.0 - shares[stated]
    return TemperatureRow(
        run=run.folder.name,
        temperature=config.temperature,
        config=config.model_copy(update={"out": run.folder.parent}),
        accuracy=mean_score("accuracy", right, n_boot=N_BOOT, seed=seed),
        entropy=mean_score("semantic entropy", entropy[test], n_boot=N_BOOT, seed=seed),
        wrong_answer=score_metric(
            auroc(entropy[graded], wrong[graded], "wrong"), N_BOOT, N_BOOT, seed
        ),
    )


def another_run(config: RunConfig, temperature: float) -> str:
    """The command that makes the same run at another temperature.

    Folders stand in it only where they are relative: an absolute one says more of this machine than
    of the run. Raises `UserError` where no command says the same.
    """
    settings = {k: v for k, v in config.results_fields().items() if k != "temperature"}
    folders = [f"--{name.replace('_', '-')}={getattr(config, name)}" for name in FOLDERS
               if _unusual(config, name) and not getattr(config, name).is_absolute()]  # fmt: skip
    return f"{repeat_command(settings)} {shlex.join([*folders, '--temperature'])} {temperature:g}"


def _unusual(config: RunConfig, name: str) -> bool:
    """Whether a folder is another than the default."""
    usual: Path = RunConfig.model_fields[name].default
    return getattr(config, name).expanduser().resolve() != usual.expanduser().resolve()


def only_one(rows: Sequence[TemperatureRow]) -> str:
    """Why there is nothing to compare, and the command that would change it; empty if there is."""
    if len(rows) > 1:
        return ""
    if not rows:
        return "There is no run to compare: make one with `uv run sep run`."
    config, other = rows[0].config, 0.7 if rows[0].temperature != 0.7 else 1.0
    said = f"There is one run of these settings, at temperature {rows[0].temperature:g}. "
    try:
        command = another_run(config, other)
    except UserError as reason:
        return f"{said}No command makes another one here: {reason}."
    beside = config.out.is_absolute() and _unusual(config, "out")
    same = ", with the --out and --cache-dir of this one," if beside else ","
    return f"{said}Another temperature samples anew{same} as a run of its own:\n{command}"


def temperature_figure(rows: Sequence[TemperatureRow]) -> go.Figure:
    """Semantic entropy, accuracy and AUROC against temperature, with 95 % intervals.

    With one run alone, words that say so, and the command that makes another.
    """
    fig = framed("Temperature", "sampling temperature", "", height=520)
    if message := only_one(rows):
        return say_instead(framed("Temperature", "sampling temperature", ""), message)
    gap, height = 0.06, (1 - 2 * 0.06) / 3
    for number, (field, title) in enumerate(PANELS):
        axis = "y" if number == 0 else f"y{number + 1}"
        top = 1 - number * (height + gap)
        fig.layout["yaxis" + axis[1:]] = {
            "domain": [max(0.0, top - height), top], "title": {"text": title}, "nticks": 4,
            "anchor": "x", "automargin": True,
        }  # fmt: skip
        known = [row for row in rows if getattr(row, field).value is not None]
        scores = [getattr(row, field) for row in known]
        fig.add_scatter(
            x=[row.temperature for row in known],
            y=[score.value for score in scores],
            yaxis=axis,
            mode="lines+markers",
            line={"color": GREY, "width": 1, "dash": "dot"},
            marker={"color": BLUE, "size": 9},
            error_y={
                "array": [arm_length(s.value, s.high) for s in scores],
                "arrayminus": [arm_length(s.value, s.low) for s in scores],
                "color": BLUE,
                "thickness": 2,
                "width": 0,
            },
            customdata=[
                score_hover(f"{row.run}, {title}", s) for row, s in zip(known, scores, strict=True)
            ],
            hovertemplate="%{customdata}<extra></extra>",
            showlegend=False,
        )
        if not known:
            reason = getattr(rows[0], field).undefined
            fig.add_annotation(
                text=plain(f"undefined: {reason}"),
                xref="paper",
                yref="paper",
                x=0.5,
                y=top - height / 2,
            )
    fig.update_xaxes(anchor="y3", tickvals=[row.temperature for row in rows])
    notes = [
        "mean semantic entropy; share of samples right; AUROC of semantic entropy for a wrong "
        "answer. Test questions, 95 % bootstrap intervals; each dot is a run"
    ]
    return add_notes(fig, notes)


def temperature_table(rows: Sequence[TemperatureRow]) -> str:
    """The same numbers, one run a row: HTML, escaped."""
    cells = [
        (
            f"{row.temperature:g}",
            row.run,
            score_cell(row.entropy),
            score_cell(row.accuracy),
            score_cell(row.wrong_answer),
            row.entropy.n,
        )
        for row in rows
    ]
    heads = ("temperature", "run", "mean semantic entropy (nats)", "samples right",
             "AUROC for a wrong answer", "n")  # fmt: skip
    note = (
        "Equal in everything but temperature. The most likely answer has no temperature: whether "
        "it is wrong is the same question in every row. Test questions, 95 % bootstrap intervals."
    )
    missing = {s.undefined for row in rows for s in (row.accuracy, row.wrong_answer) if s.undefined}
    note += f" Undefined: {'; '.join(sorted(missing))}." if missing else ""
    return html_table(heads, cells, f"{note} {only_one(rows)}".strip())
