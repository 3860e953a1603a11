"""Estimators of uncertainty over one question's answers, and what is known of these answers."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np

# --- what is known of the answers ----------------------------------------------------------------


# Rounding in half precision can lift a log-probability, or push an entropy, just across zero.
ROUNDING = 1e-3
HIGHER = "higher = more uncertain"


@dataclass(frozen=True, eq=False)
class Answers:
    """One question's sampled answers and its most likely one; whatever is unknown is None.

    Sequences and the first axes of arrays hold one entry per sampled answer, in the same order.
    N is the number of samples; a judgement is P(contradiction), P(neutral), P(entailment). Raises
    ValueError when there is no sample, or when a field has another length or shape.
    """

    texts: tuple[str, ...]
    clusters: tuple[int, ...] | None = None  # the meaning of each answer
    sum_logprobs: tuple[float, ...] | None = None  # sum over the answer's tokens, nats
    mean_logprobs: tuple[float, ...] | None = None  # mean over the answer's tokens, nats
    token_entropies: tuple[float, ...] | None = None  # mean over the answer's tokens, nats
    greedy_text: str | None = None  # the most likely answer
    greedy_sum_logprob: float | None = None  # sum over its tokens, nats
    greedy_mean_logprob: float | None = None  # mean over its tokens, nats
    judgements: np.ndarray | None = None  # [N, N, 3], sample i premise, sample j hypothesis
    greedy_judgements: np.ndarray | None = None  # [N, 2, 3], greedy -> sample i, sample i -> greedy
    gram: np.ndarray | None = None  # [N, N], Zᵀ J Z of the samples' embeddings Z [width, N]
    p_true_zero_shot: float | None = None  # the model's own P(True) of the most likely answer
    p_true_few_shot: float | None = None  # the same after solved examples

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError("texts: no answers")
        n = len(self.texts)
        for name in ("clusters", "sum_logprobs", "mean_logprobs", "token_entropies"):
            values = getattr(self, name)
            if values is not None and len(values) != n:
                raise ValueError(f"{name}: {len(values)} entries for {n} answers")
        shapes = {"judgements": (n, n, 3), "greedy_judgements": (n, 2, 3), "gram": (n, n)}
        for name, shape in shapes.items():
            values = getattr(self, name)
            if values is not None and np.shape(values) != shape:
                raise ValueError(
                    f"{name}: shape {np.shape(values)}, expected {shape} for {n} answers"
                )


REQUIREMENTS = (
    "samples", "meanings", "log-probabilities", "token entropies", "judgements", "hidden states",
    "greedy answer", "a further pass of the model",
)  # fmt: skip
"""What an estimator can require, in the words of who has to provide it."""


@dataclass(frozen=True)
class Need:
    """A field of `Answers`: what it requires, and its name in sentences."""

    requires: tuple[str, ...]
    words: str


_LOGPROBS = "token log-probabilities"
_P_TRUE = ("samples", "greedy answer", "a further pass of the model")

NEEDS: dict[str, Need] = {
    "texts": Need(("samples",), "the answers' texts"),
    "clusters": Need(("samples", "meanings"), "the meaning of each answer"),
    "sum_logprobs": Need(("samples", "log-probabilities"), _LOGPROBS),
    "mean_logprobs": Need(("samples", "log-probabilities"), _LOGPROBS),
    "token_entropies": Need(("samples", "token entropies"), "token entropies"),
    "greedy_text": Need(("greedy answer",), "the most likely answer"),
    "greedy_sum_logprob": Need(
        ("log-probabilities", "greedy answer"), f"{_LOGPROBS} of the most likely answer"
    ),
    "greedy_mean_logprob": Need(
        ("log-probabilities", "greedy answer"), f"{_LOGPROBS} of the most likely answer"
    ),
    "judgements": Need(
        ("samples", "judgements"), "an NLI judge's probabilities for every pair of answers"
    ),
    "greedy_judgements": Need(
        ("samples", "judgements", "greedy answer"),
        "an NLI judge's probabilities for the most likely answer and each sample",
    ),
    "gram": Need(("samples", "hidden states"), "hidden states of the sampled answers"),
    "p_true_zero_shot": Need(_P_TRUE, "the model's own p(True) of its most likely answer"),
    "p_true_few_shot": Need(_P_TRUE, "the model's own p(True) after solved examples"),
}


@dataclass(frozen=True)
class Estimator:
    """A formula card, with the function that computes it."""

    name: str
    title: str
    formula: str
    units: str
    needs: tuple[str, ...]  # fields of `Answers`, in the order of the function's arguments
    source: str
    also_called: str  # the name in other packages, and where their number differs
    function: Callable[..., float]
    test: str  # the pytest node id that pins the number
    direction: str = HIGHER
    note: str = ""  # what to know before reading the number
    min_answers: int = 1  # with fewer samples the number is undefined

    @property
    def requires(self) -> tuple[str, ...]:
        """What has to be there, in the words and the order of `REQUIREMENTS`."""
        wanted = {part for need in self.needs for part in NEEDS[need].requires}
        return tuple(part for part in REQUIREMENTS if part in wanted)


def finite(name: str, values: Sequence[float]) -> np.ndarray:
    """The values as an array, or a ValueError naming the first that is not a finite number."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError(f"{name}: no answers")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(f"{name}: answer {bad[0]} is {array[bad[0]]}, not a finite number")
    return array


def log_probabilities(values: Sequence[float]) -> np.ndarray:
    """Log-probabilities, none above zero: a positive one means probabilities were passed."""
    array = finite("log-probabilities", values)
    high = np.flatnonzero(array > ROUNDING)
    if high.size:
        raise ValueError(
            f"log-probabilities: answer {high[0]} has {array[high[0]]:g}, above zero "
            "(a probability instead of its logarithm?)"
        )
    return np.minimum(array, 0.0)


def probability(name: str, value: float) -> float:
    """A probability, or a ValueError where the value is none."""
    number = float(value)
    if not math.isfinite(number) or not -ROUNDING <= number <= 1 + ROUNDING:
        raise ValueError(f"{name}: {number:g} is not a probability")
    return min(max(number, 0.0), 1.0)


def judged(name: str, judgements: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Judgements as float64 that add up to exactly 1; ValueError where they are none.

    `shape` has -1 where any length will do, as long as it is the same everywhere. Rounding of the
    judge's, up to `ROUNDING`, is put right.
    """
    array = np.asarray(judgements, dtype=np.float64)
    n = len(array) if array.ndim else 0
    if n == 0 or array.shape != tuple(n if size == -1 else size for size in shape):
        words = ", ".join("N" if size == -1 else str(size) for size in shape)
        raise ValueError(f"{name}: shape {array.shape}, expected [{words}]")
    total = array.sum(axis=-1)
    # A NaN fails every comparison, so that this finds it too.
    if not (array.min() >= -ROUNDING and np.abs(total - 1).max() <= 3 * ROUNDING):
        raise ValueError(f"{name}: not probabilities of three labels that add up to 1")
    array = np.maximum(array, 0.0)
    return array / array.sum(axis=-1, keepdims=True)


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


def semantic_entropies(clusters: np.ndarray) -> np.ndarray:
    """Semantic entropy of each question's clusters `[n, K]`, nats, `[n]`; -1 stands for no answer.

    Bit for bit what `semantic_entropy` gives.
    """
    counts = (clusters[:, :, None] == np.arange(clusters.shape[1])).sum(1)
    return np.array([_entropy_of_counts(tuple(row)) for row in np.sort(counts, 1).tolist()])


@lru_cache(maxsize=100_000)
def _entropy_of_counts(counts: tuple[int, ...]) -> float:
    return semantic_entropy([c for c, count in enumerate(counts) for _ in range(count)])


def semantic_entropy_rao(cluster_ids: Sequence[Hashable], logprobs: Sequence[float]) -> float:
    """Likelihood semantic entropy, in nats: a meaning weighs the sum of its answers' likelihoods.

    `logprobs` holds one log-probability per answer, in nats; the estimator of this name uses
    length-normalised ones (mean over tokens). Raises ValueError for no answers, different
    lengths, or a log-probability that is not finite. Farquhar et al. 2024, in the form that sums
    over meanings (Rao-Blackwellised).

    >>> round(semantic_entropy_rao([0, 0, 0, 1], [math.log(p) for p in (0.5, 0.5, 0.5, 0.1)]), 5)
    0.23379
    """
    shares = _log_shares(cluster_ids, logprobs)
    return math.fsum(math.exp(share) * -share for share in shares) + 0.0


def semantic_entropy_cluster_mean(
    cluster_ids: Sequence[Hashable], logprobs: Sequence[float]
) -> float:
    """Minus the mean over meanings of the log of their share of the likelihood, in nats.

    Every meaning counts alike, however likely it is: at least ln C, and without an upper end.
    Raises as `semantic_entropy_rao`.

    >>> logprobs = [math.log(p) for p in (0.5, 0.5, 0.5, 0.1)]
    >>> round(semantic_entropy_cluster_mean([0, 0, 0, 1], logprobs), 5)
    1.41856
    """
    shares = _log_shares(cluster_ids, logprobs)
    return -math.fsum(shares) / len(shares) + 0.0


def semantic_entropy_kuhn(cluster_ids: Sequence[Hashable], logprobs: Sequence[float]) -> float:
    """Minus the mean over meanings of the log of their summed likelihood, in nats.

    The likelihoods of a meaning's answers may add up to more than 1, and the number then falls
    below 0. Raises as `semantic_entropy_rao`. Kuhn et al. 2023, without the 5 that their code
    subtracts from each logarithm.

    >>> round(semantic_entropy_kuhn([0, 0, 0, 1], [math.log(p) for p in (0.5, 0.5, 0.5, 0.1)]), 5)
    0.94856
    """
    masses = _log_masses(cluster_ids, logprobs)
    return -math.fsum(masses) / len(masses) + 0.0


def semantic_entropy_cmean(cluster_ids: Sequence[Hashable], logprobs: Sequence[float]) -> float:
    """Minus the mean over meanings of the log of their mean likelihood, in nats.

    How often a meaning was sampled plays no part. Raises as `semantic_entropy_rao`.

    >>> round(semantic_entropy_cmean([0, 0, 0, 1], [math.log(p) for p in (0.5, 0.5, 0.5, 0.1)]), 5)
    1.49787
    """
    means = [
        min(_log_sum(group) - math.log(len(group)), 0.0)
        for group in _members(cluster_ids, logprobs)
    ]
    return -math.fsum(means) / len(means) + 0.0


def predictive_entropy(sum_logprobs: Sequence[float]) -> float:
    """Naive predictive entropy: minus the mean log-probability of whole answers, in nats.

    Takes each answer's log-probability summed over its tokens. Long answers score higher. Raises
    ValueError for no answers or a value that is not finite. Malinin & Gales 2021, Monte Carlo
    estimate of the sequence entropy.
    """
    return float(-np.mean(log_probabilities(sum_logprobs)) + 0.0)


def predictive_entropy_normalised(mean_logprobs: Sequence[float]) -> float:
    """Length-normalised predictive entropy: minus the mean of the answers' mean log-probability.

    Nats per token. Raises as `predictive_entropy`. Malinin & Gales 2021.
    """
    return float(-np.mean(log_probabilities(mean_logprobs)) + 0.0)


def mean_token_entropy(token_entropies: Sequence[float]) -> float:
    """The mean over answers of each answer's mean token entropy, in nats.

    Raises ValueError for no answers, or an entropy that is negative or not finite.
    """
    values = finite("token_entropies", token_entropies)
    for index, value in enumerate(values):
        if value < -ROUNDING:
            raise ValueError(f"token_entropies: answer {index} has entropy {value:g}, below zero")
    return float(np.mean(np.maximum(values, 0.0)))


def n_meanings(cluster_ids: Sequence[Hashable]) -> float:
    """The number of different meanings among the answers; ValueError when there is no answer."""
    if len(cluster_ids) == 0:
        raise ValueError("cluster_ids: no answers")
    return float(len(set(cluster_ids)))


def _members(cluster_ids: Sequence[Hashable], logprobs: Sequence[float]) -> list[list[float]]:
    """The log-probabilities of each meaning's answers."""
    values = log_probabilities(logprobs)
    if len(cluster_ids) != len(values):
        raise ValueError(f"logprobs: {len(values)} entries for {len(cluster_ids)} answers")
    members: dict[Hashable, list[float]] = {}
    for cluster, value in zip(cluster_ids, values.tolist(), strict=True):
        members.setdefault(cluster, []).append(value)
    return list(members.values())


def _log_masses(cluster_ids: Sequence[Hashable], logprobs: Sequence[float]) -> list[float]:
    """The log of each meaning's summed likelihood, ascending."""
    return sorted(_log_sum(group) for group in _members(cluster_ids, logprobs))


def _log_shares(cluster_ids: Sequence[Hashable], logprobs: Sequence[float]) -> list[float]:
    """The log of each meaning's share of all likelihood, ascending and none above 0."""
    masses = _log_masses(cluster_ids, logprobs)
    if len(masses) == 1:
        return [0.0]
    total = _log_sum(masses)
    # A share may round to just above one, which would turn its term negative.
    return [min(mass - total, 0.0) for mass in masses]


def _log_sum(values: Sequence[float]) -> float:
    """ln Σ e^v, the same to the last bit in whatever order the values come."""
    highest = max(values)
    return highest + math.log(math.fsum(math.exp(value - highest) for value in values))


# --- matrices over the answers -------------------------------------------------------------------
#
# The judge's probabilities between answers are the weights of a graph; how far it falls apart is
# the uncertainty. Values are rounded to twelve decimals: the same graph with its answers in another
# order must not differ in the last bit, since equal values are tied when questions are ranked.


KEPT_BELOW = 0.9
"""Eigenvectors of the Laplacian with a smaller eigenvalue span the embedding of `eccentricity`."""
HEAT = 0.3  # diffusion time t of the heat kernel
ALPHA = 1e-3
"""Added to every eigenvalue of the Gram matrix, so that identical answers have a logarithm."""


def eigv(judgements: np.ndarray) -> float:
    """The sum of the eigenvalues 1 − λ of the entailment graph that are above 0: 1 to N.

    A continuous number of meanings: N blocks of answers that entail each other give N. Takes
    judgements [N, N, 3]; an answer entails itself, so that no degree is 0. Raises ValueError
    where they are no probabilities. Lin et al. 2024, U_EigV.
    """
    similarity = _normalised(_entailment(judgements))
    return _tidy(np.maximum(np.linalg.eigvalsh(similarity), 0.0).sum())


def degree(judgements: np.ndarray) -> float:
    """1 minus the mean entailment probability over all ordered pairs, an answer with itself too.

    Between 0 and 1 − 1/N. Takes and raises as `eigv`. Lin et al. 2024, U_Deg.
    """
    return _tidy(1.0 - _entailment(judgements).mean())


def eccentricity(judgements: np.ndarray) -> float:
    """How far the answers lie from their centre, in the Laplacian's smooth eigenvectors.

    The Frobenius norm of the kept eigenvectors (λ < 0.9), centred over answers: √(k − 1) for k
    blocks, 0 for one. Takes and raises as `eigv`. Lin et al. 2024, U_Ecc.
    """
    values, vectors = np.linalg.eigh(_normalised(_entailment(judgements)))
    # The Laplacian is the identity less this matrix; an eigenvalue at the edge is not kept.
    kept = vectors[:, 1.0 - values < KEPT_BELOW - 1e-9]
    # Centring takes from each unit vector its squared sum, divided by N.
    squared = kept.shape[1] - (kept.sum(axis=0) ** 2).sum() / len(kept)
    return _tidy(math.sqrt(max(squared, 0.0)) if squared > 1e-12 else 0.0)


def kernel_language_entropy(judgements: np.ndarray) -> float:
    """The von Neumann entropy of the heat kernel on the graph of the answers, in nats: 0 to ln N.

    An edge weighs P(entailment) + P(neutral)/2, summed over both directions; K = exp(−tL), the
    matrix exponential, scaled to K_ij / √(K_ii K_jj) / N, whose trace is 1. Answers that all
    entail each other give a number near 0, and not 0 itself: heat has only a time t = 0.3 to
    spread. Takes and raises as `eigv`. Nikitin et al. 2024, KLE with the heat kernel.
    """
    labels = judged("judgements", judgements, (-1, -1, 3))
    close = labels[..., 2] + 0.5 * labels[..., 1]
    weights = close + close.T
    # The Laplacian is symmetric, and its matrix exponential that of its eigenvalues.
    values, vectors = np.linalg.eigh(np.diag(weights.sum(axis=1)) - weights)
    kernel = (vectors * np.exp(-HEAT * values)) @ vectors.T
    scale = np.sqrt(np.diag(kernel))
    density = kernel / np.outer(scale, scale) / len(kernel)
    shares = np.linalg.eigvalsh(density)
    shares = shares[shares > 1e-15]
    return _tidy(-(shares * np.log(shares)).sum())


def eigenscore(gram: np.ndarray) -> float:
    """The mean log eigenvalue of the Gram matrix of the answers' embeddings, in nats.

    Takes Zᵀ J Z [N, N], Z [width, N] the samples' hidden states and J centring each over its
    entries; α = 0.001 is added to the eigenvalues, so that the number is at least ln α = −6.9. The
    states' size enters it: compare it within one model only. Raises ValueError where the matrix
    is not square, symmetric and positive semi-definite. Chen et al. 2024 (INSIDE), EigenScore.
    """
    matrix = np.asarray(gram, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"gram: shape {matrix.shape}, expected [N, N]")
    if not np.isfinite(matrix).all():
        raise ValueError("gram: not all entries are finite numbers")
    size = np.abs(matrix).max()
    if np.abs(matrix - matrix.T).max() > 1e-6 * size:
        raise ValueError("gram: not symmetric")
    values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    if values[0] < -1e-6 * len(matrix) * size:
        raise ValueError(f"gram: has the eigenvalue {values[0]:g}, so it is no Gram matrix")
    # Below the resolution of the largest eigenvalue there is rounding and nothing else.
    noise = 4 * len(matrix) * np.finfo(np.float64).eps * values[-1]
    return round(float(np.log(np.where(values > noise, values, 0.0) + ALPHA).mean()), 12) + 0.0


def _entailment(judgements: np.ndarray) -> np.ndarray:
    """Symmetric weights [N, N]: P(entailment), the mean of both directions, 1 on the diagonal."""
    entails = judged("judgements", judgements, (-1, -1, 3))[..., 2]
    weights = (entails + entails.T) / 2
    np.fill_diagonal(weights, 1.0)
    return weights


def _normalised(weights: np.ndarray) -> np.ndarray:
    """D^−1/2 W D^−1/2 for degrees D: the identity less the normalised Laplacian."""
    root = 1 / np.sqrt(weights.sum(axis=1))
    return weights * np.outer(root, root)


def _tidy(value: float) -> float:
    """A number that cannot be below 0, without the noise of its last bits."""
    return round(max(float(value), 0.0), 12) + 0.0


# --- wording -------------------------------------------------------------------------------------


_WORD = re.compile(r"\w+")


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


def lexical_similarity(texts: Sequence[str]) -> float:
    """1 minus the mean ROUGE-L F1 of all pairs of answers: 0 for equal words, 1 for no shared one.

    Words are runs of letters and digits of any script, in lower case. Answers of the same words
    are alike (1), those without any word among themselves too. Raises ValueError for fewer than
    two answers, which make no pair. Lin 2004 (ROUGE-L); Fomicheva et al. 2020.

    >>> round(lexical_similarity(["It is four.", "it is five"]), 5)
    0.33333
    """
    n = len(texts)
    if n < 2:
        raise ValueError(f"texts: {n} answers make no pair")
    counts = Counter(tuple(_WORD.findall(text.casefold())) for text in texts)
    places = {words: _places(words) for words in counts}
    same = sum(count * (count - 1) // 2 for count in counts.values())
    # F1: 2 · (longest common subsequence) / (sum of both lengths).
    alike = math.fsum(
        counts[a] * counts[b] * (2 * _common(places[a], len(a), b) / (len(a) + len(b)))
        for a, b in combinations(counts, 2)
    )
    return max(1.0 - (same + alike) / (n * (n - 1) // 2), 0.0)


def _places(words: Sequence[str]) -> dict[str, int]:
    """Each word's places in a text, as the bits of an integer."""
    places: dict[str, int] = {}
    for i, word in enumerate(words):
        places[word] = places.get(word, 0) | 1 << i
    return places


def _common(places: dict[str, int], n: int, other: Sequence[str]) -> int:
    """The length of the longest common subsequence of a text of n words, as places, and another.

    A row of the usual table, in which neighbours differ by 0 or 1, is one integer. Hyyrö 2004.
    """
    row = (1 << n) - 1
    for word in other:
        matched = row & places.get(word, 0)
        row = (row + matched) | (row - matched)
    return n - (row & ((1 << n) - 1)).bit_count()


# --- the most likely answer ----------------------------------------------------------------------


LARGEST_EXPONENT = 700.0  # nats per token; e to a little more than this is no longer a number


def sequence_nll(sum_logprob: float) -> float:
    """Minus the log-probability of the most likely answer, summed over its tokens, in nats.

    Raises ValueError where it is not finite, or above zero.

    >>> round(sequence_nll(-2.5), 5)
    2.5
    """
    return -_log_probability(sum_logprob) + 0.0


def perplexity(mean_logprob: float) -> float:
    """Perplexity of the most likely answer: e to minus its mean token log-probability, 1 upwards.

    Raises ValueError where that is not finite, or above zero.

    >>> round(perplexity(math.log(0.25)), 5)
    4.0
    """
    return math.exp(min(-_log_probability(mean_logprob), LARGEST_EXPONENT))


def p_false(p_true: float) -> float:
    """1 − P(True), the model's own probability that its most likely answer is wrong.

    Raises ValueError for a number that is no probability. Kadavath et al. 2022.
    """
    return 1.0 - probability("p_true", p_true)


def semantic_density(
    texts: Sequence[str], mean_logprobs: Sequence[float], greedy_judgements: np.ndarray
) -> float:
    """1 minus the density of the samples around the most likely answer: 0 to 1.

    Each distinct text counts once, weighed by its length-normalised likelihood; its kernel value
    is 1 − P(contradiction) − P(neutral)/2, with the most likely answer as the premise. Takes
    judgements [N, 2, 3]. Raises ValueError for different lengths, a log-probability that is not
    finite, or judgements that are no probabilities. Qiu & Miikkulainen 2024.
    """
    values = log_probabilities(mean_logprobs)
    forward = judged("greedy_judgements", greedy_judgements, (-1, 2, 3))[:, 0]
    if not len(texts) == len(values) == len(forward):
        raise ValueError(
            f"semantic density: {len(texts)} texts, {len(values)} log-probabilities and "
            f"{len(forward)} judgements"
        )
    first: dict[str, int] = {}
    for i, text in enumerate(texts):
        first.setdefault(text, i)
    rows = list(first.values())
    # Likelihoods relative to the largest: the ratio is the same, and none underflows.
    weights = np.exp(values[rows] - values[rows].max())
    distance = forward[rows, 0] + forward[rows, 1] / 2
    return min(max(float(weights @ distance / weights.sum()), 0.0), 1.0) + 0.0


def noncontradiction(greedy_judgements: np.ndarray) -> float:
    """1 minus the mean probability that the most likely answer and a sample do not contradict.

    The mean is over all samples and both directions. Takes judgements [N, 2, 3]; a judge of two
    labels knows no contradiction, and the number is then 0. Raises ValueError where they are no
    probabilities. Chen & Mueller 2024; Bouchard & Chauhan 2025.
    """
    return float(judged("greedy_judgements", greedy_judgements, (-1, 2, 3))[..., 0].mean()) + 0.0


def _log_probability(value: float) -> float:
    """The log-probability of one answer, in nats; ValueError where it is none."""
    number = float(value)
    if not math.isfinite(number) or number > ROUNDING:
        raise ValueError(
            f"log-probability of the most likely answer: {number:g}, expected a number up to 0"
        )
    return min(number, 0.0)
