"""Figures of the analyses of a run: each takes the `result` of `analyses/<name>.json`.

`result` is plain JSON, so that a reader of the file draws the same figure; every docstring says
of which analysis, and which keys are read. Scores in it have the fields of `scores.Score`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import plotly.graph_objects as go

from helpers.evaluation.scores import Score
from helpers.probes.probe import DisplayMap, Sweep
from helpers.studies.semantic_entropy.analyses.curves import CHOSEN, TITLES
from helpers.studies.semantic_entropy.analyses.sample_budget import ANSWER
from helpers.views import charts
from helpers.views.intervals import Panel, Row, arms, dot_symbols, interval_rows
from helpers.views.style import (
    COLOURS,
    DASHES,
    FAINT,
    GREY,
    SYMBOLS,
    VERMILLION,
    add_mark,
    add_notes,
    add_reference,
    framed,
    legend_below,
    plain,
    say_instead,
    score_hover,
    score_numbers,
    wrapped,
)

# --- curves --------------------------------------------------------------------------------------
#
# `result` is plain JSON, so that a reader of the file draws the same figure. A score in it is an
# object with the fields of `scores.Score`. Every docstring says which keys are read.


Axis = Literal["samples", "forwards", "tokens", "seconds"]
AXES: dict[str, str] = {
    "samples": "answers sampled to a question, N",
    "forwards": "forward passes a question",
    "tokens": "tokens generated a question",
    "seconds": "seconds a question",
}
PROBE_LOOKS = {"wrong_answer": 3, "high_semantic_entropy": 4, "wrong_answer_hybrid": 5}
"""Which colour and symbol a probe has beside the curves of the samples; any other score is grey."""
LINED = ("wrong_answer", "wrong_answer_prompt")
"""Probes whose level is drawn across: they were trained for the target that is shown."""


def title_of(name: str) -> str:
    """A measure of uncertainty as a reader meets it."""
    return TITLES.get(name, name)


# --- how many samples ----------------------------------------------------------------------------


def sample_budget(result: Mapping[str, Any], axis: Axis = "samples") -> go.Figure:
    """AUROC for a wrong answer against N samples or their cost, beside scores without samples.

    Reads sample_budget: k, n, undefined, unknown_seconds; curves (name to points of n_samples,
    subsets, auroc, cost) and singles (name, reads, auroc, cost, first_level). Raises ValueError
    for an unknown axis.
    """
    if axis not in get_args(Axis):
        raise ValueError(f"axis: {axis!r} is not one of {', '.join(AXES)}")
    budget = result["sample_budget"]
    fig = framed("How many samples?", AXES[axis], "AUROC for a wrong answer", height=430)
    if budget["undefined"]:
        return say_instead(fig, f"Undefined: {budget['undefined']}.")
    if axis == "seconds" and budget["unknown_seconds"]:
        return say_instead(fig, f"Seconds are unknown: {budget['unknown_seconds']}.")
    curves, singles = budget["curves"], budget["singles"]
    costs = [_cost(point, axis) for row in [*curves.values(), singles] for point in row]
    log = axis in ("forwards", "seconds") and min(costs) > 0
    for name, points in curves.items():
        scores = [Score(**point["auroc"]) for point in points]
        label = f"{title_of(name)}, N = {points[-1]['n_samples']}: {score_numbers(scores[-1])}"
        hovers = [_budget_hover(name, point) for point in points]
        add_banded_curve(fig, [_cost(point, axis) for point in points], scores, label, hovers)
    places = _side_by_side([_cost(single, axis) for single in singles], costs, log)
    if axis == "samples":
        # None of them takes a sample: they stand to the left of N = 1.
        places = [place - max(places) for place in places]
        _name_samples(fig, places, budget["k"])
    elif log:
        _name_decades(fig, min([*costs, *places]), max([*costs, *places]))
    for place, single in zip(places, singles, strict=True):
        _add_single(fig, place, max(costs), single)
    fig.update_xaxes(zeroline=False)
    notes = [
        f"{budget['n']} test questions; bands and bars: 95 % intervals",
        "reached: the smallest N at which semantic entropy is as good",
        "seconds as the run spent them, loading of models included" if axis == "seconds" else "",
    ]
    return legend_below(add_notes(fig, ["; ".join(filter(None, notes))]))


def _cost(point: Mapping[str, Any], axis: str) -> float:
    return float(point.get("n_samples", 0) if axis == "samples" else point["cost"][axis])


def _budget_hover(name: str, point: Mapping[str, Any]) -> str:
    """All there is to know of a score of N samples, or of one that `reads` something else."""
    if "reads" in point:
        source = f"reads the {point['reads']}"
    else:
        source = f"N = {point['n_samples']}, mean of {point['subsets']} subsets"
    cost = point["cost"]
    words = f"{cost['forwards']:.1f} forward passes, {cost['tokens']:.1f} tokens"
    words += f", {cost['comparisons']:.1f} comparisons" if cost["comparisons"] else ""
    words += "" if cost["seconds"] is None else f", {cost['seconds']:.3g} s"
    lines = [wrapped(line, 120) for line in (source, words)]
    return "<br>".join([score_hover(title_of(name), Score(**point["auroc"])), *lines])


def _side_by_side(places: Sequence[float], all_places: Sequence[float], log: bool) -> list[float]:
    """Places moved apart where several are the same, by a little of the whole axis."""
    on_axis = np.log10 if log else np.asarray
    at, ends = on_axis(np.array(places, dtype=float)), on_axis(np.array(all_places, dtype=float))
    step = 0.018 * (float(np.ptp(ends)) or 1.0)
    moved = []
    for i, value in enumerate(at.tolist()):
        tied = np.flatnonzero(np.abs(at - value) < step).tolist()
        moved.append(value + step * (tied.index(i) - (len(tied) - 1) / 2))
    return [10**value for value in moved] if log else moved


def _name_samples(fig: go.Figure, places: Sequence[float], k: int) -> None:
    numbers = list(range(1, k + 1, math.ceil(k / 20)))
    middle = [float(np.mean(places))] if places else []
    fig.update_xaxes(
        tickvals=[*middle, *numbers],
        ticktext=[*["none"] * len(middle), *map(str, numbers)],
        range=[min([*places, 1.0]) - 0.04 * k, 1.04 * k],
    )


def _name_decades(fig: go.Figure, low: float, high: float) -> None:
    """A log axis with 1, 2 and 5 times the powers of ten."""
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    ticks = [float(f"{step}e{power}") for power in powers for step in (1, 2, 5)]
    ends = [math.log10(low) - 0.05, math.log10(high) + 0.05]
    fig.update_xaxes(
        type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks], range=ends
    )


def _add_single(fig: go.Figure, x: float, last: float, single: Mapping[str, Any]) -> None:
    """A score without samples as a dot with its interval; for some, its level as a line."""
    name, score, first = single["name"], Score(**single["auroc"]), single["first_level"]
    look = PROBE_LOOKS.get(name.removesuffix("_prompt"))
    colour, symbol = (GREY, "x") if look is None else (COLOURS[look], SYMBOLS[look - 3])
    reached = "never reached" if first is None else f"reached at N = {first}"
    fig.add_scatter(
        x=[x],
        y=[score.value],
        name=plain(f"{title_of(name)}: {score_numbers(score)}, {reached}", 84),
        mode="markers",
        marker={
            "color": colour,
            "size": 9,
            "symbol": symbol if single["reads"] == ANSWER else f"{symbol}-open",
        },
        error_y=arms([score], thickness=1.6),
        customdata=[_budget_hover(name, single)],
        hovertemplate="%{customdata}<extra></extra>",
    )
    if name in LINED and score.value is not None:
        line = {"color": colour, "width": 1.2, "dash": "dot"}
        level = {"x": [x, last], "y": [score.value] * 2, "line": line}
        fig.add_scatter(**level, mode="lines", showlegend=False, hoverinfo="skip")


# --- how many labels -----------------------------------------------------------------------------


def label_efficiency(result: Mapping[str, Any]) -> go.Figure:
    """Test AUROC of the probes against the number of training questions, on a log axis.

    Reads label_efficiency: probe to position, layer, undefined, full and points (n_train, auroc,
    lowest, highest, subsets, undefined, note).
    """
    fig = framed("How many labels?", "training questions", "AUROC on test", height=420)
    probes: Mapping[str, Mapping[str, Any]] = result["label_efficiency"]
    reasons = [f"{title_of(n)}: undefined: {p['undefined']}" for n, p in probes.items()]
    reasons = [r for r, p in zip(reasons, probes.values(), strict=True) if p["undefined"]]
    defined = {name: probe for name, probe in probes.items() if not probe["undefined"]}
    if not defined:
        return say_instead(fig, "\n".join(reasons) or "There is no probe to train again.")
    sizes = sorted({p["n_train"] for probe in defined.values() for p in probe["points"]})
    # The bars stand to the right of the last points, beside each other.
    step = (sizes[-1] / sizes[0]) ** 0.02 if sizes else 1.0
    for number, (name, probe) in enumerate(defined.items(), 1):
        _add_sizes(fig, name, probe, step**number)
    for reason in reasons:
        line = {"color": FAINT}
        fig.add_scatter(x=[None], y=[None], name=plain(reason, 84), mode="lines", line=line)
    points = [point for probe in defined.values() for point in probe["points"]]
    fig.update_xaxes(type="log", tickvals=sizes, ticktext=[str(s) for s in sizes], tickangle=0)
    tests = " or ".join(dict.fromkeys(str(p["full"]["n"]) for p in defined.values() if p["full"]))
    gaps = "; ".join(dict.fromkeys(p["undefined"] for p in points if p["undefined"]))
    note = "bands: lowest to highest of random draws of the training questions, no interval"
    if tests:
        note += f"; bars: 95 % interval over {tests} test questions, with all labels"
    return legend_below(add_notes(fig, [note, gaps]))


def _add_sizes(fig: go.Figure, name: str, probe: Mapping[str, Any], beside: float) -> None:
    """A probe's curve, and its score with all labels at `beside` times their number."""
    points = [point for point in probe["points"] if point["auroc"] is not None]
    # What a Score calls its interval are here the lowest and highest of the draws.
    levels = [
        Score("auroc", p["auroc"], p["lowest"], p["highest"], None, p["subsets"]) for p in points
    ]
    hovers = [_size_hover(name, point) for point in points]
    label = f"{title_of(name)} ({probe['position']} {probe['layer']})"
    full = Score(**probe["full"]) if probe["full"] else None
    label += f": {score_numbers(full)} with all" if full else ""
    add_banded_curve(fig, [p["n_train"] for p in points], levels, label, hovers)
    if full is None or full.value is None or not points:
        return
    line = fig.data[-1]
    fig.add_scatter(
        x=[points[-1]["n_train"] * beside],
        y=[full.value],
        mode="markers",
        marker={"color": line.line.color, "symbol": line.marker.symbol, "size": 8},
        error_y=arms([full]),
        customdata=[score_hover(f"{title_of(name)}, all training questions", full)],
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
    )


def _size_hover(name: str, point: Mapping[str, Any]) -> str:
    lines = [title_of(name), f"{point['n_train']} training questions: {point['auroc']:.3f}"]
    if point["subsets"] > 1:
        spread = f"{point['lowest']:.3f} to {point['highest']:.3f}"
        lines.append(f"{point['subsets']} draws: {spread}")
    return "<br>".join(wrapped(line, 120) for line in [*lines, point["note"]] if line)


# --- the threshold -------------------------------------------------------------------------------


def threshold_sensitivity(result: Mapping[str, Any]) -> go.Figure:
    """The high-entropy probe's AUROC against γ, the run's own γ marked.

    Reads threshold_sensitivity: position, layer, undefined, ridge_spearman and points (threshold
    with value and names, high_train, high_test, auroc).
    """
    found = result["threshold_sensitivity"]
    fig = framed("How much does γ matter?", "γ (nats): above it is high", "AUROC for high entropy")
    companion = ""
    if found["ridge_spearman"]:
        companion = "without any γ: Spearman's correlation of the ridge probe with the entropy "
        companion += score_numbers(Score(**found["ridge_spearman"])).replace(" ", "\u00a0")
    if found["undefined"]:
        add_notes(fig, [companion])
        return say_instead(fig, f"Undefined: {found['undefined']}.")
    scored = [(point, Score(**point["auroc"])) for point in found["points"]]
    known = [(point, score) for point, score in scored if score.value is not None]
    n = max((score.n for _, score in scored), default=0)
    place = f"{found['position']} {found['layer']}, {n} test questions; bars: 95 % intervals"
    gaps = [(p["threshold"]["value"], s.undefined) for p, s in scored if s.value is None]
    gap_words = [f"γ = {value:.3g} is undefined: {reason}" for value, reason in gaps]
    add_notes(fig, [place, companion, *gap_words])
    if not known:
        return say_instead(fig, "No γ has a score.")
    scores = [score for _, score in known]
    fig.add_scatter(
        x=[point["threshold"]["value"] for point, _ in known],
        y=[score.value for score in scores],
        mode="lines+markers",
        line={"color": COLOURS[0], "width": 1.2, "dash": "dot"},
        marker={"size": 9, "symbol": dot_symbols(scores)},
        error_y=arms(scores),
        customdata=[_threshold_hover(point, score) for point, score in known],
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
    )
    values = [point["threshold"]["value"] for point, _ in scored]
    pad = 0.04 * (max(values) - min(values)) or 0.1
    fig.update_xaxes(range=[min(values) - pad, max(values) + pad], zeroline=False)
    for point, _ in scored:
        if CHOSEN in point["threshold"]["names"]:
            text = f"γ of this run: {point['threshold']['value']:.3g}"
            add_mark(fig, point["threshold"]["value"], text, VERMILLION, "dash")
            fig.layout.shapes[-1].layer = "below"
    return fig


def _threshold_hover(point: Mapping[str, Any], score: Score) -> str:
    threshold = point["threshold"]
    head = f"γ = {threshold['value']:.4g} ({', '.join(threshold['names'])})"
    words = f"high: {point['high_train']:.0%} of train, {point['high_test']:.0%} of test"
    return f"{score_hover(head, score)}<br>{wrapped(words, 80)}"


def add_banded_curve(
    fig: go.Figure,
    x: Sequence[float],
    scores: Sequence[Score],
    label: str,
    hovers: Sequence[str],
    markers: bool = True,
) -> None:
    """A curve in the next colour, with a band from low to high where the scores have both."""
    number = sum(trace.showlegend is not False for trace in fig.data)
    colour = COLOURS[number % len(COLOURS)]
    banded = [(at, s.low, s.high) for at, s in zip(x, scores, strict=True) if s.low is not None]
    if banded:
        at, low, high = (list(column) for column in zip(*banded, strict=True))
        rgb = ", ".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
        fig.add_scatter(
            x=at + at[::-1], y=high + low[::-1], fill="toself", fillcolor=f"rgba({rgb}, 0.14)",
            mode="lines", line={"width": 0}, showlegend=False, hoverinfo="skip",
        )  # fmt: skip
    fig.add_scatter(
        x=list(x),
        y=[score.value for score in scores],
        name=plain(label, 84),
        mode="lines+markers" if markers else "lines",
        line={"color": colour, "dash": DASHES[number % len(DASHES)], "width": 2.2},
        marker={"color": colour, "symbol": SYMBOLS[number % len(SYMBOLS)], "size": 6},
        customdata=list(hovers),
        hovertemplate="%{customdata}<extra></extra>",
    )


FEW = ("semantic_entropy", "wrong_answer", "wrong_answer_prompt", "predictive_entropy_normalised")
"""Measures of uncertainty that one figure can tell apart."""
MOST_POINTS = 400
"""Points of one risk–coverage curve; longer ones are thinned."""
SHOWN_FROM = 0.1
"""The axis of risk has room for the bands from this coverage on; before, they span everything."""


def risk_coverage(result: Mapping[str, Any], measures: Sequence[str] = FEW) -> go.Figure:
    """Error among the questions answered against their share, with bands, for a few measures.

    Reads selective of the analysis "curves": n, undefined, scores (measure to aurc) and curves
    (measure to coverage, risk, risk_low, risk_high, best_aurc, error_rate). A measure that the
    run lacks is left out.
    """
    found = result["selective"]
    fig = framed(
        "Answering only where certain",
        "coverage (share of test questions answered)",
        "risk (share of these answers wrong)",
        height=430,
    )
    curves = {name: found["curves"][name] for name in measures if name in found["curves"]}
    if not curves:
        reason = found["undefined"]
        return say_instead(fig, f"Undefined: {reason}." if reason else "No measure to show.")
    highest = []
    for name, curve in curves.items():
        points = _risks(curve, found["n"])
        area = score_numbers(Score(**found["scores"][name]["aurc"]))
        hovers = [_risk_hover(name, at, score) for at, score in points]
        label = f"{title_of(name)}: AURC {area}"
        coverage, risks = [at for at, _ in points], [score for _, score in points]
        add_banded_curve(fig, coverage, risks, label, hovers, markers=False)
        highest += [score.high or score.value for at, score in points if at >= SHOWN_FROM]
    first = next(iter(curves.values()))
    add_reference(fig, [0, 1], [first["error_rate"]] * 2, f"at random: {first['error_rate']:.3f}")
    fig.update_xaxes(range=[-0.01, 1.01], zeroline=False)
    fig.update_yaxes(range=[0, min(1.02, 1.05 * max(filter(None, highest), default=0.1))])
    note = (
        f"{found['n']} test questions; bands: 95 % at one coverage at a time; AURC: area under the "
        f"curve, lower is better, at best {first['best_aurc']:.3f}"
    )
    return legend_below(add_notes(fig, [note]))


def _risks(curve: Mapping[str, Any], n: int) -> list[tuple[float, Score]]:
    """Coverage and risk with its band, thinned to `MOST_POINTS`, the first and last among them."""
    points = len(curve["coverage"])
    rows = np.linspace(0, points - 1, min(points, MOST_POINTS)).round().astype(int).tolist()
    low, high = (curve[end] or [None] * points for end in ("risk_low", "risk_high"))
    return [
        (curve["coverage"][i], Score("risk", curve["risk"][i], low[i], high[i], None, n))
        for i in rows
    ]


def _risk_hover(name: str, coverage: float, risk: Score) -> str:
    words = f"{100 * coverage:.1f} % answered, risk {score_numbers(risk)}"
    return f"{wrapped(title_of(name), 60)}<br>{wrapped(words, 80)}"


def abstention(result: Mapping[str, Any], measures: Sequence[str] = FEW) -> go.Figure:
    """For each promised error, the share answered and the error among these, by measure.

    Reads policies of the analysis "curves": measure to promises, each with share, error, held and
    promise (max_error, confidence, n, answered, wrong,
    needed, undefined).
    """
    title = "When may it answer?"
    chosen = {name: result["policies"][name] for name in measures if name in result["policies"]}
    if not chosen:
        fig = framed(title, "share of test questions answered", "")
        return say_instead(fig, "No measure of uncertainty is known on validation and test.")
    rows: list[Row] = []
    promises = [policy["promises"] for policy in chosen.values()]
    for level in zip(*promises, strict=True):
        alpha = level[0]["promise"]["max_error"]
        promised = f"promised: at most {100 * alpha:g} % of the answers wrong"
        rows.append(Row("", said=promised, is_heading=True))
        refusals = {_refusal(kept["promise"]) for kept in level}
        if len(refusals) == 1 and "" not in refusals:
            rows.append(Row("every measure", said=refusals.pop()))
            continue
        rows += [_promise_row(n, kept, alpha) for n, kept in zip(chosen, level, strict=True)]
    panels = (
        Panel("share of test answered", (0, 1), "percent"),
        Panel("error among these", style="percent"),
    )
    made = promises[0][0]["promise"]
    notes = [
        f"with {100 * made['confidence']:g} % confidence, chosen on {made['n']} validation "
        "questions; bars: 95 % intervals; dashed: the promise; cross: more errors than that"
    ]
    return interval_rows(title, rows, panels, notes)


def _promise_row(name: str, kept: Mapping[str, Any], alpha: float) -> Row:
    if kept["share"] is None or kept["error"] is None:
        return Row(title_of(name), said=_refusal(kept["promise"]))
    scores = (Score(**kept["share"]), Score(**kept["error"]))
    return Row(title_of(name), scores, (None, alpha), marked=kept["held"] is False)


def _refusal(made: Mapping[str, Any]) -> str:
    """Why there is no threshold, in few words; empty where there is one."""
    if not made["undefined"]:
        return ""
    takes = f"it takes {made['needed']} without an error"
    if not made["answered"]:
        return f"no threshold among {made['n']} questions: {takes}"
    are = "is" if made["wrong"] == 1 else "are"
    seen = f"{made['wrong']} of the {made['answered']} most certain {are} wrong"
    return f"no threshold: {seen}; {takes}"


def cluster_audit(result: Mapping[str, Any]) -> go.Figure:
    """Share of questions that each rule changes, and the AUROC of its semantic entropy.

    Reads rules of the analysis "audit": name, changed, auroc, missing; the run's own rule first.
    """
    own = result["rules"][0]["auroc"] if result["rules"] else None
    reference = own["value"] if own else None
    rows = []
    for rule in result["rules"]:
        if rule["changed"] is None or rule["auroc"] is None:
            rows.append(Row(rule["name"], said=rule["missing"]))
            continue
        scores = (Score(**rule["changed"]), Score(**rule["auroc"]))
        rows.append(Row(rule["name"], scores, (None, reference)))
    panels = (
        Panel("questions changed", style="percent"),
        Panel("AUROC for a wrong answer"),
    )
    notes = [f"{result['n']} questions, AUROC on test; bars: 95 % intervals; dashed: the own rule"]
    return interval_rows("The same answers, grouped by other rules", rows, panels, notes)


def maps_on_test(maps: Mapping[str, DisplayMap], sweeps: Mapping[str, Sweep]) -> list[go.Figure]:
    """For each target the test score at every layer and position, the chosen place framed."""
    return [
        map_on_test(found, name, (sweeps[name].best_position, sweeps[name].best_layer))
        for name, found in maps.items()
    ]


def map_on_test(
    found: DisplayMap, name: str = "", chosen: tuple[str, int] | None = None
) -> go.Figure:
    """Test scores at every layer and position, the place that validation chose framed."""
    if found.score is None:
        fig = framed(_map_title(found, name), "layer", "position")
        return say_instead(fig, f"Undefined: {found.undefined}.")
    fig = charts.layer_position_map(
        found.score, found.positions, found.layers, chosen, found.score_name
    )
    notes = fig.layout.title.text.partition("<br>")[1:]
    fig.layout.title.text = plain(_map_title(found, name), 90) + "".join(notes)
    return add_notes(fig, [f"{found.n} test questions; to look at: nothing was chosen by them"])


def _map_title(found: DisplayMap, name: str) -> str:
    title = f"{name.replace('_', ' ')}: {found.score_name} on test by layer and position"
    title = title.removeprefix(": ")
    return title[0].upper() + title[1:]
