"""Figures and tables of the analyses: from plain JSON, safe with anyone's text, nothing dropped."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.evaluation.scores import Score
from helpers.probes.probe import DisplayMap
from helpers.studies.semantic_entropy.analyses import figures as analysis_figures
from helpers.studies.semantic_entropy.analyses import tables as analysis_tables
from helpers.studies.semantic_entropy.analyses.abstention import Promise, policies, selective_scores
from helpers.studies.semantic_entropy.analyses.audit import audit
from helpers.studies.semantic_entropy.analyses.curves import (
    Curves,
    label_efficiency,
    threshold_sensitivity,
)
from helpers.studies.semantic_entropy.analyses.sample_budget import Cost, SinglePoint, sample_budget
from helpers.views import html
from helpers.views.intervals import tick_values
from support.figures import ATTACK, leaves, words
from support.made_up_runs import made_up_run

FAST: dict[str, Any] = {"n_boot": 20, "n_perm": 20}
N = 240
SPLITS = np.resize(["train", "validation", "test"], N)
MASKS = {name: name == SPLITS for name in ("train", "validation", "test")}
MEASURES = ("semantic_entropy", "wrong_answer", ATTACK)


def made_up_curves() -> Curves:
    """Curves of made-up answers, beside probes of features that show the label."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N, 4))
    wrong = (features[:, 0] + 0.3 * rng.normal(size=N) > 0.5).astype(float)
    entropy = np.round(np.abs(features[:, 1]), 1)
    place: dict[str, Any] = {"position": ATTACK, "layer": 3, **FAST}
    budget = sample_budget(made_up_run(n=24, k=4), n_boot=20)
    single = budget.singles[0]
    probes = (
        probe_of(single, "wrong_answer_prompt", "prompt", Cost(1.0, 0.0, 0.0, None)),
        probe_of(single, "wrong_answer", "most likely answer", single.cost),
    )
    scores = {name: features[:, 0] + i * rng.normal(size=N) for i, name in enumerate(MEASURES)}
    test = {name: values[MASKS["test"]] for name, values in scores.items()}
    kept = {
        name: policies(
            values, wrong, calibration=MASKS["validation"], test=MASKS["test"],
            shaped_by_calibration=True,
        )
        for name, values in scores.items()
    }  # fmt: skip
    return Curves(
        run="made up",
        sample_budget=replace(budget, singles=(*probes, single)),
        label_efficiency={
            "high_semantic_entropy": label_efficiency(features, wrong, **MASKS, **place),
            "wrong_answer": label_efficiency(features, np.ones(N), **MASKS, **place),
        },
        threshold_sensitivity=threshold_sensitivity(
            features, entropy, 0.75, **MASKS, **place, ridge=features[:, 1]
        ),
        selective=selective_scores(test, wrong[MASKS["test"]], **FAST),
        policies=kept,
    )


def probe_of(single: SinglePoint, name: str, reads: str, cost: Cost) -> SinglePoint:
    return replace(single, name=name, reads=reads, cost=cost)


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """Each analysis as its file holds it."""
    found: dict[str, Any] = {
        "curves": made_up_curves(),
        "audit": audit(made_up_run(n=24), **FAST),
    }
    return {name: json.loads(json.dumps(one.as_dict())) for name, one in found.items()}


@pytest.fixture
def given_results(results: dict[str, Any]) -> dict[str, Any]:
    """The same to change."""
    return copy.deepcopy(results)


FIGURES = {
    "budget": ("curves", analysis_figures.sample_budget),
    "forwards": ("curves", lambda r: analysis_figures.sample_budget(r, "forwards")),
    "tokens": ("curves", lambda r: analysis_figures.sample_budget(r, "tokens")),
    "labels": ("curves", analysis_figures.label_efficiency),
    "threshold": ("curves", analysis_figures.threshold_sensitivity),
    "risk": ("curves", lambda r: analysis_figures.risk_coverage(r, MEASURES)),
    "abstention": ("curves", lambda r: analysis_figures.abstention(r, MEASURES)),
    "audit": ("audit", analysis_figures.cluster_audit),
}
TABLES = {
    "cost": ("curves", analysis_tables.cost_table),
    "selective": ("curves", analysis_tables.selective_table),
    "policies": ("curves", analysis_tables.policies_table),
    "audit": ("audit", analysis_tables.audit_table),
    "audit words": ("audit", analysis_tables.audit_words),
}


def traces(fig: go.Figure, mode: str) -> list[Any]:
    """Traces that are drawn and can be hovered."""
    return [t for t in fig.data if t.mode == mode and t.hoverinfo != "skip" and t.x[0] is not None]


def spoil(node: Any) -> Any:
    """The same result with someone's markup in every text that is not a key or a known name."""
    if isinstance(node, dict):
        changed = {key: spoil(value) for key, value in node.items()}
        for key in ("undefined", "missing", "note", "rule", "judge", "sentence", "relation"):
            if changed.get(key):
                changed[key] = ATTACK
        return changed
    return [spoil(value) for value in node] if isinstance(node, list) else node


# --- every figure and table ----------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_labelled_finite_and_safe(name: str, results: dict[str, Any]) -> None:
    analysis, draw = FIGURES[name]
    fig = draw(spoil(results[analysis]))
    layout = json.loads(fig.to_json())["layout"]
    assert layout["title"]["text"]
    assert all(layout[axis]["title"]["text"] for axis in layout if axis.startswith("xaxis"))
    assert layout["yaxis"]["title"]["text"] or layout["yaxis"]["ticktext"]
    drawn = 0
    for path, value in leaves(json.loads(fig.to_json())):
        if isinstance(value, float):
            assert math.isfinite(value), path
            drawn += 1
        if isinstance(value, str):
            assert "<script" not in value, path
            assert "<a " not in value, path
            assert "$" not in value, path
    assert drawn > 5


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_escaped_and_shows_no_missing_number(
    name: str, results: dict[str, Any]
) -> None:
    analysis, build = TABLES[name]
    table = build(spoil(results[analysis]))
    assert "<script" not in table
    assert "<a " not in table
    for bad in ("None", "nan", "NaN", "inf]", "[]"):
        assert bad not in table
    assert len(table) > 200


def test_a_table_can_hold_markup_only_as_text(given_results: dict[str, Any]) -> None:
    rule = given_results["audit"]["rules"][1]
    rule["name"] = rule["rule"] = ATTACK
    assert analysis_tables.audit_table(given_results["audit"]).count("&lt;script&gt;") == 2


def test_an_absent_analysis_says_why(results: dict[str, Any]) -> None:
    build = analysis_figures.sample_budget
    run = SimpleNamespace(
        analyses={"curves": SimpleNamespace(result=results["curves"])},
        manifest={
            "stages_done": ["analyses"],
            "counts": {"analyses_skipped": {"audit": "no <b> graded"}},
        },
    )
    assert analysis_tables.analysis_view(run, "curves", build, "tokens") == build(
        results["curves"], "tokens"
    )
    assert "no &lt;b&gt; graded" in analysis_tables.analysis_view(run, "audit", build)
    bare = SimpleNamespace(analyses={}, manifest=run.manifest)
    assert "do not ask for it" in analysis_tables.analysis_view(bare, "curves", build)
    assert analysis_tables.analysis_view(run, "audit", build, folded="Numbers") is None
    run.manifest["stages_done"] = []
    assert "still to come" in analysis_tables.analysis_view(bare, "curves", build)
    table = analysis_tables.analysis_view(
        run, "curves", analysis_tables.cost_table, folded="A <b>cost"
    )
    assert table.startswith("<details")
    assert "A &lt;b&gt;cost</summary><div" in table


# --- how many samples ----------------------------------------------------------------------------


@pytest.mark.parametrize("axis", ["forwards", "tokens", "samples"])
def test_a_curve_stands_where_it_costs(results: dict[str, Any], axis: Any) -> None:
    budget = results["curves"]["sample_budget"]
    fig = analysis_figures.sample_budget(results["curves"], axis)
    drawn = traces(fig, "lines+markers")
    assert len(drawn) == len(budget["curves"]) == 3
    for trace, points in zip(drawn, budget["curves"].values(), strict=True):
        costs = [p["n_samples"] if axis == "samples" else p["cost"][axis] for p in points]
        assert list(trace.x) == costs
        assert list(trace.y) == [p["auroc"]["value"] for p in points]
    dots = traces(fig, "markers")
    assert len(dots) == len(budget["singles"])
    for dot, single in zip(dots, budget["singles"], strict=True):
        assert dot.y[0] == single["auroc"]["value"]
        cost = 0.0 if axis == "samples" else single["cost"][axis]
        spread = max(p["cost"]["tokens"] for p in budget["curves"]["semantic_entropy"])
        assert abs(dot.x[0] - cost) < 0.1 * spread
        assert (dot.x[0] <= 0) or axis != "samples"
    # those that read the prompt alone are hollow
    assert [dot.marker.symbol.endswith("-open") for dot in dots] == [True, False, False]
    assert len({dot.x[0] for dot in dots}) == 3


def test_unknown_seconds_and_an_unknown_axis_are_said(given_results: dict[str, Any]) -> None:
    fig = analysis_figures.sample_budget(given_results["curves"], "seconds")
    reason = given_results["curves"]["sample_budget"]["unknown_seconds"]
    assert reason
    assert not fig.data
    assert f"Seconds are unknown: {reason}" in words(fig)
    assert f"unknown: {reason}" in analysis_tables.cost_table(given_results["curves"])
    with pytest.raises(ValueError, match="axis: 'money'"):
        analysis_figures.sample_budget(given_results["curves"], "money")  # type: ignore[arg-type]


def test_known_seconds_are_drawn(given_results: dict[str, Any]) -> None:
    budget = given_results["curves"]["sample_budget"]
    budget["unknown_seconds"] = ""
    for row in [*budget["curves"].values(), budget["singles"]]:
        for i, point in enumerate(row, 1):
            point["cost"]["seconds"] = 0.01 * i
    fig = analysis_figures.sample_budget(given_results["curves"], "seconds")
    assert fig.layout.xaxis.type == "log"
    np.testing.assert_allclose(traces(fig, "lines+markers")[0].x, [0.01, 0.02, 0.03, 0.04])
    assert "0.04" in analysis_tables.cost_table(given_results["curves"])


def test_a_band_holds_its_curve(results: dict[str, Any]) -> None:
    fig = analysis_figures.sample_budget(results["curves"])
    bands = [trace for trace in fig.data if trace.fill == "toself"]
    points = results["curves"]["sample_budget"]["curves"].values()
    for band, curve in zip(bands, points, strict=True):
        high, low = np.split(np.array(band.y, dtype=float), 2)
        np.testing.assert_array_equal(high, [p["auroc"]["high"] for p in curve])
        np.testing.assert_array_equal(low[::-1], [p["auroc"]["low"] for p in curve])


# --- labels, threshold, risk ---------------------------------------------------------------------


def test_a_probe_without_a_curve_says_why_beside_the_other(results: dict[str, Any]) -> None:
    fig = analysis_figures.label_efficiency(results["curves"])
    probe = results["curves"]["label_efficiency"]["high_semantic_entropy"]
    curve = traces(fig, "lines+markers")[0]
    assert list(curve.x) == [p["n_train"] for p in probe["points"]]
    full = traces(fig, "markers")[0]
    assert full.y[0] == probe["full"]["value"]
    assert full.error_y.array[0] == pytest.approx(probe["full"]["high"] - probe["full"]["value"])
    assert any("only one class" in (trace.name or "") for trace in fig.data)


def test_the_own_threshold_is_marked_and_a_gap_is_said(given_results: dict[str, Any]) -> None:
    found = given_results["curves"]["threshold_sensitivity"]
    chosen = next(p for p in found["points"] if "chosen" in p["threshold"]["names"])
    fig = analysis_figures.threshold_sensitivity(given_results["curves"])
    assert fig.layout.shapes[-1].x0 == chosen["threshold"]["value"]
    assert len(fig.data[0].x) == len(found["points"])
    hover = fig.data[0].customdata[found["points"].index(chosen)]
    assert f"{chosen['high_test']:.0%} of test" in hover
    gone = next(p for p in found["points"] if p is not chosen)
    gone["auroc"] |= {"value": None, "low": None, "high": None, "undefined": "one class"}
    again = analysis_figures.threshold_sensitivity(given_results["curves"])
    assert len(again.data[0].x) == len(found["points"]) - 1
    value = gone["threshold"]["value"]
    assert f"γ = {value:.3g} is undefined: one class" in again.layout.title.text


def test_a_long_risk_curve_is_thinned_to_its_ends(given_results: dict[str, Any]) -> None:
    n = 9_000
    line = np.linspace(0, 1, n).tolist()
    curve = given_results["curves"]["selective"]["curves"]["wrong_answer"]
    curve |= {"coverage": line, "risk": line, "risk_low": line, "risk_high": None}
    fig = analysis_figures.risk_coverage(given_results["curves"], ["wrong_answer", "no such"])
    drawn = traces(fig, "lines")[0]
    assert len(drawn.x) == analysis_figures.MOST_POINTS
    assert (drawn.x[0], drawn.x[-1], drawn.y[-1]) == (0, 1, 1)
    area = given_results["curves"]["selective"]["scores"]["wrong_answer"]["aurc"]["value"]
    assert f"AURC {area:.3f}" in drawn.name


# --- rows of intervals ---------------------------------------------------------------------------


def test_promises_kept_broken_and_refused_each_have_their_row(
    given_results: dict[str, Any],
) -> None:
    share, error = Score("share", 0.5, 0.4, 0.6, None, 30), Score("error", 0.3, 0.1, 0.5, 0.01, 15)
    made = Promise(0.2, 0.95, 0.4, False, 30, 20, 1, 0.19, 14)
    entry = {"promise": vars(made), "share": vars(share), "error": vars(error), "held": False}
    refused = {**entry, "share": None, "error": None, "held": None}
    refused["promise"] = vars(replace(made, undefined="no threshold can promise this"))
    given_results["curves"]["policies"] = {
        "semantic_entropy": {"promises": [entry]},
        "wrong_answer": {"promises": [{**entry, "held": True}]},
        "wrong_answer_prompt": {"promises": [refused]},
    }
    fig = analysis_figures.abstention(given_results["curves"])
    assert "no threshold: 1 of the 20 most certain is wrong; it takes 14 without" in words(fig)
    assert "at most 20 % of the answers wrong" in words(fig)
    dots = {(d.xaxis, d.marker.symbol[0]): list(zip(d.x, d.y, strict=True))
            for d in traces(fig, "markers")}  # fmt: skip
    assert dots == {
        ("x", "x"): [(0.5, 1)], ("x2", "x"): [(0.3, 1)],
        ("x", "circle"): [(0.5, 2)], ("x2", "circle"): [(0.3, 2)],
    }  # fmt: skip
    dashed = [t for t in fig.data if t.line.dash == "dash"]
    assert [(t.xaxis, set(t.x) - {None}) for t in dashed] == [("x2", {0.2})]


def test_a_refusal_that_all_share_is_said_once(given_results: dict[str, Any]) -> None:
    made = Promise(0.05, 0.95, None, False, 8, 0, 0, None, 59, "it takes 59")
    entry = {"promise": vars(made), "share": None, "error": None, "held": None}
    given_results["curves"]["policies"] = {
        name: {"promises": [entry]} for name in analysis_figures.FEW
    }
    fig = analysis_figures.abstention(given_results["curves"])
    assert words(fig).count("no threshold among 8 questions: it takes 59 without an error") == 1
    assert list(fig.layout.yaxis.ticktext) == ["", "every measure"]
    assert not fig.data


def test_every_rule_has_a_row_with_its_scores_or_a_reason(results: dict[str, Any]) -> None:
    rules = results["audit"]["rules"]
    fig = analysis_figures.cluster_audit(results["audit"])
    assert list(fig.layout.yaxis.ticktext) == [rule["name"] for rule in rules]
    changed, area = traces(fig, "markers")
    scored = [(y, rule) for y, rule in enumerate(rules) if not rule["missing"]]
    assert 0 < len(scored) < len(rules)
    assert list(changed.y) == list(area.y) == [y for y, _ in scored]
    assert list(changed.x) == [rule["changed"]["value"] for _, rule in scored]
    assert list(area.x) == [rule["auroc"]["value"] for _, rule in scored]
    for rule in rules:
        assert rule["missing"] in words(fig)


@given(
    st.floats(-1e3, 1e3, allow_nan=False),
    st.floats(1e-3, 1e3),
    st.integers(min_value=2, max_value=9),
)
def test_ticks_are_few_even_and_inside(low: float, length: float, most: int) -> None:
    ticks = tick_values(low, low + length, most)
    assert len(ticks) <= most
    slack = 1e-6 * length
    assert all(low - slack <= tick <= low + length + slack for tick in ticks)
    assert len(ticks) > most / 3 - 1
    np.testing.assert_allclose(np.diff(ticks, n=2), 0, atol=1e-6 * length)


# --- in words ------------------------------------------------------------------------------------


def undefined(results: dict[str, Any]) -> dict[str, Any]:
    """The same results where nothing could be computed."""
    curves = results["curves"]
    for part in ("sample_budget", "threshold_sensitivity", "selective"):
        curves[part]["undefined"] = "no answer is graded"
    curves["selective"]["curves"], curves["policies"] = {}, {}
    for probe in curves["label_efficiency"].values():
        probe["undefined"] = "no answer is graded"
    results["audit"]["rules"] = []
    return results


@pytest.mark.parametrize("name", FIGURES)
def test_what_is_undefined_says_so_in_words(name: str, given_results: dict[str, Any]) -> None:
    analysis, draw = FIGURES[name]
    fig = draw(undefined(given_results)[analysis])
    said = words(fig)
    assert any(part in said for part in ("no answer is graded", "nothing to show", "No measure of"))
    assert not fig.data


def test_an_undefined_score_keeps_its_row_in_its_panel(given_results: dict[str, Any]) -> None:
    rule = given_results["audit"]["rules"][-1]
    rule["auroc"] |= {"value": None, "low": None, "high": None, "undefined": "one class"}
    fig = analysis_figures.cluster_audit(given_results["audit"])
    changed, area = traces(fig, "markers")
    assert set(changed.y) - set(area.y) == {len(given_results["audit"]["rules"]) - 1}
    note = next(n for n in fig.layout.annotations if "one class" in n.text)
    assert note.x > 0.5


def test_every_test_score_is_on_the_map() -> None:
    score = np.array([[0.5, 0.6], [0.7, 0.8]])
    found = DisplayMap("AUROC", ("tbg", ATTACK), (0, 1), score, 40)
    fig = analysis_figures.map_on_test(found, "wrong_answer", ("tbg", 1))
    np.testing.assert_array_equal(np.array(fig.data[0].z, dtype=float), score)
    title = fig.layout.title.text
    assert title.startswith("Wrong answer: AUROC on test by layer and position<br>")
    assert "chosen on validation, tbg at layer 1" in title
    chosen: Any = {"wrong_answer": SimpleNamespace(best_position="tbg", best_layer=1)}
    (same,) = analysis_figures.maps_on_test({"wrong_answer": found}, chosen)
    assert same == fig
    none = analysis_figures.map_on_test(replace(found, score=None, undefined="one class"))
    assert "Undefined: one class" in words(none)


# --- tables --------------------------------------------------------------------------------------


def test_sentences_of_the_audit_tell_its_numbers(given_results: dict[str, Any]) -> None:
    found = given_results["audit"]
    row = found["intransitivity"][0]
    row |= {"relation": "first", "paths": 1234}
    row["triples"] |= {"value": 0.004, "low": 0.001, "high": 0.008}
    found["intransitivity"][1] |= {"relation": "second", "paths": 0}
    text = analysis_tables.audit_words(found)
    assert "0.40\u00a0% [0.10, 0.80] of 1,234 triples under “first”" in text
    assert "nowhere under “second”" in text
    agreement = 100 * found["final_answers"]["agreement"]["value"]
    assert f"agrees on {agreement:.1f}\u00a0%" in text
    found["intransitivity"], found["final_answers"], found["notes"] = [], None, ["no verdicts"]
    assert analysis_tables.audit_words(found).count("<p") == 1


def test_cells_say_what_they_can() -> None:
    none = Score("auroc", 0.1, None, None, None, 9, note="undefined in 8% of 2000 resamples")
    zero = Score("auroc", 0.0, 0.0, 0.0, 1.0, 9)
    gone = Score("auroc", None, None, None, None, 9, "one class")
    assert [html.change(s) for s in (none, zero, gone, None)] == [
        "+0.100 (no interval)", "0", "undefined", "",
    ]  # fmt: skip
    assert html.change(replace(zero, high=0.01)) == "+0.000 [+0.000, +0.010]"
    assert html.percent(replace(zero, value=0.25, low=0.2, high=0.31)) == (
        "25.0\u00a0% [20.0, 31.0]"
    )
    assert html.reasons_of([none, zero, gone, gone]).endswith(
        "interval: undefined in 8% of 2000 resamples; one class."
    )


def test_drawing_needs_no_heavy_install(root: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, helpers.studies.semantic_entropy.analyses.figures, "
        "helpers.studies.semantic_entropy.analyses.tables; "
        "print({'torch', 'transformers', 'sklearn', 'nnsight'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
