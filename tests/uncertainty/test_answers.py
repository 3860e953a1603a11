"""Estimators of wording and of the most likely answer: by hand, naively, and by other packages.

The recorded numbers were printed by the named package's own code for the very input written here.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.uncertainty.entropies import (
    Answers,
    lexical_similarity,
    noncontradiction,
    p_false,
    perplexity,
    semantic_density,
    sequence_nll,
)
from helpers.uncertainty.estimators import ESTIMATORS, score_question

TEXTS = ("four", "five", "four", "4")
LIKELIHOODS = (0.5, 0.25, 0.5, 0.8)
GREEDY_FIRST = [(0.1, 0.2, 0.7), (0.8, 0.15, 0.05), (0.1, 0.2, 0.7), (0.0, 0.1, 0.9)]
SAMPLE_FIRST = [(0.3, 0.1, 0.6), (0.6, 0.3, 0.1), (0.3, 0.1, 0.6), (0.2, 0.2, 0.6)]
GREEDY_JUDGED = np.stack([GREEDY_FIRST, SAMPLE_FIRST], axis=1)  # [N, 2, 3]

WORDS = st.lists(st.sampled_from(["the", "cat", "4", "is", "not"]), max_size=9)


def test_lexical_similarity_by_hand_and_in_lm_polygraph():
    # Pairs: 2·4/(6 + 6), 2·1/(6 + 2), 2·1/(6 + 2); the first and the last have the same words.
    texts = ["The cat sat on the mat.", "the cat is on a mat", "a dog", "The cat sat on the mat"]
    pairs = [2 / 3, 0, 1, 2 / 8, 2 / 3, 0]
    assert lexical_similarity(texts) == pytest.approx(1 - sum(pairs) / 6, abs=1e-12)
    # lm-polygraph 0.7.0: LexicalSimilarity_rougeL, which is minus the similarity.
    assert lexical_similarity(texts) - 1 == pytest.approx(-0.4305555555555555, abs=1e-12)


def naive_similarity(texts: list[list[str]]) -> float:
    """Mean F1 of the longest common subsequences by the textbook table, every pair by itself."""
    scores = []
    for a, b in combinations(texts, 2):
        table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                step = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
                table[i + 1, j + 1] = step
        scores.append(1.0 if a == b else 2 * table[-1, -1] / (len(a) + len(b)))
    return 1 - float(np.mean(scores))


@given(st.lists(WORDS, min_size=2, max_size=7), st.randoms())
def test_lexical_similarity_is_the_naive_one_and_blind_to_order(words, random):
    texts = [" ".join(each) for each in words]
    value = lexical_similarity(texts)
    assert value == pytest.approx(naive_similarity(words), abs=1e-12)
    assert 0 <= value <= 1
    assert math.copysign(1, value) == 1
    assert lexical_similarity(random.sample(texts, len(texts))) == value


def test_texts_longer_than_a_machine_word_and_texts_without_words():
    first = [f"w{i}" for i in range(200)]
    second = first[:50] + first[100:]
    similarity = 2 * 150 / 350
    texts = [" ".join(first), " ".join(second)]
    assert lexical_similarity(texts) == pytest.approx(1 - similarity, abs=1e-12)
    assert lexical_similarity(["", "  ", "?!"]) == 0
    assert lexical_similarity(["", "four"]) == 1
    assert lexical_similarity(["ДВА", "два"]) == 0
    with pytest.raises(ValueError, match="1 answers make no pair"):
        lexical_similarity(["four"])


def test_likelihood_of_the_most_likely_answer():
    sum_logprob, mean_logprob = math.log(0.9 * 0.4), math.log(0.9 * 0.4) / 2
    # lm-polygraph 0.7.0: MaximumSequenceProbability, and Perplexity, which is the logarithm.
    assert sequence_nll(sum_logprob) == pytest.approx(1.0216512475319812, abs=1e-12)
    assert math.log(perplexity(mean_logprob)) == pytest.approx(0.5108256237659906, abs=1e-12)
    assert perplexity(mean_logprob) == pytest.approx(1 / 0.6, abs=1e-12)
    assert perplexity(0.0) == 1
    assert sequence_nll(0.0) == sequence_nll(1e-4) == 0
    assert math.copysign(1, sequence_nll(-0.0)) == 1
    assert math.isfinite(perplexity(-5000.0))


def test_agreement_with_the_samples_by_hand():
    logprobs = np.log(LIKELIHOODS)
    # four .5, five .25 and 4 .8; their distances from the most likely answer .2, .875 and .05.
    ours = semantic_density(TEXTS, logprobs, GREEDY_JUDGED)
    assert ours == pytest.approx((0.1 + 0.21875 + 0.04) / 1.55, abs=1e-12)
    # lm-polygraph 0.7.0: SemanticDensity, with the most likely answer (likelihood .6) counted.
    itself = np.concatenate([GREEDY_JUDGED, [[(0, 0, 1), (0, 0, 1)]]])
    with_itself = semantic_density((*TEXTS, "itself"), [*logprobs, math.log(0.6)], itself)
    assert with_itself - 1 == pytest.approx(-0.833139534883721, abs=1e-12)
    # uqlm 0.6.1: semantic_density, in which "four" counts twice.
    repeated = semantic_density(("four", "five", "four again", "4"), logprobs, GREEDY_JUDGED)
    assert 1 - repeated == pytest.approx(0.7762195121951221, abs=1e-12)
    # uqlm 0.6.1: noncontradiction.
    assert 1 - noncontradiction(GREEDY_JUDGED) == pytest.approx(0.7000000000000001, abs=1e-12)


@pytest.mark.parametrize(("label", "distance"), [(0, 1.0), (1, 0.5), (2, 0.0)])
def test_a_sure_judge_gives_the_kernel_s_corners(label, distance):
    judged = np.broadcast_to(np.eye(3)[label], (3, 2, 3))
    # Likelihoods this small underflow unless they are taken relative to each other.
    assert semantic_density(("a", "b", "c"), [-2000.0, -2001.0, -2002.0], judged) == distance
    assert noncontradiction(judged) == (1.0 if label == 0 else 0.0)


def test_p_true_becomes_the_probability_of_being_wrong():
    scores = score_question(Answers(("4",), p_true_zero_shot=0.25, p_true_few_shot=1.0))
    assert scores["p_true_zero_shot"] == 0.75
    assert scores["p_true_few_shot"] == 0
    assert p_false(1.0004) == 0  # half precision


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sequence_nll(math.nan), "nan, expected a number up to 0"),
        (lambda: perplexity(0.7), "0.7, expected a number up to 0"),
        (lambda: p_false(math.nan), "nan is not a probability"),
        (lambda: p_false(-0.7), "-0.7 is not a probability"),
        (lambda: noncontradiction(GREEDY_JUDGED[:, :1]), r"expected \[N, 2, 3\]"),
        (lambda: noncontradiction(np.zeros((0, 2, 3))), r"expected \[N, 2, 3\]"),
        (lambda: semantic_density(TEXTS[:3], LIKELIHOODS, GREEDY_JUDGED), "above zero"),
        (lambda: semantic_density(TEXTS[:3], [-1.0] * 3, GREEDY_JUDGED), "3 texts, 3 log"),
        (lambda: Answers(("a", "b"), judgements=np.zeros((2, 3, 3))), r"expected \(2, 2, 3\)"),
        (lambda: Answers(("a", "b"), greedy_judgements=np.zeros((3, 2, 3))), "greedy_judgements: "),
        (lambda: Answers(("a", "b"), gram=np.zeros(2)), r"gram: shape \(2,\), expected \(2, 2\)"),
    ],
)
def test_malformed_answers_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@given(st.integers(1, 6), st.integers(0, 2**32 - 1), st.booleans())
def test_every_estimator_gives_a_plain_number_for_any_question(n, seed, alike):
    rng = np.random.default_rng(seed)
    ids = [0] * n if alike else rng.integers(0, 3, n).tolist()
    same = np.equal.outer(ids, ids)
    judged = np.where(same[..., None], (0, 0, 1), rng.dirichlet([0.2] * 3, (n, n)))
    states = rng.normal(size=(3, 8))[ids]
    mean = -rng.exponential(size=3)[ids] * rng.integers(0, 2)
    lengths = np.array([1, 3, 7])[ids]
    answers = Answers(
        texts=tuple(("", "4", "four.")[i] for i in ids),
        clusters=tuple(ids),
        sum_logprobs=tuple(mean * lengths),
        mean_logprobs=tuple(mean),
        token_entropies=tuple(np.array([0.0, 0.5, 1.0])[ids]),
        greedy_text="",
        greedy_sum_logprob=0.0,
        greedy_mean_logprob=-0.0,
        judgements=judged.astype(np.float32),
        greedy_judgements=rng.dirichlet([0.2] * 3, (n, 2)),
        gram=states @ states.T,
        p_true_zero_shot=float(rng.random()),
        p_true_few_shot=1.0,
    )
    scores = score_question(answers)
    assert list(scores) == list(ESTIMATORS)
    assert {name for name, value in scores.items() if value is None} == (
        {"lexical_similarity"} if n == 1 else set()
    )
    for name, value in scores.items():
        if value is not None:
            assert type(value) is float, name
            assert math.isfinite(value), name
            assert value != 0 or math.copysign(1, value) == 1, name
            if name not in ("eigenscore", "semantic_entropy_kuhn"):
                assert value >= 0, name
