"""Our estimators against numbers that other packages gave for the same answers and verdicts.

tests/support.peer_questions.py ran the packages on seeded questions and recorded what they gave.
Where their formula is ours, our estimator gives their number; where it is not, what they do
differently is a function below, and our estimator on top of it gives their number.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest

from helpers.evaluation.metrics import accuracy_at_coverage, aurc
from helpers.meanings.clustering import (
    CONTRADICTION,
    ENTAILMENT,
    by_connection,
    by_founder,
    cluster_naive,
    either_entails,
    mutual_entailment,
    nothing_contradicts,
    verdicts,
)
from helpers.uncertainty.entropies import (
    n_meanings,
    predictive_entropy,
    predictive_entropy_normalised,
    semantic_entropy,
    semantic_entropy_cluster_mean,
    semantic_entropy_cmean,
    semantic_entropy_kuhn,
    semantic_entropy_rao,
)
from support.peer_questions import RECORDED, Question, make_curves, make_questions

SEP, NATURE, KUHN = "semantic-entropy-probes", "semantic_uncertainty", "kuhn"
POLYGRAPH, UQLM = "lm-polygraph", "uqlm"
SHIFT = 5.0
"""Kuhn et al.'s code, and its successors, subtract it from the log-likelihood of every cluster."""
Formula = Callable[[Question], float]


# --- what packages do differently: clusters ------------------------------------------------------


def ours(q: Question) -> list[int]:
    """An answer stays in the first cluster whose founder it matches; equal texts always match."""

    def same(a: str, b: str) -> bool:
        return q.judge(a, b).argmax() == q.judge(b, a).argmax() == ENTAILMENT

    return cluster_naive(q.texts[: q.k], same)


def judged(q: Question) -> list[int]:
    """As ours, but equal texts are judged too, and the judge may deny that they mean the same."""
    return by_founder(mutual_entailment(verdicts(q.sampled))[None])[0].tolist()


def stolen(q: Question) -> list[int]:
    """A later founder takes members of earlier clusters; equal texts are judged."""
    return by_founder(mutual_entailment(verdicts(q.sampled))[None], steal=True)[0].tolist()


def chained(q: Question) -> list[int]:
    """The last earlier text that a text does not contradict gives it its cluster.

    In order of appearance; the package's order is that of a Python set, another in every process.
    """
    distinct = list(dict.fromkeys(q.texts[: q.k]))
    at = [q.texts.index(text) for text in distinct]
    links = nothing_contradicts(verdicts(q.judgements))[np.ix_(at, at)]
    ids = list(range(len(distinct)))
    for i in range(len(distinct)):
        for j in np.flatnonzero(links[i, i + 1 :]) + i + 1:
            ids[j] = ids[i]
    return [ids[distinct.index(text)] for text in q.texts[: q.k]]


def connected(q: Question) -> list[int]:
    """Components of the answers that are nearer to entailment than to contradiction, both ways."""
    nearer = q.sampled[..., ENTAILMENT] > q.sampled[..., CONTRADICTION]
    return by_connection((nearer & nearer.T)[None])[0].tolist()


def overlapping(q: Question) -> list[list[int]]:
    """Clusters of the most likely answer and then the samples, which may be in several at once.

    An answer joins every cluster whose founder entails it or is entailed by it.
    """
    order = [q.k, *range(q.k)]
    links = either_entails(verdicts(q.judgements))[np.ix_(order, order)]
    clusters: list[list[int]] = []
    for i, text in enumerate(q.texts[at] for at in order):
        joined = [m for m in clusters if links[m[0], i] or q.texts[order[m[0]]] == text]
        for members in joined:
            members.append(i)
        if not joined:
            clusters.append([i])
    return clusters


# --- what packages do differently: entropies -----------------------------------------------------


def shifted(clusters: Callable[[Question], list[int]], values: Callable) -> Formula:
    """Semantic entropy as in Kuhn et al.'s paper, plus the 5 nats of their code."""
    return lambda q: semantic_entropy_kuhn(clusters(q), values(q)) + SHIFT


def class_entropy(q: Question, *, unique: bool = False, direct: bool = False) -> float:
    """Classes weigh the sum of their answers' probabilities, which is not normalised.

    A text that was sampled twice counts twice, unless `unique`: a class may pass 1, and the number
    fall below 0. The mean over samples of −ln p(class); if `direct`, the sum over samples of
    −p ln p, in which a class counts once a sample.
    """
    classes = np.array(judged(q))
    said = list(zip(classes, q.texts[: q.k], strict=True))
    counted = np.array([not unique or said.index(one) == i for i, one in enumerate(said)])
    values = total(q)
    mass = np.array([np.logaddexp.reduce(values[counted & (classes == c)]) for c in classes])
    return float(-(np.exp(mass) * mass).sum() if direct else -mass.mean())


def direct_frequencies(q: Question) -> float:
    """The discrete entropy, to which a class adds −p ln p once a sample: it may exceed ln C."""
    classes = np.array(judged(q))
    share = np.array([np.mean(classes == c) for c in classes])
    return float(-(share * np.log(share)).sum())


def pooled_entropy(q: Question, *, tokens: bool) -> float:
    """Entropy of overlapping clusters of all K + 1 answers, each counted where it is a member."""
    weights = np.exp(q.means())[[q.k, *range(q.k)]] if tokens else np.ones(q.k + 1)
    mass = np.array([weights[members].sum() for members in overlapping(q)])
    shares = mass / mass.sum()
    return float(abs((shares * np.log(shares)).sum()))


def pooled_confidence(q: Question, *, tokens: bool) -> float:
    """1 − H / ln(K + 1): the order of questions turned round, and nothing else."""
    return 1 - pooled_entropy(q, tokens=tokens) / np.log(q.k + 1)


def area_under_thresholded_accuracy(right: np.ndarray, uncertainty: np.ndarray) -> float:
    """20 accuracies at quantiles from 0.1 to 1, times their distance: 0.947 where all is right."""
    quantiles = np.linspace(0.1, 1, 20)
    at = [accuracy_at_quantile(right, uncertainty, quantile) for quantile in quantiles]
    return float(np.sum(at) * (quantiles[1] - quantiles[0]))


def accuracy_at_quantile(right: np.ndarray, uncertainty: np.ndarray, quantile: float) -> float:
    """Accuracy up to a quantile of the uncertainty, all ties at the cut included."""
    return float(np.mean(right[uncertainty <= np.quantile(uncertainty, quantile)]))


# --- every recorded number -----------------------------------------------------------------------


def mean(q: Question) -> np.ndarray:
    return q.means()[: q.k]


def total(q: Question) -> np.ndarray:
    """Of the whole answer: the shortest may outweigh all others."""
    return q.logprobs[: q.k]


def likelihood(entropy: Callable, clusters: Callable, values: Callable) -> Formula:
    return lambda q: entropy(clusters(q), values(q))


def discrete(clusters: Callable[[Question], list[int]]) -> Formula:
    return lambda q: semantic_entropy(clusters(q))


def count(clusters: Callable[[Question], list]) -> Formula:
    return lambda q: n_meanings([tuple(np.atleast_1d(c)) for c in clusters(q)])


def per_token(q: Question) -> float:
    return predictive_entropy_normalised(mean(q))


def whole(q: Question) -> float:
    return predictive_entropy(total(q))


FORMULAS: dict[str, dict[str, Formula]] = {
    SEP: {
        "cluster_assignment_entropy": discrete(stolen),
        "regular_entropy": per_token,
        "regular_entropy_sum": whole,
        **{
            f"semantic_entropy{tokens}{name}": formula
            for tokens, values in (("", mean), ("_sum", total))
            for name, formula in {
                "": shifted(stolen, values),
                "_sum-normalized": likelihood(semantic_entropy_cluster_mean, stolen, values),
                "_sum-normalized-rao": likelihood(semantic_entropy_rao, stolen, values),
                "_cmean": likelihood(semantic_entropy_cmean, stolen, values),
            }.items()
        },
    },
    NATURE: {
        "cluster_assignment_entropy": discrete(stolen),
        "semantic_entropy": likelihood(semantic_entropy_rao, stolen, mean),
        "regular_entropy": per_token,
    },
    KUHN: {
        "predictive_entropy_over_concepts": shifted(chained, mean),
        "unnormalised_entropy_over_concepts": shifted(chained, total),
        "number_of_semantic_sets": count(chained),
        "average_predictive_entropy": per_token,
        "predictive_entropy": whole,
    },
    POLYGRAPH: {
        "SemanticEntropy": class_entropy,
        "SemanticEntropyUnique": lambda q: class_entropy(q, unique=True),
        "SemanticEntropy (Direct)": lambda q: class_entropy(q, direct=True),
        "SemanticEntropyEmpirical": discrete(judged),
        "SemanticEntropyEmpirical (Direct)": direct_frequencies,
        "NumSemSets": count(connected),
        "MonteCarloSequenceEntropy": whole,
        "MonteCarloNormalizedSequenceEntropy": per_token,
    },
    UQLM: {
        "discrete_entropy_values": lambda q: pooled_entropy(q, tokens=False),
        "discrete_confidence_scores": lambda q: pooled_confidence(q, tokens=False),
        "num_semantic_sets": count(overlapping),
        "tokenprob_entropy_values": lambda q: pooled_entropy(q, tokens=True),
        "tokenprob_confidence_scores": lambda q: pooled_confidence(q, tokens=True),
    },
}
METRICS = {"area_under_thresholded_accuracy", "accuracy_at_quantile"}


@lru_cache(maxsize=1)
def recorded() -> dict[str, dict[str, list[float]]]:
    found = json.loads(RECORDED.read_text(encoding="utf-8"))
    return {package: one["numbers"] for package, one in found.items()}


@pytest.mark.parametrize("package", FORMULAS)
def test_our_estimators_give_the_recorded_numbers(package: str) -> None:
    theirs = {n: values for n, values in recorded()[package].items() if n not in METRICS}
    assert set(FORMULAS[package]) == set(theirs)
    for name, formula in FORMULAS[package].items():
        assert [formula(q) for q in make_questions()] == pytest.approx(theirs[name], abs=1e-12), (
            name
        )


def test_recorded_metrics_are_reproduced() -> None:
    theirs = recorded()[NATURE]
    area = [area_under_thresholded_accuracy(right, u) for right, u in make_curves()]
    at_80 = [accuracy_at_quantile(right, u, 0.8) for right, u in make_curves()]
    assert area == pytest.approx(theirs["area_under_thresholded_accuracy"], abs=1e-12)
    assert at_80 == pytest.approx(theirs["accuracy_at_quantile"], abs=1e-12)


def test_clusters_are_theirs_where_the_judge_is_consistent() -> None:
    """Stealing and judging equal texts matter only where a judge contradicts itself."""
    differ = {SEP: 0, POLYGRAPH: 0}
    for at, q in enumerate(make_questions()):
        links = mutual_entailment(verdicts(q.sampled))
        consistent = np.diag(links).all() and (by_connection(links[None])[0] == judged(q)).all()
        for package, name in ((SEP, "cluster_assignment_entropy"),
                              (POLYGRAPH, "SemanticEntropyEmpirical")):  # fmt: skip
            is_ours = abs(recorded()[package][name][at] - semantic_entropy(ours(q))) < 1e-12
            assert is_ours or not consistent
            differ[package] += not is_ours
    assert all(0 < n < len(make_questions()) for n in differ.values())


@pytest.mark.parametrize(
    ("package", "name", "estimate"),
    [
        (SEP, "semantic_entropy", likelihood(semantic_entropy_kuhn, ours, mean)),
        (SEP, "semantic_entropy_sum-normalized-rao", likelihood(semantic_entropy_rao, ours, mean)),
        (KUHN, "number_of_semantic_sets", count(ours)),
        (POLYGRAPH, "NumSemSets", count(ours)),
        (POLYGRAPH, "SemanticEntropy", likelihood(semantic_entropy_rao, ours, mean)),
        (POLYGRAPH, "SemanticEntropyEmpirical (Direct)", discrete(ours)),
        (UQLM, "num_semantic_sets", count(ours)),
        (UQLM, "discrete_entropy_values", discrete(ours)),
    ],
)
def test_what_they_do_differently_shows_in_the_recorded_questions(
    package: str, name: str, estimate: Formula
) -> None:
    theirs = recorded()[package][name]
    assert not np.allclose(theirs, [estimate(q) for q in make_questions()])


def test_a_peer_s_entropy_may_be_negative_and_ours_is_not() -> None:
    assert min(recorded()[POLYGRAPH]["SemanticEntropy"]) < 0
    assert min(semantic_entropy_rao(ours(q), mean(q)) for q in make_questions()) >= 0


def test_a_peer_s_area_of_a_perfect_model_is_not_one_and_its_ties_answer_more_than_asked() -> None:
    uncertainty = np.random.default_rng(0).random(100)
    assert area_under_thresholded_accuracy(np.ones(100), uncertainty) == pytest.approx(
        0.947, abs=5e-4
    )
    assert aurc(uncertainty, np.zeros(100)).value() == 0  # 1 − AURC is 1
    ties, right = np.repeat([0.0, 1.0], 5), np.repeat([1.0, 0.0], 5)
    assert accuracy_at_quantile(right, ties, 0.6) == 0.5  # six were asked for, all ten answered
    assert accuracy_at_coverage(0.6)(ties, 1 - right).value() == pytest.approx(5 / 6)
