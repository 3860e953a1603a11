"""Figures: serialisable, labelled, safe with anyone's text, and in words where undefined."""

from __future__ import annotations

import json
import math

import numpy as np
import plotly.io as pio
import pytest

from helpers.evaluation.scores import Score, reliability, roc_curve
from helpers.views import charts
from helpers.views.style import GREY
from support.figures import ATTACK, leaves, words

SCORE = Score("auroc", 0.912, 0.861, 0.951, 0.0005, 60)
UNDEFINED = Score("auroc", None, None, None, None, 60, "only one class (0 of 60 <b>wrong</b>)")
NO_INTERVAL = Score("auroc", 0.7, None, None, None, 60, note="undefined in 8% of 2000 resamples")

RNG = np.random.default_rng(0)
N = 60
ENTROPY = RNG.choice([0.0, 0.3251, 0.6931, 2.0], N)
LABELS = (ENTROPY > 0.5).astype(int)
OTHER = ENTROPY + RNG.random(N)
IDS = [f"q{row}" for row in range(N)]
QUESTIONS = [f"{row}: {ATTACK}" for row in range(N)]

DEFINED = {
    "histogram": lambda: charts.entropy_histogram([*ENTROPY, None, math.nan], 0.5, k=10),
    "lexical": lambda: charts.lexical_against_semantic(
        ENTROPY, OTHER, IDS, QUESTIONS, [ATTACK if label else "fine" for label in LABELS]
    ),
    "predicted": lambda: charts.predicted_against_true(
        [None, *ENTROPY[1:]], OTHER, {"rmse": SCORE, "spearman": UNDEFINED}, IDS, QUESTIONS
    ),
    "map": lambda: charts.layer_position_map(
        np.array([[0.5, 0.9, math.nan], [0.6, 0.7, 0.8]]), [ATTACK, "tbg"], [0, 1, 2], (ATTACK, 1)
    ),
    "roc": lambda: charts.roc_curves(
        {ATTACK: roc_curve(OTHER, LABELS)}, {ATTACK: SCORE, "length": UNDEFINED}
    ),
    "reliability": lambda: charts.reliability_diagram(
        reliability(OTHER / 4, LABELS), {"auroc": SCORE, "brier": SCORE, "ece": UNDEFINED}
    ),
    "intervals": lambda: charts.score_intervals(
        {"probe": SCORE, ATTACK: UNDEFINED, "length": NO_INTERVAL}
    ),
    "shuffled": lambda: charts.shuffled_labels_histogram(RNG.normal(0.5, 0.04, 20), 0.9),
}

NOTHING = np.array([])
UNDEFINED_INPUTS = {
    "histogram": (lambda: charts.entropy_histogram([None]), "No question"),
    "lexical": (lambda: charts.lexical_against_semantic([None], [1], ["a"], ["?"]), "No question"),
    "predicted": (lambda: charts.predicted_against_true([], [], {}, [], []), "No question"),
    "map": (lambda: charts.layer_position_map(np.full((1, 1), np.nan), ["tbg"], [0]), "No pos"),
    "roc": (lambda: charts.roc_curves({}, {"probe": UNDEFINED}), "probe is undefined: only one"),
    "reliability": (lambda: charts.reliability_diagram(reliability(NOTHING, NOTHING)), "no pred"),
    "intervals": (lambda: charts.score_intervals({}), "no score"),
    "one undefined": (lambda: charts.score_intervals({"p": UNDEFINED}), "undefined: only one"),
    "shuffled": (lambda: charts.shuffled_labels_histogram([], None), "No probe"),
}


@pytest.mark.parametrize("name", DEFINED)
def test_every_figure_is_labelled_finite_and_safe(name: str) -> None:
    fig = DEFINED[name]()
    layout = json.loads(fig.to_json())["layout"]
    assert layout["xaxis"]["title"]["text"]
    # The rows of the intervals are named one by one.
    assert name == "intervals" or layout["yaxis"]["title"]["text"]
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


@pytest.mark.parametrize("name", UNDEFINED_INPUTS)
def test_what_is_undefined_says_so_in_words(name: str) -> None:
    make, expected = UNDEFINED_INPUTS[name]
    fig = make()
    assert expected in words(fig)
    assert fig.layout.xaxis.title.text
    assert "NaN" not in fig.to_json()


def test_nothing_undefined_is_dropped() -> None:
    intervals = DEFINED["intervals"]()
    assert len(intervals.layout.yaxis.ticktext) == 3
    assert "0.912 [0.861, 0.951]" in words(intervals)
    assert "undefined: only one class (0 of 60 &lt;b&gt;wrong&lt;/b&gt;)" in words(intervals)
    assert list(intervals.data[0].marker.symbol) == ["circle", "circle-open"]
    names = [trace.name for trace in DEFINED["roc"]().data]
    assert any(name.startswith("length: undefined: only one class") for name in names)
    assert any(name.endswith("0.912 [0.861, 0.951]") for name in names)
    assert "2 of 62 have no value" in DEFINED["histogram"]().layout.title.text
    assert "Spearman undefined: only one class" in DEFINED["predicted"]().layout.title.text


def test_histogram_counts_every_question_and_those_above_the_threshold() -> None:
    fig = DEFINED["histogram"]()
    assert sum(fig.data[0].y) == N
    assert f"γ = 0.5: {LABELS.sum()} of {N} questions above" in words(fig)
    assert "ln 10 = 2.30" in fig.layout.xaxis.title.text


def test_tied_points_are_spread_alike_every_time_and_tell_their_true_values() -> None:
    tied = np.zeros(50)
    tied[0] = 1.0
    points, again = (
        charts.lexical_against_semantic(tied, tied, IDS[:50], QUESTIONS[:50]).data[-1]
        for _ in range(2)
    )
    assert len(set(zip(points.x, points.y, strict=True))) == 50
    assert np.abs(np.asarray(points.x) - tied).max() <= 0.02
    np.testing.assert_array_equal(points.x, again.x)
    assert [row[0] for row in points.customdata] == IDS[:50]
    assert [row[2] for row in points.customdata] == tied.tolist()


def test_the_chosen_cell_is_framed_and_layer_0_is_the_input() -> None:
    fig = DEFINED["map"]()
    frame = fig.layout.shapes[0]
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (0.5, 1.5, -0.5, 0.5)
    assert fig.layout.xaxis.ticktext[0] == "input"
    with pytest.raises(ValueError, match="best"):
        charts.layer_position_map(np.zeros((1, 1)), ["tbg"], [0], ("answer_last", 0))
    with pytest.raises(ValueError, match="2 positions"):
        charts.layer_position_map(np.zeros((1, 1)), ["tbg", "answer_last"], [0])


def test_twenty_thousand_long_questions_stay_small_and_are_drawn_by_webgl() -> None:
    n = 20_000
    values, ids = RNG.random(n), [f"question-{row}" for row in range(n)]
    fig = charts.lexical_against_semantic(values, values, ids, ["質問 & 答え " * 200] * n)
    assert fig.data[-1].type == "scattergl"
    assert len(fig.data[-1].x) == n
    assert len(fig.to_json()) < 8e6


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="rows"):
        charts.lexical_against_semantic([1.0, 2.0], [1.0, 2.0], ["a"], ["?"])
    with pytest.raises(ValueError, match="rows"):
        charts.lexical_against_semantic([1.0, 2.0], [1.0], ["a", "b"], ["?", "!"])


def test_style_has_no_background_and_leaves_plotly_as_it_was() -> None:
    layout = DEFINED["roc"]().layout.template.layout
    assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0, 0, 0, 0)"
    assert pio.templates.default == "plotly"
    for page in (255, 17):
        assert _contrast(int(GREY[1:3], 16), page) > 4.2


def _contrast(a: int, b: int) -> float:
    """WCAG contrast of two greys."""
    light = [((v / 255 + 0.055) / 1.055) ** 2.4 if v > 10 else v / 255 / 12.92 for v in (a, b)]
    return (max(light) + 0.05) / (min(light) + 0.05)
