"""Estimators on matrices over the answers: other packages' numbers, closed forms, degenerate input.

The recorded numbers were printed by the named package's own code for the very input written here.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import eigh, expm

from helpers.uncertainty.entropies import (
    degree,
    eccentricity,
    eigenscore,
    eigv,
    kernel_language_entropy,
    noncontradiction,
)

GRAPH_ESTIMATORS = (eigv, degree, eccentricity, kernel_language_entropy)
LABELS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
FOUR_ANSWERS = np.array(
    [
        [(0.00, 0.00, 1.00), (0.02, 0.08, 0.90), (0.70, 0.20, 0.10), (0.30, 0.60, 0.10)],
        [(0.01, 0.29, 0.70), (0.00, 0.00, 1.00), (0.60, 0.30, 0.10), (0.25, 0.55, 0.20)],
        [(0.80, 0.15, 0.05), (0.75, 0.20, 0.05), (0.00, 0.00, 1.00), (0.05, 0.35, 0.60)],
        [(0.10, 0.85, 0.05), (0.20, 0.70, 0.10), (0.10, 0.50, 0.40), (0.00, 0.00, 1.00)],
    ]
)


def blocks(ids: list[int]) -> np.ndarray:
    """Judgements of answers that entail their like and contradict all others, [N, N, 3]."""
    same = np.equal.outer(ids, ids)
    return np.where(same[..., None], LABELS[2], LABELS[0])


@st.composite
def judgements(draw: st.DrawFn) -> np.ndarray:
    """Any probabilities of three labels between one to eight answers, sure ones among them."""
    n = draw(st.integers(1, 8))
    sure = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if sure:
        return np.array(LABELS)[rng.integers(0, 3, (n, n))]
    return rng.dirichlet([0.3, 0.3, 0.3], (n, n)).astype(np.float32)


def test_graph_estimators_are_those_of_lm_polygraph():
    # lm-polygraph 0.7.0: EigValLaplacian, DegMat, Eccentricity (NLI_score, entail), and
    # KernelLanguageEntropy, which divides by ln N.
    assert eigv(FOUR_ANSWERS) == pytest.approx(2.192418424302483, abs=1e-11)
    assert degree(FOUR_ANSWERS) == pytest.approx(0.540625, abs=1e-11)
    assert eccentricity(FOUR_ANSWERS) == pytest.approx(1.4142331724614936, abs=1e-11)
    entropy = kernel_language_entropy(FOUR_ANSWERS)
    assert entropy / math.log(4) == pytest.approx(0.8759904904754178, abs=1e-11)


def test_eigenscore_is_that_of_lm_polygraph():
    states = np.array([[1.0, 2, 3, 4], [2, 1, 0, 1], [1, 2, 3, 5]])  # [N, width]
    centring = np.eye(4) - 1 / 4
    # lm-polygraph 0.7.0: EigenScore.
    assert eigenscore(states @ centring @ states.T) == pytest.approx(-1.2874943582612661, abs=1e-11)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_separate_meanings_are_counted_and_lie_apart(ids):
    sizes = np.unique(ids, return_counts=True)[1]
    assert eigv(blocks(ids)) == pytest.approx(len(sizes), abs=1e-11)
    assert degree(blocks(ids)) == pytest.approx(1 - (sizes**2).sum() / len(ids) ** 2, abs=1e-11)
    # k orthonormal indicators of the blocks; centred, all that the constant direction had is gone.
    assert eccentricity(blocks(ids)) == pytest.approx(math.sqrt(len(sizes) - 1), abs=1e-11)


@given(st.floats(0, 1), st.floats(0, 1))
def test_kernel_entropy_of_two_answers_has_a_closed_form(entailed, neutral):
    e, n = entailed, (1 - entailed) * neutral
    judged = blocks([0, 1])
    judged[0, 1] = judged[1, 0] = (1 - e - n, n, e)
    # The kernel's eigenvalues are 1 and exp(−2wt); scaled to trace 1 they are (1 ± tanh wt)/2.
    reach = math.tanh(0.3 * 2 * (e + n / 2))
    shares = [share for share in ((1 + reach) / 2, (1 - reach) / 2) if share > 0]
    expected = -sum(share * math.log(share) for share in shares)
    assert kernel_language_entropy(judged) == pytest.approx(expected, abs=1e-9)


@given(judgements())
def test_spectral_estimators_are_those_of_the_generalised_eigenproblem(judged):
    weights = (judged[..., 2] + judged[..., 2].T).astype(float) / 2
    np.fill_diagonal(weights, 1.0)
    degrees = weights.sum(axis=1)
    # (D − W) x = λ D x has the eigenvalues of the normalised Laplacian, and v = √D x its vectors.
    values, x = eigh(np.diag(degrees) - weights, np.diag(degrees))
    assert eigv(judged) == pytest.approx(np.maximum(0, 1 - values).sum(), abs=1e-5)
    kept = (np.sqrt(degrees)[:, None] * x)[:, values < 0.9]
    if np.abs(values - 0.9).min() > 1e-5:
        expected = np.linalg.norm(kept - kept.mean(axis=0))
        assert eccentricity(judged) ** 2 == pytest.approx(expected**2, abs=1e-5)


@given(judgements())
def test_kernel_is_the_matrix_exponential(judged):
    n = len(judged)
    close = judged[..., 2] + judged[..., 1] / 2
    weights = (close + close.T).astype(float)
    kernel = expm(-0.3 * (np.diag(weights.sum(axis=0)) - weights))
    density = kernel / np.sqrt(np.outer(np.diag(kernel), np.diag(kernel))) / n
    shares = np.linalg.eigvalsh(density)
    expected = -sum(x * math.log(x) for x in shares if x > 1e-13)
    assert kernel_language_entropy(judged) == pytest.approx(expected, abs=1e-6)


@given(judgements(), st.randoms())
def test_values_are_plain_numbers_in_range_and_blind_to_the_order_of_answers(judged, random):
    n = len(judged)
    order = random.sample(range(n), n)
    highest = {
        eigv: n,
        degree: 1 - 1 / n,
        eccentricity: math.sqrt(n - 1),
        kernel_language_entropy: math.log(n),
    }
    for estimator in GRAPH_ESTIMATORS:
        value = estimator(judged)
        assert (1 if estimator is eigv else 0) - 1e-11 <= value <= highest[estimator] + 1e-6
        assert math.copysign(1, value) == 1
        assert estimator(judged[np.ix_(order, order)]) == pytest.approx(value, abs=1e-9)


def test_equal_graphs_are_tied_to_the_last_bit():
    rng = np.random.default_rng(0)
    ids = [0, 0, 0, 1, 1, 2, 0, 1, 0, 3]
    judged = np.where(np.equal.outer(ids, ids)[..., None], (0.01, 0.02, 0.97), (0.9, 0.07, 0.03))
    for estimator in GRAPH_ESTIMATORS:
        orders = [rng.permutation(10) for _ in range(20)]
        assert len({estimator(judged[np.ix_(order, order)]) for order in orders}) == 1


def test_one_answer_and_answers_all_alike_are_certain():
    for estimator, certain in ((eigv, 1), (degree, 0), (eccentricity, 0)):
        assert estimator(blocks([0])) == certain
        assert estimator(blocks([0] * 10)) == certain
    assert kernel_language_entropy(blocks([0])) == 0
    # Heat spreads for a time only: alike is near to certain, and nearer the more answers agree.
    assert 0 < kernel_language_entropy(blocks([0] * 10)) < 0.2 < math.log(10)
    # Of so many, eigenvalues of the kernel are below what rounding leaves of them.
    assert kernel_language_entropy(blocks([0] * 100)) == 0
    assert kernel_language_entropy(blocks(list(range(10)))) == pytest.approx(math.log(10))


def test_an_answer_entails_itself_whatever_the_judge_says():
    nothing = np.broadcast_to(LABELS[0], (3, 3, 3))
    assert eigv(nothing) == 3
    assert degree(nothing) == pytest.approx(2 / 3)
    assert eccentricity(nothing) == pytest.approx(math.sqrt(2))
    assert kernel_language_entropy(nothing) == pytest.approx(math.log(3))


def test_rounding_of_a_judge_is_put_right():
    below = np.broadcast_to((-5e-4, 5e-4, 1.0), (2, 2, 3))
    assert noncontradiction(below) == 0
    for estimator in GRAPH_ESTIMATORS:
        assert estimator(FOUR_ANSWERS * 1.001) == pytest.approx(estimator(FOUR_ANSWERS), abs=1e-11)


def test_eigenscore_by_hand():
    alpha = 1e-3
    apart = np.diag([4.0, 9.0])
    expected = (math.log(4 + alpha) + math.log(9 + alpha)) / 2
    assert eigenscore(apart) == pytest.approx(expected, abs=1e-11)
    # One state three times: one eigenvalue 3 · 2, and two that are 0 but for rounding.
    alike = np.full((3, 3), 2.0)
    expected = (math.log(6 + alpha) + 2 * math.log(alpha)) / 3
    assert eigenscore(alike) == pytest.approx(expected, abs=1e-11)
    assert eigenscore(np.zeros((2, 2))) == pytest.approx(math.log(alpha), abs=1e-11)
    assert eigenscore([[4.0]]) == pytest.approx(math.log(4 + alpha), abs=1e-11)
    # States of very different size: rounding of the largest must not drown α.
    states = np.random.default_rng(0).normal(size=(4, 50)) * 1e4
    rows = [0, 0, 1, 1, 2, 3]
    value = eigenscore(states[rows] @ states[rows].T)
    largest = np.linalg.eigvalsh(states[rows].T @ states[rows])[-4:]
    expected = (np.log(largest + alpha).sum() + 2 * math.log(alpha)) / 6
    assert value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: eigv(np.zeros((0, 0, 3))), r"shape \(0, 0, 3\), expected \[N, N, 3\]"),
        (lambda: degree(FOUR_ANSWERS[:3]), r"expected \[N, N, 3\]"),
        (lambda: eccentricity(FOUR_ANSWERS[..., 2]), r"expected \[N, N, 3\]"),
        (lambda: eigv(np.full((2, 2, 3), np.nan)), "not probabilities of three labels"),
        (lambda: kernel_language_entropy(np.log(FOUR_ANSWERS + 1e-9)), "not probabilities"),
        (lambda: degree(FOUR_ANSWERS * 2), "not probabilities"),
        (lambda: eigenscore(np.ones((2, 3))), r"shape \(2, 3\), expected \[N, N\]"),
        (lambda: eigenscore(np.full((2, 2), np.inf)), "not all entries are finite"),
        (lambda: eigenscore([[1.0, 0.5], [0.2, 1.0]]), "not symmetric"),
        (lambda: eigenscore([[1.0, 2.0], [2.0, 1.0]]), "eigenvalue -1, so it is no Gram matrix"),
    ],
)
def test_malformed_matrices_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
