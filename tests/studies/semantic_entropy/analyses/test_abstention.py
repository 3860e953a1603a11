"""Thresholds with a promise: that it holds as often as it says, and that a naive one does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from helpers.studies.semantic_entropy.analyses.abstention import (
    assess_promise,
    assess_selection,
    clopper_pearson,
    error_free_questions,
    promise,
    select_on_average,
    upper_bound,
)

Numbers = Callable[[np.ndarray], np.ndarray]


def naive_threshold(scores: np.ndarray, wrong: np.ndarray, max_error: float) -> float:
    """The largest threshold whose observed error is small enough."""
    order = np.argsort(scores)
    observed = np.cumsum(wrong[order]) / np.arange(1, len(scores) + 1)
    good = np.flatnonzero(observed <= max_error)
    if not good.size:
        return -np.inf
    return np.inf if good[-1] + 1 == len(scores) else scores[order[good[-1] + 1]]


def true_error(error_rate: Numbers, grid: np.ndarray) -> Callable[[float], float]:
    """The error among all questions below a threshold; scores are drawn evenly from the grid."""
    cumulated = np.cumsum(error_rate(grid)) / np.arange(1, len(grid) + 1)

    def below(threshold: float) -> float:
        count = int(np.searchsorted(grid, threshold))  # strictly below
        return float(cumulated[count - 1]) if count else 0.0

    return below


FINE = np.linspace(0, 1, 20_001)[1:]
WORLDS: dict[str, tuple[Numbers, np.ndarray, float]] = {
    "errors grow with the score": (lambda s: s, FINE, 0.2),
    "a useless score, a little too wrong": (lambda s: np.full(len(s), 0.1001), FINE, 0.1),
    "errors come, go and come again": (
        lambda s: np.select([s < 0.3, s < 0.4, s < 0.7], [0.02, 0.5, 0.02], 0.6), FINE, 0.1,
    ),
    "few different scores": (lambda s: np.array([0.03, 0.18, 0.3, 0.6])[s.astype(int)],
                             np.arange(4.0), 0.1),
}  # fmt: skip


@pytest.mark.parametrize("name", WORLDS)
def test_the_promise_is_broken_at_most_as_often_as_it_says_and_the_naive_one_more(name):
    error_rate, grid, max_error = WORLDS[name]
    truth = true_error(error_rate, grid)
    rng = np.random.default_rng(0)
    draws, broken, naive_broken, promised = 1500, 0, 0, 0
    for _ in range(draws):
        scores = rng.choice(grid, 150)
        wrong = (rng.random(150) < error_rate(scores)) * 1
        made = promise(scores, wrong, max_error)
        threshold = np.inf if made.answers_all else made.threshold
        promised += not made.undefined
        broken += not made.undefined and truth(threshold) > max_error
        naive_broken += truth(naive_threshold(scores, wrong, max_error)) > max_error
    # Three standard deviations of luck above 5 %.
    assert broken / draws <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / draws)
    assert naive_broken / draws > 0.25
    if name == "a useless score, a little too wrong":
        assert broken / draws > 0.03  # the bound is tight: nothing is given away
    else:
        assert promised / draws > 0.3


def test_the_selection_keeps_its_error_on_average():
    rng = np.random.default_rng(1)
    shares, answered = [], []
    for _ in range(600):
        scores, new = rng.random(100), rng.random(80)
        chosen = select_on_average(scores, rng.random(100) < scores, new, 0.2)
        wrong = rng.random(80) < new
        shares.append(wrong[chosen].mean() if chosen.any() else 0.0)
        answered.append(chosen.mean())
    assert 0.1 < np.mean(shares) < 0.2 + 3 * np.std(shares) / np.sqrt(len(shares))
    assert np.mean(answered) > 0.2


def test_selection_equals_the_definition_question_by_question():
    rng = np.random.default_rng(2)
    known, wrong = np.round(rng.random(40), 1), (rng.random(40) < 0.4) * 1
    new = np.round(rng.random(30), 1)
    p = np.array([(1 + sum(wrong[known <= s])) / 41 for s in new])
    largest = max((v for v in p if v <= 0.3 * (p <= v).sum() / 30), default=-1)
    np.testing.assert_array_equal(select_on_average(known, wrong, new, 0.3), p <= largest)
    assert (p <= largest).any()
    assert not select_on_average(known, np.ones(40), new, 0.05).any()
    assert select_on_average(known, wrong, np.array([]), 0.05).shape == (0,)


# ---------------------------------------------------------------------- what is said and when


def test_too_few_questions_are_told_with_the_number_it_would_take():
    made = promise(np.arange(58.0), np.zeros(58), 0.05)
    assert made.undefined == (
        "no threshold can promise this with n = 58 questions: it takes 59 without an error"
    )
    assert (made.threshold, made.answered, made.upper_bound) == (None, 0, None)
    assert not made.answers(np.array([-1e9])).any()
    assert promise(np.arange(59.0), np.zeros(59), 0.05).answers_all
    assert promise(np.arange(70.0), np.zeros(70), 0.05).answered == 70
    assert promise(np.array([]), np.array([]), 0.05).needed == 59


def test_the_first_test_fails_in_words():
    wrong = np.zeros(100)
    wrong[3] = 1
    one = promise(np.arange(100.0), wrong, 0.1)
    assert "of the 29 most certain 1 is wrong, and it takes 29 without" in one.undefined
    wrong[20] = 1
    made = promise(np.arange(100.0), wrong, 0.1)
    assert "of the 29 most certain 2 are wrong, and it takes 29 without" in made.undefined
    assert (made.answered, made.wrong) == (29, 2)
    assert made.upper_bound > 0.1


def test_the_threshold_is_the_first_score_that_is_not_answered():
    wrong = np.zeros(100)
    wrong[40:] = 1
    made = promise(np.arange(100.0), wrong, 0.1)
    # 29 without an error pass, 46 with 6 do not.
    assert (made.threshold, made.answered, made.wrong, made.answers_all) == (29.0, 29, 0, False)
    assert made.answers(np.array([28.9, 29.0])).tolist() == [True, False]
    assert made.upper_bound == pytest.approx(1 - 0.05 ** (1 / 29))


def test_tied_questions_are_answered_together():
    scores = np.repeat([0.0, 1.0, 2.0], [20, 20, 60])
    wrong = np.zeros(100)
    wrong[50:] = 1
    made = promise(scores, wrong, 0.1)
    assert (made.answered, made.threshold) == (40, 2.0)
    shuffled = np.random.default_rng(0).permutation(100)
    assert promise(scores[shuffled], wrong[shuffled], 0.1) == made


def test_what_came_of_a_promise():
    wrong = np.zeros(100)
    wrong[40:] = 1
    made = promise(np.arange(100.0), wrong, 0.1)
    scores, labels = np.arange(50.0), np.zeros(50)
    labels[[0, 1, 2, 3, 40]] = 1
    seen = assess_promise(made, scores, labels)
    assert (seen.share.value, seen.share.n) == (29 / 50, 50)
    assert (seen.error.value, seen.error.n) == (4 / 29, 29)
    assert seen.held is False
    assert seen.error.p_value == pytest.approx(binom.sf(3, 29, 0.1))
    reference = binomtest(4, 29).proportion_ci(method="exact")
    assert (seen.error.low, seen.error.high) == pytest.approx((reference.low, reference.high))
    none = assess_promise(made, np.full(9, 77.0), np.zeros(9))
    assert (none.share.value, none.held) == (0, None)
    assert none.error.undefined == "no question is answered"
    unpromised = assess_promise(promise(scores, np.ones(50), 0.1), scores, labels)
    assert (unpromised.share, unpromised.error, unpromised.held) == (None, None, None)
    assert assess_selection(np.zeros(0, bool), np.zeros(0), 0.1).error.undefined == "no questions"


@given(st.integers(0, 40), st.integers(1, 40), st.sampled_from([0.01, 0.05, 0.2]))
def test_bounds_are_clopper_and_pearsons(errors, n, delta):
    errors = min(errors, n)
    exact = binomtest(errors, n, alternative="less").proportion_ci(1 - delta, method="exact")
    assert upper_bound(errors, n, delta) == pytest.approx(exact.high)
    both = binomtest(errors, n).proportion_ci(0.95, method="exact")
    assert clopper_pearson(errors, n) == pytest.approx((both.low, both.high))


@given(st.floats(0.01, 0.6), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_error_free_questions_are_the_fewest_that_do(max_error, confidence):
    n = error_free_questions(max_error, confidence)
    delta = 1 - confidence
    assert upper_bound(0, n, delta) <= max_error + 1e-9
    assert n == 1 or upper_bound(0, n - 1, delta) > max_error - 1e-9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: promise(np.zeros(3), np.zeros(3), 0.0), "max_error: 0, expected between"),
        (lambda: promise(np.zeros(3), np.zeros(3), 0.1, confidence=1), "confidence: 1, expected"),
        (lambda: promise(np.array([np.nan]), np.zeros(1), 0.1), "scores: row 0 is nan"),
        (lambda: promise(np.zeros(3), np.zeros(2), 0.1), "3 predictions for 2 labels"),
        (lambda: promise(np.zeros(2), np.array([0, np.nan]), 0.1), "wrong: row 1 is nan"),
    ],
)
def test_malformed_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
