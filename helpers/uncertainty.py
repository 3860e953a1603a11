"""How unsure a model is of one question: estimators over its sampled answers.

Each estimator is a plain function, and has a formula card in `ESTIMATORS`. Entropies are in nats,
and a higher value always means more uncertain. N is the number of sampled answers, l_i an
answer's log-probability, n_c the number of answers in cluster (meaning) c, C the number of
clusters.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

# Rounding in half precision can lift a log-probability, or push an entropy, just across zero.
ROUNDING = 1e-3


@dataclass(frozen=True)
class Answers:
    """One question's sampled answers; whatever is unknown about them is None.

    All fields hold one entry per answer, in the same order. Raises ValueError when there is no
    answer, or when a field has another length.
    """

    texts: tuple[str, ...]
    clusters: tuple[int, ...] | None = None  # the meaning of each answer
    sum_logprobs: tuple[float, ...] | None = None  # sum over the answer's tokens, nats
    mean_logprobs: tuple[float, ...] | None = None  # mean over the answer's tokens, nats
    token_entropies: tuple[float, ...] | None = None  # mean over the answer's tokens, nats

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError("texts: no answers")
        for name in ("clusters", "sum_logprobs", "mean_logprobs", "token_entropies"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.texts):
                raise ValueError(f"{name}: {len(values)} entries for {len(self.texts)} answers")


@dataclass(frozen=True)
class Estimator:
    """A formula card, with the function that computes it."""

    name: str
    title: str
    formula: str
    units: str
    direction: str
    needs: tuple[str, ...]  # fields of `Answers`, in the order of the function's arguments
    source: str
    also_called: str
    function: Callable[..., float]


def semantic_entropy(cluster_ids: Sequence[Hashable]) -> float:
    """Discrete semantic entropy: the entropy of how the answers divide among meanings, in nats.

    Takes one cluster id per answer (any labels). Between 0 (one meaning) and ln N (all differ).
    Raises ValueError when there is no answer. Farquhar et al. 2024, "discrete semantic entropy".

    >>> round(semantic_entropy([0, 0, 0, 1]), 5)
    0.56234
    """
    n = len(cluster_ids)
    if n == 0:
        raise ValueError("cluster_ids: no answers")
    # ln(n/c) rather than -ln(c/n): one meaning gives 0.0, not -0.0. Sorted counts: relabelling
    # the clusters cannot change even the last bit.
    counts = sorted(Counter(cluster_ids).values())
    return math.fsum(count / n * math.log(n / count) for count in counts)


def semantic_entropy_rao(cluster_ids: Sequence[Hashable], logprobs: Sequence[float]) -> float:
    """Likelihood semantic entropy, in nats: a meaning weighs the sum of its answers' likelihoods.

    `logprobs` holds one log-probability per answer, in nats; the estimator of this name uses
    length-normalised ones (mean over tokens). Raises ValueError for no answers, different
    lengths, or a log-probability that is not finite. Farquhar et al. 2024, in the form that sums
    over meanings (Rao-Blackwellised).

    >>> round(semantic_entropy_rao([0, 0, 0, 1], [math.log(p) for p in (0.5, 0.5, 0.5, 0.1)]), 5)
    0.23379
    """
    values = _log_probabilities(logprobs)
    if len(cluster_ids) != len(values):
        raise ValueError(f"logprobs: {len(values)} entries for {len(cluster_ids)} answers")
    members: dict[Hashable, list[float]] = {}
    for cluster, value in zip(cluster_ids, values, strict=True):
        members.setdefault(cluster, []).append(float(value))
    if len(members) == 1:
        return 0.0
    log_mass = sorted(float(np.logaddexp.reduce(sorted(group))) for group in members.values())
    total = float(np.logaddexp.reduce(log_mass))
    # A share may round to just above one, which would turn its term negative.
    log_shares = [min(mass - total, 0.0) for mass in log_mass]
    return math.fsum(math.exp(share) * -share for share in log_shares)


def predictive_entropy(sum_logprobs: Sequence[float]) -> float:
    """Naive predictive entropy: minus the mean log-probability of whole answers, in nats.

    Takes each answer's log-probability summed over its tokens. Long answers score higher. Raises
    ValueError for no answers or a value that is not finite. Malinin & Gales 2021, Monte Carlo
    estimate of the sequence entropy.
    """
    return float(-np.mean(_log_probabilities(sum_logprobs)) + 0.0)


def predictive_entropy_normalised(mean_logprobs: Sequence[float]) -> float:
    """Length-normalised predictive entropy: minus the mean of the answers' mean log-probability.

    Nats per token. Raises as `predictive_entropy`. Malinin & Gales 2021.
    """
    return float(-np.mean(_log_probabilities(mean_logprobs)) + 0.0)


def mean_token_entropy(token_entropies: Sequence[float]) -> float:
    """The mean over answers of each answer's mean token entropy, in nats.

    Raises ValueError for no answers, or an entropy that is negative or not finite.
    """
    values = _finite("token_entropies", token_entropies)
    for index, value in enumerate(values):
        if value < -ROUNDING:
            raise ValueError(f"token_entropies: answer {index} has entropy {value:g}, below zero")
    return float(np.mean(np.maximum(values, 0.0)))


def n_meanings(cluster_ids: Sequence[Hashable]) -> float:
    """The number of different meanings among the answers; ValueError when there is no answer."""
    if len(cluster_ids) == 0:
        raise ValueError("cluster_ids: no answers")
    return float(len(set(cluster_ids)))


def lexical_entropy(texts: Sequence[str]) -> float:
    """Entropy of the distinct answer texts, in nats: semantic entropy without the semantics.

    Texts that differ only in white space or case count as one. Never below `semantic_entropy`
    when such texts share a cluster.

    >>> lexical_entropy(["Four.", " four. "])
    0.0
    """
    if len(texts) == 0:
        raise ValueError("texts: no answers")
    return semantic_entropy([" ".join(text.split()).casefold() for text in texts])


def score_question(answers: Answers) -> dict[str, float | None]:
    """Every estimator for one question, None where its inputs are missing (see `missing_needs`)."""
    missing = missing_needs(answers)
    return {
        name: None
        if name in missing
        else card.function(*(getattr(answers, need) for need in card.needs))
        for name, card in ESTIMATORS.items()
    }


def missing_needs(answers: Answers) -> dict[str, str]:
    """Which estimators cannot be computed for these answers, each with the reason in words."""
    reasons = {}
    for name, card in ESTIMATORS.items():
        absent = [_NEEDS_IN_WORDS[need] for need in card.needs if getattr(answers, need) is None]
        if absent:
            reasons[name] = f"needs {' and '.join(absent)}"
    return reasons


_NEEDS_IN_WORDS = {
    "texts": "the answers' texts",
    "clusters": "the meaning of each answer",
    "sum_logprobs": "token log-probabilities",
    "mean_logprobs": "token log-probabilities",
    "token_entropies": "token entropies",
}


def _finite(name: str, values: Sequence[float]) -> np.ndarray:
    """The values as an array, or a ValueError naming the first that is not a finite number."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError(f"{name}: no answers")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(f"{name}: answer {bad[0]} is {array[bad[0]]}, not a finite number")
    return array


def _log_probabilities(values: Sequence[float]) -> np.ndarray:
    """Log-probabilities, none above zero: a positive one means probabilities were passed."""
    array = _finite("log-probabilities", values)
    high = np.flatnonzero(array > ROUNDING)
    if high.size:
        raise ValueError(
            f"log-probabilities: answer {high[0]} has {array[high[0]]:g}, above zero "
            "(a probability instead of its logarithm?)"
        )
    return np.minimum(array, 0.0)


_HIGHER = "higher = more uncertain"

# In reading order: the label first, then what it is compared with.
ESTIMATORS: dict[str, Estimator] = {
    card.name: card
    for card in (
        Estimator(
            name="semantic_entropy",
            title="Semantic entropy (discrete)",
            formula="H = −Σ_c (n_c/N) ln(n_c/N)",
            units="nats, 0 to ln N",
            direction=_HIGHER,
            needs=("clusters",),
            source="Farquhar et al. 2024 (Nature 630), discrete semantic entropy",
            also_called="cluster_assignment_entropy (semantic-entropy-probes); "
            "SemanticEntropy, frequency (lm-polygraph); discrete semantic entropy (uqlm)",
            function=semantic_entropy,
        ),
        Estimator(
            name="semantic_entropy_rao",
            title="Semantic entropy (likelihoods)",
            formula="L_c = ln Σ_{i∈c} e^{l_i} − ln Σ_j e^{l_j};  H = −Σ_c e^{L_c} L_c;  "
            "l_i = mean token log-probability",
            units="nats, 0 to ln C",
            direction=_HIGHER,
            needs=("clusters", "mean_logprobs"),
            source="Farquhar et al. 2024 (Nature 630), length-normalised likelihoods",
            also_called="semantic_entropy_sum-normalized-rao (semantic-entropy-probes); "
            "semantic_entropy (semantic_uncertainty); token-based semantic entropy (uqlm)",
            function=semantic_entropy_rao,
        ),
        Estimator(
            name="n_meanings",
            title="Number of meanings",
            formula="C = number of clusters",
            units="count, 1 to N",
            direction=_HIGHER,
            needs=("clusters",),
            source="Kuhn et al. 2023 (ICLR), number of semantic sets",
            also_called="NumSemSets (lm-polygraph); number of semantic sets (uqlm)",
            function=n_meanings,
        ),
        Estimator(
            name="lexical_entropy",
            title="Lexical entropy",
            formula="H = −Σ_t (n_t/N) ln(n_t/N) over distinct texts t (white space, case ignored)",
            units="nats, 0 to ln N",
            direction=_HIGHER,
            needs=("texts",),
            source="the discrete formula with exact match in place of a judge",
            also_called="entropy of exact-match clusters",
            function=lexical_entropy,
        ),
        Estimator(
            name="predictive_entropy",
            title="Predictive entropy",
            formula="H = −(1/N) Σ_i l_i;  l_i = summed token log-probability",
            units="nats per answer, 0 upwards",
            direction=_HIGHER,
            needs=("sum_logprobs",),
            source="Malinin & Gales 2021 (ICLR), Monte Carlo sequence entropy",
            also_called="regular_entropy_sum (semantic-entropy-probes); "
            "MonteCarloSequenceEntropy (lm-polygraph); naive entropy",
            function=predictive_entropy,
        ),
        Estimator(
            name="predictive_entropy_normalised",
            title="Predictive entropy, length-normalised",
            formula="H = −(1/N) Σ_i l_i;  l_i = mean token log-probability",
            units="nats per token, 0 upwards",
            direction=_HIGHER,
            needs=("mean_logprobs",),
            source="Malinin & Gales 2021 (ICLR), length-normalised",
            also_called="regular_entropy (semantic-entropy-probes, semantic_uncertainty); "
            "MonteCarloNormalizedSequenceEntropy (lm-polygraph)",
            function=predictive_entropy_normalised,
        ),
        Estimator(
            name="mean_token_entropy",
            title="Mean token entropy",
            formula="H = (1/N) Σ_i (1/T_i) Σ_t H[p(· | question, tokens before t)]",
            units="nats per token, 0 to ln(vocabulary size)",
            direction=_HIGHER,
            needs=("token_entropies",),
            source="Fomicheva et al. 2020 (TACL), averaged over the sampled answers",
            also_called="MeanTokenEntropy (lm-polygraph, one greedy answer)",
            function=mean_token_entropy,
        ),
    )
}
