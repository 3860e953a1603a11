"""How many samples are enough: the AUROC for a wrong answer from N of the K samples, and its cost.

The label is whether the most likely answer is wrong. AUROC for high semantic entropy is not shown
on purpose: that label is made of the same K samples, so that the curve would reach 1 at N = K by
construction and say nothing about how much is known at N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from helpers.evaluation.metrics import mean_auroc
from helpers.evaluation.scores import Score, paired_difference, score_metric
from helpers.generation.records import Sample
from helpers.meanings.clustering import (
    by_founder,
    from_rows,
    mutual_entailment,
    no_contradiction,
    verdicts,
)
from helpers.probes.training import PROMPT_POSITION
from helpers.studies.semantic_entropy.run_files import StoredRun

# --- subsets of the samples ----------------------------------------------------------------------
#
# A subset of N of the K samples, kept in the order in which they were sampled, is what a run with
# K = N could have drawn, because samples are independent. The same subsets serve every question.


RULES = {"strict": mutual_entailment, "no-contradiction": no_contradiction}
MAX_SUBSETS = 256
"""All subsets of any size of up to ten samples; more samples are drawn from at random."""
CELLS = 4_000_000
"""Questions are worked on in parts of at most this many pairs of answers, to bound memory."""


@dataclass(frozen=True)
class SubsetEntropies:
    """Semantic entropy from subsets of the samples, and what it asks of the judge."""

    entropy: np.ndarray
    """`[n, subsets]`, nats."""
    comparisons: np.ndarray
    """`[n, subsets]`: pairs of different texts that greedy clustering has to compare."""


def choose_subsets(k: int, size: int, *, limit: int = MAX_SUBSETS, seed: int = 0) -> np.ndarray:
    """Subsets of 0 … k − 1 in ascending order, `[subsets, size]`: all of them, if at most `limit`.

    Otherwise `limit` random ones, each drawn without regard to the others. Raises ValueError for
    a size that is not 1 … k.

    >>> choose_subsets(3, 2).tolist()
    [[0, 1], [0, 2], [1, 2]]
    """
    if not 1 <= size <= k:
        raise ValueError(f"size: {size}, expected 1 to {k}")
    if math.comb(k, size) <= limit:
        return np.array(list(combinations(range(k), size)))
    order = np.random.default_rng([seed, size]).random((limit, k)).argsort(axis=1)
    return np.sort(order[:, :size], axis=1)


def equivalent_answers(judgements: np.ndarray, rule: str) -> np.ndarray:
    """Which samples mean the same by an NLI judge's probabilities: `[n, K, K]`, symmetric.

    judgements `[n, K + 1, K + 1, 3]`: P(contradiction), P(neutral), P(entailment) with answer i
    as premise and j as hypothesis; the last answer is the most likely one and is left out. The
    rule is that of the judge, "strict" or "no-contradiction"; raises ValueError for another.
    """
    if rule not in RULES:
        raise ValueError(f"rule: {rule!r} is not one of {', '.join(RULES)}")
    same = RULES[rule](verdicts(judgements[:, :-1, :-1]))
    return same | np.eye(same.shape[1], dtype=bool)


def same_entries(rows: Sequence[Sequence[object]]) -> np.ndarray:
    """Which entries of each row are equal: `[n, K, K]` for rows of K texts or cluster ids.

    Raises ValueError where rows differ in length.
    """
    if len({len(row) for row in rows}) > 1:
        raise ValueError("samples: the questions have different numbers of samples")
    ids = from_rows(rows)
    return ids[:, :, None] == ids[:, None, :]


def subset_entropies(
    equivalent: np.ndarray, same_text: np.ndarray, subsets: np.ndarray
) -> SubsetEntropies:
    """Semantic entropy of each question from each subset, its answers clustered anew.

    equivalent and same_text are `[n, K, K]`, symmetric with a true diagonal; subsets `[S, N]`.
    The clusters are those of `clustering.cluster_naive` over the subset's answers in order: each
    joins the first cluster whose founder it is equivalent to. Where being equivalent is an
    equivalence relation, as for stored cluster ids, that only restricts the clusters.
    """
    size = subsets.shape[1]
    part = max(1, CELLS // (len(subsets) * size * size))
    found = [
        _part(equivalent[start : start + part], same_text[start : start + part], subsets)
        for start in range(0, len(equivalent), part)
    ]
    return SubsetEntropies(
        np.concatenate([entropy for entropy, _ in found]),
        np.concatenate([comparisons for _, comparisons in found]),
    )


def subset_means(values: np.ndarray, subsets: np.ndarray) -> np.ndarray:
    """The mean of each question's values `[n, K]` over each subset `[S, N]`: `[n, S]`."""
    chosen = np.zeros((len(subsets), values.shape[1]))
    np.put_along_axis(chosen, subsets, 1.0, axis=1)
    return values @ chosen.T / subsets.shape[1]


def _part(
    equivalent: np.ndarray, same_text: np.ndarray, subsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Entropy and comparisons, each [questions, S], of some questions at once."""
    size = subsets.shape[1]
    pairs = (slice(None), subsets[:, :, None], subsets[:, None, :])
    same = same_text[pairs]  # [questions, S, N, N]
    links = equivalent[pairs] | same
    ids = by_founder(links.reshape(-1, size, size)).reshape(*links.shape[:3])
    sizes = (ids[..., None] == np.arange(size)).sum(axis=2)
    # A text seen before is not compared again; a new one is compared with the founders of all
    # clusters up to its own, but for a founder itself.
    new_text = ~(same & np.tri(size, k=-1, dtype=bool)).any(axis=3)
    compared = ((ids + 1) * new_text).sum(axis=2) - (sizes > 0).sum(axis=2)
    return _entropy(sizes), compared


def _entropy(sizes: np.ndarray) -> np.ndarray:
    """Entropy in nats of cluster sizes [..., N] that add up to N; empty clusters are 0."""
    n = sizes.shape[-1]
    counts = np.arange(1, n + 1)
    terms = np.concatenate([[0.0], counts / n * np.log(n / counts)])
    # Sorted and rounded: equal entropies must tie, down to the last bit, for ranks to be right.
    return np.round(terms[np.sort(sizes, axis=-1)].sum(axis=-1), 12)


# --- costs ---------------------------------------------------------------------------------------
#
# With a key–value cache a prompt takes one forward pass, which gives the first token of every
# answer, and each further token takes one more. Seconds are those that the run itself spent, and
# are unknown where part of its work had been stored before.


@dataclass(frozen=True)
class Cost:
    """The mean cost of one question."""

    forwards: float
    """Forward passes of one sequence through the language model: prompt, then token by token."""
    tokens: float
    """Tokens generated; the prompt is read once by every method and not counted."""
    comparisons: float
    """Pairs of different answers that a judge compares, each in one or both directions."""
    seconds: float | None
    """As the run spent them, on its machine, loading of models included; None where its manifest
    does not tell."""


@dataclass(frozen=True)
class UnitCosts:
    """What one answer, one capture and one comparison took in a run."""

    sample_tokens: float
    """Mean length of a sampled answer, in tokens."""
    greedy_tokens: float
    """Mean length of a most likely answer, in tokens."""
    answer_seconds: float | None
    capture_seconds: float | None
    """Hidden states of one prompt with its answer, at every layer and position: an upper bound of
    what one probe needs."""
    judge_seconds: float | None
    """Clustering one question's K answers."""
    unknown_seconds: str
    """Why there are no seconds, in words; empty where there are."""

    def samples(self, n: int) -> Cost:
        """N sampled answers, without judging what they mean."""
        seconds = None if self.answer_seconds is None else n * self.answer_seconds
        tokens = n * self.sample_tokens
        return Cost(1 + tokens - n, tokens, 0.0, seconds)

    def judged_samples(self, n: int, comparisons: float, of_all: float) -> Cost:
        """N sampled answers and their clustering: so many comparisons, of those among all K."""
        drawn = self.samples(n)
        seconds = None
        if drawn.seconds is not None and self.judge_seconds is not None:
            share = comparisons / of_all if of_all else 0.0
            seconds = drawn.seconds + share * self.judge_seconds
        return Cost(drawn.forwards, drawn.tokens, comparisons, seconds)

    def greedy_answer(self) -> Cost:
        """The most likely answer alone."""
        return Cost(self.greedy_tokens, self.greedy_tokens, 0.0, self.answer_seconds)

    def probe(self, reads_answer: bool) -> Cost:
        """A linear probe's reading of the prompt, or of the prompt and its most likely answer."""
        if not reads_answer:
            return Cost(1.0, 0.0, 0.0, self.capture_seconds)
        seconds = None
        if self.capture_seconds is not None and self.answer_seconds is not None:
            seconds = self.capture_seconds + self.answer_seconds
        return Cost(self.greedy_tokens, self.greedy_tokens, 0.0, seconds)


def unit_costs(
    manifest: dict[str, Any], samples: Sequence[Sequence[Sample]], greedy: Sequence[Sample]
) -> UnitCosts:
    """Mean lengths from the answers [n][K] and [n]; seconds from the manifest's `work`.

    Seconds are None unless the run made every answer itself: one that found answers or verdicts
    stored spent less time than they cost.
    """
    work = manifest.get("work", {})
    made, lengths = work.get("samples", {}), [len(s.token_ids) for row in samples for s in row]
    n, n_answers = len(greedy), len(lengths) + len(greedy)
    complete = made.get("generated", 0) >= n_answers and bool(made.get("seconds"))
    capture = work.get("hidden", {}).get("seconds") if complete else None
    judge = _judge_seconds(manifest) if complete else None
    unknown = ""
    if not complete:
        unknown = "not all of the answers were made by this run, some were stored before it"
    elif judge is None:
        unknown = "most of the judge's verdicts were stored before this run"
    return UnitCosts(
        sample_tokens=sum(lengths) / len(lengths),
        greedy_tokens=sum(len(s.token_ids) for s in greedy) / n,
        answer_seconds=made["seconds"] / made["generated"] if complete else None,
        capture_seconds=None if capture is None else capture / n,
        judge_seconds=None if judge is None else judge / n,
        unknown_seconds=unknown,
    )


def _judge_seconds(manifest: dict[str, Any]) -> float | None:
    """Seconds that judging would have taken with nothing stored; None where most of it was."""
    work = manifest.get("work", {}).get("meanings", {})
    seconds = work.get("seconds")
    if seconds is None or manifest.get("config", {}).get("judge") == "final-answer":
        return seconds
    pairs, stored = work.get("pairs", 0), work.get("stored", 0)
    return seconds * pairs / (pairs - stored) if pairs - stored > pairs / 2 else None


SEMANTIC_ENTROPY = "semantic_entropy"
ROWS_BY_SUBSETS = 100_000
"""Questions times subsets that a mean AUROC is taken over, at most."""
PROMPT, ANSWER = "prompt", "most likely answer"
PROBES = {
    "wrong_answer": ("wrong_answer",),
    "high_semantic_entropy": ("high_semantic_entropy",),
    "wrong_answer_hybrid": ("wrong_answer", "high_semantic_entropy"),
}
"""Probes to those whose places they read; each also in its prompt-only form, `<name>_prompt`."""


@dataclass(frozen=True)
class SubsetScores:
    """Estimators of every question from subsets of N samples."""

    n_samples: int
    subsets: int
    scores: dict[str, np.ndarray]
    """Estimator to `[n, subsets]`."""
    comparisons: float
    """Pairs of different answers that clustering compares, the mean of a question."""


@dataclass(frozen=True)
class BudgetPoint:
    """One estimator from N samples."""

    n_samples: int
    subsets: int
    """Subsets of the K samples averaged over."""
    auroc: Score
    """For a wrong most likely answer, on the test questions; no p-value."""
    cost: Cost


@dataclass(frozen=True)
class SinglePoint:
    """A score that takes no sample: of the prompt alone, or with one most likely answer."""

    name: str
    reads: str
    """"prompt" or "most likely answer"."""
    auroc: Score
    cost: Cost
    sampled_minus_this: tuple[Score, ...]
    """AUROC of semantic entropy from N = 1 … K samples less this one, paired."""
    first_level: int | None
    """The smallest N whose AUROC is at least this one: how many samples the score is worth."""
    first_better: int | None
    """The smallest N whose difference has a 95 % interval above 0; None where none has. Each
    interval holds by itself: being the first of K looked at is not corrected for."""


@dataclass(frozen=True)
class SampleBudget:
    """The sample budget curves of a run."""

    k: int
    n: int
    """Test questions whose most likely answer is graded."""
    clusters_from: str
    """How a subset's answers were grouped, in words."""
    curves: dict[str, tuple[BudgetPoint, ...]]
    """Estimator to its points, N = 1 … K."""
    singles: tuple[SinglePoint, ...]
    unknown_seconds: str
    """Why costs have no seconds, in words; empty where they have."""
    undefined: str = ""
    """Why there are no curves, in words."""


def sample_budget(
    run: StoredRun, *, n_boot: int = 2000, seed: int = 0, max_subsets: int | None = None
) -> SampleBudget:
    """AUROC for a wrong most likely answer against the number of samples, beside the probes.

    Each N is averaged over subsets of the stored samples: all, if at most `max_subsets` (256, and
    fewer for more than 400 questions, whose own number steadies the mean), or else so many. The
    intervals are bootstraps over questions with that average inside; they hold for these K
    samples of each question. Semantic entropy at N = 1 is 0.5 by construction. There are no
    curves, but a reason, where the test answers are all right, all wrong or not graded.
    """
    rows = np.flatnonzero(run.targets.rows("test", run.targets.wrong))
    wrong = run.targets.wrong[rows]
    k = len(run.answers.samples[0])
    costs = unit_costs(run.manifest, run.answers.samples, run.answers.greedy)
    equivalent, clusters_from = _equivalent(run, rows)
    undefined = mean_auroc(np.zeros(len(rows)), wrong, "wrong").undefined
    if undefined:
        return SampleBudget(
            k, len(rows), clusters_from, {}, (), costs.unknown_seconds, f"test: {undefined}"
        )
    samples = [run.answers.samples[i] for i in rows]
    limit = max_subsets or max(16, min(MAX_SUBSETS, ROWS_BY_SUBSETS // len(rows)))
    by_size = subset_scores(equivalent, samples, max_subsets=limit, seed=seed)
    curves = {
        name: tuple(_point(name, row, wrong, costs, by_size[-1], n_boot, seed) for row in by_size)
        for name in by_size[-1].scores
    }
    entropies = [row.scores[SEMANTIC_ENTROPY] for row in by_size]
    singles = tuple(
        _single(name, reads, scores[rows], cost, entropies, wrong, n_boot, seed)
        for name, reads, scores, cost in _single_scores(run, costs)
        if not np.isnan(scores[rows]).any()
    )
    return SampleBudget(k, len(rows), clusters_from, curves, singles, costs.unknown_seconds)


def subset_scores(
    equivalent: np.ndarray,
    samples: Sequence[Sequence[Sample]],
    *,
    max_subsets: int = MAX_SUBSETS,
    seed: int = 0,
) -> tuple[SubsetScores, ...]:
    """Semantic entropy, length-normalised predictive entropy and mean token entropy, N = 1 … K.

    equivalent `[n, K, K]` says which of the samples [n][K] mean the same.
    """
    same_text = same_entries([[s.text for s in row] for row in samples])
    surprise = -_token_means([[s.token_logprobs for s in row] for row in samples])
    entropy = _token_means([[s.token_entropies for s in row] for row in samples])
    found = []
    for size in range(1, equivalent.shape[1] + 1):
        subsets = choose_subsets(equivalent.shape[1], size, limit=max_subsets, seed=seed)
        clustered = subset_entropies(equivalent, same_text, subsets)
        scores = {
            SEMANTIC_ENTROPY: clustered.entropy,
            "predictive_entropy_normalised": subset_means(surprise, subsets),
            "mean_token_entropy": subset_means(entropy, subsets),
        }
        comparisons = float(clustered.comparisons.mean())
        found.append(SubsetScores(size, len(subsets), scores, comparisons))
    return tuple(found)


def _equivalent(run: StoredRun, rows: np.ndarray) -> tuple[np.ndarray, str]:
    """Which samples of some questions mean the same, `[rows, K, K]`, and where that is from."""
    if run.judgements is None:
        stored = same_entries(run.meanings.clusters)[rows]
        return stored, "the stored meanings of all K samples, restricted to the subset"
    rule = run.manifest["config"]["entailment"]
    again = equivalent_answers(run.judgements[rows], rule)
    return again, f"the stored judgements, clustered anew for each subset ({rule})"


def _point(
    name: str,
    row: SubsetScores,
    wrong: np.ndarray,
    costs: UnitCosts,
    all_samples: SubsetScores,
    n_boot: int,
    seed: int,
) -> BudgetPoint:
    auroc = _auroc(row.scores[name], wrong, n_boot, seed)
    cost = costs.samples(row.n_samples)
    if name == SEMANTIC_ENTROPY:
        cost = costs.judged_samples(row.n_samples, row.comparisons, all_samples.comparisons)
        if row.n_samples == 1:
            note = "one answer has one meaning: every question scores 0, by construction"
            auroc = replace(auroc, note=note)
    return BudgetPoint(row.n_samples, row.subsets, auroc, cost)


def _single_scores(run: StoredRun, costs: UnitCosts) -> list[tuple[str, str, np.ndarray, Cost]]:
    """Name, what is read, scores `[n]` and cost of the probes and of the answer's likelihood."""
    found = []
    chosen = run.metrics()["chosen"] if run.predicted else {}
    for name, parts in PROBES.items():
        positions = {chosen.get(part, {}).get("position") for part in parts}
        for probe, reads in (
            (f"{name}_prompt", PROMPT),
            (name, PROMPT if positions == {PROMPT_POSITION} else ANSWER),
        ):
            if probe in run.predicted:
                found.append((probe, reads, run.predicted[probe], costs.probe(reads == ANSWER)))
    likelihood = _token_means([[s.token_logprobs] for s in run.answers.greedy])[:, 0]
    return [*found, ("greedy_negative_logprob", ANSWER, -likelihood, costs.greedy_answer())]


def _single(
    name: str,
    reads: str,
    scores: np.ndarray,
    cost: Cost,
    entropies: Sequence[np.ndarray],
    wrong: np.ndarray,
    n_boot: int,
    seed: int,
) -> SinglePoint:
    differences = tuple(
        replace(
            paired_difference(sampled, scores, wrong, "mean_auroc", n_boot=n_boot, seed=seed),
            name="auroc difference",
        )
        for sampled in entropies
    )
    numbered = list(enumerate(differences, 1))
    return SinglePoint(
        name=name,
        reads=reads,
        auroc=_auroc(scores, wrong, n_boot, seed),
        cost=cost,
        sampled_minus_this=differences,
        first_level=next((n for n, d in numbered if d.value is not None and d.value >= 0), None),
        first_better=next((n for n, d in numbered if d.low is not None and d.low > 0), None),
    )


def _auroc(scores: np.ndarray, wrong: np.ndarray, n_boot: int, seed: int) -> Score:
    """The mean AUROC of the scorings [n, S] or [n], with an interval and without a p-value."""
    return replace(score_metric(mean_auroc(scores, wrong, "wrong"), n_boot, 0, seed), name="auroc")


def _token_means(values: Sequence[Sequence[Sequence[float]]]) -> np.ndarray:
    """The mean over tokens of each answer's per-token numbers: `[n][K]` of tokens to `[n, K]`."""
    return np.array([[float(np.mean(tokens)) for tokens in row] for row in values])
