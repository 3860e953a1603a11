"""Answering only where certain: areas, accuracies and bands against all orders of tied rows."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.evaluation.metrics import accuracy_at_coverage, aurc, auroc, e_aurc, mean_auroc
from helpers.evaluation.resampling import resamples
from helpers.evaluation.scores import paired_difference, risk_coverage, score_metric


@st.composite
def few_rows(draw):
    """Up to six scores with many ties, and 0/1 errors."""
    n = draw(st.integers(2, 6))
    rows = st.lists(st.integers(0, 2), min_size=n, max_size=n)
    wrong = st.lists(st.integers(0, 1), min_size=n, max_size=n)
    return np.array(draw(rows), dtype=float), np.array(draw(wrong), dtype=float)


def errors_in_every_order(scores: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Errors among the first 1 … n rows, [orders, n], in each order that the scores allow."""
    orders = [p for p in permutations(range(len(scores))) if (np.diff(scores[list(p)]) >= 0).all()]
    return np.array([np.cumsum(wrong[list(order)]) for order in orders])


@given(few_rows())
def test_tied_rows_count_as_the_mean_of_all_their_orders(data):
    scores, wrong = data
    n = len(scores)
    risks = errors_in_every_order(scores, wrong).mean(axis=0) / np.arange(1, n + 1)
    assert aurc(scores, wrong).value() == pytest.approx(risks.mean(), abs=1e-12)
    np.testing.assert_allclose(risk_coverage(scores, wrong).risk, risks, atol=1e-12)
    for coverage in (0.3, 0.8, 1.0):
        answered = next(k for k in range(1, n + 1) if k >= coverage * n - 1e-9)
        found = accuracy_at_coverage(coverage)(scores, wrong).value()
        assert found == pytest.approx(1 - risks[answered - 1], abs=1e-12)
    best = (np.cumsum(np.sort(wrong)) / np.arange(1, n + 1)).mean()
    assert e_aurc(scores, wrong).value() == pytest.approx(risks.mean() - best, abs=1e-12)


def test_excess_area_is_nothing_for_the_perfect_order_and_a_coverage_counts_whole_rows():
    wrong = (np.arange(240) >= 148) * 1.0
    assert e_aurc(wrong, wrong).value() == pytest.approx(0, abs=1e-12)
    assert accuracy_at_coverage(0.5)(wrong, wrong).value() == 1
    assert accuracy_at_coverage(0.8)(wrong, wrong).value() == pytest.approx(148 / 192)
    # 0.55 * 100 is a little more than 55 in floating point.
    last = (np.arange(100) >= 55) * 1.0
    assert accuracy_at_coverage(0.55)(np.arange(100.0), last).value() == 1
    assert accuracy_at_coverage(0.95)(wrong[:37], wrong[-37:]).value() == 0


def test_shuffled_errors_give_the_p_value_of_a_score_that_knows_nothing_or_much():
    rng = np.random.default_rng(0)
    wrong = (rng.random(120) < 0.4) * 1.0
    for bind in (aurc, e_aurc, accuracy_at_coverage(0.8)):
        assert score_metric(bind(2 * wrong + rng.normal(size=120), wrong), 10, 500).p_value < 0.01
        assert score_metric(bind(-wrong, wrong), 10, 500).p_value == 1
        assert score_metric(bind(rng.random(120), wrong), 10, 500).p_value > 0.02


def test_a_difference_of_areas_is_paired_and_signed():
    rng = np.random.default_rng(1)
    wrong = (rng.random(150) < 0.4) * 1.0
    good, bad = wrong + rng.normal(size=150), wrong + 4 * rng.normal(size=150)
    area = paired_difference(good, bad, wrong, "aurc", n_boot=300)
    assert area.high < 0
    assert area.value == pytest.approx(aurc(good, wrong).value() - aurc(bad, wrong).value())
    assert paired_difference(good, bad, wrong, "accuracy_at_80", n_boot=300).value > 0


def test_the_band_is_the_middle_of_the_curves_of_repeated_rows():
    rng = np.random.default_rng(2)
    scores = np.round(rng.random(30), 1)
    wrong = (rng.random(30) < scores) * 1.0
    curve = risk_coverage(scores, wrong, n_boot=200, seed=4)
    (weights,) = resamples(30, 200, seed=4)
    drawn = [np.repeat(np.arange(30), row) for row in weights.astype(int)]
    looped = [risk_coverage(scores[rows], wrong[rows]).risk for rows in drawn]
    low, high = np.quantile(looped, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(curve.risk_low, low, atol=1e-12)
    np.testing.assert_allclose(curve.risk_high, high, atol=1e-12)
    assert risk_coverage(scores, wrong).risk_low is None


def test_the_mean_auroc_is_the_mean_of_the_columns_in_every_resample():
    rng = np.random.default_rng(3)
    labels = (rng.random(25) < 0.4) * 1.0
    columns = np.round(rng.normal(size=(25, 7)) + labels[:, None], 1)
    (weights,) = resamples(25, 50, seed=0)
    one_by_one = np.mean([auroc(column, labels).weighted(weights) for column in columns.T], axis=0)
    np.testing.assert_allclose(mean_auroc(columns, labels).weighted(weights), one_by_one)
    assert mean_auroc(columns[:, 0], labels).value() == auroc(columns[:, 0], labels).value()
    assert mean_auroc(columns, np.ones(25)).undefined == "only one class (25 of 25 positive)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy_at_coverage(0), "coverage 0: expected above 0"),
        (lambda: accuracy_at_coverage(1.2), r"coverage 1\.2"),
        (lambda: aurc(np.array([0.1, np.nan]), np.zeros(2)), "scores: row 1 is nan"),
        (lambda: e_aurc(np.zeros(2), np.array([0, 2])), "wrong: row 1 is 2"),
        (lambda: aurc(np.zeros(2), np.zeros(3)), "2 predictions for 3 labels"),
        (lambda: mean_auroc(np.zeros((3, 2)), np.zeros(2)), "3 predictions for 2 labels"),
        (lambda: mean_auroc(np.array([[0, 1], [np.nan, 0]]), np.arange(2)), "row 1 is nan"),
    ],
)
def test_malformed_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
