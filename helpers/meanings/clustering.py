"""From pairwise verdicts to meanings: which of a question's sampled answers say the same thing.

Greedy clustering against each cluster's founder (Farquhar et al. 2024, Nature 630, Methods): the
answers are taken in the order in which they were sampled; each joins the first cluster whose
founder it is equivalent to, or else founds a cluster of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PairQuery:
    """One question put to a judge: do these two answers mean the same?"""

    context: str  # the question both texts answer; "" when there is none
    a: str  # the text that founded the cluster
    b: str  # the text that may join it


def cluster_naive(texts: Sequence[str], equivalent: Callable[[str, str], bool]) -> list[int]:
    """Cluster one question's answers, asking for one pair at a time.

    Identical texts are equivalent without asking. Returns one id per text, 0 .. C-1 in order of
    first appearance. This is the definition; `cluster_many` gives the same ids faster.

    >>> cluster_naive(["4", "four", "5", "4"], lambda a, b: {a, b} == {"4", "four"})
    [0, 0, 1, 0]
    """
    founders: list[str] = []
    ids: list[int] = []
    for text in texts:
        for cluster, founder in enumerate(founders):
            if text == founder or equivalent(founder, text):
                ids.append(cluster)
                break
        else:
            ids.append(len(founders))
            founders.append(text)
    return ids


def cluster_many(
    answers: Sequence[Sequence[str]],
    judge_equivalent: Callable[[list[PairQuery]], Sequence[bool]],
    contexts: Sequence[str] | None = None,
) -> list[list[int]]:
    """Cluster the answers of many questions, asking the judge for large batches of pairs.

    `answers[q]` are question q's answers in order of sampling; `contexts[q]` is the question's own
    text. The judge answers a list of distinct pairs with one verdict each, and must give a pair
    the same verdict whenever it is asked. Returns `cluster_naive`'s ids for every question, after
    the very same verdicts: pairs of identical texts are never asked, no pair is asked twice for a
    question, and pairs shared by several questions of one wave are asked once.

    The judge is called once per wave. In each wave every unfinished question's first text without
    a cluster founds one, and all its other texts without a cluster are compared with it. A text
    is thus still compared with the founders in the order in which they founded, and stops at the
    first that matches, as in `cluster_naive`; only the pairs of different texts are interleaved.

    Raises ValueError when the contexts or the verdicts differ in number from what was given.
    """
    if contexts is None:
        contexts = [""] * len(answers)
    if len(contexts) != len(answers):
        raise ValueError(f"contexts: {len(contexts)} for {len(answers)} questions")
    # Identical texts share a verdict, so only a question's distinct texts are clustered.
    waiting = [list(dict.fromkeys(texts)) for texts in answers]
    cluster_of: list[dict[str, int]] = [{} for _ in answers]
    wave = 0
    while any(waiting):
        queries = {
            PairQuery(context, texts[0], text): False
            for context, texts in zip(contexts, waiting, strict=True)
            for text in texts[1:]
        }
        if asked := list(queries):
            found = judge_equivalent(asked)
            if len(found) != len(asked):
                raise ValueError(f"the judge gave {len(found)} verdicts for {len(asked)} pairs")
            queries = {query: bool(same) for query, same in zip(asked, found, strict=True)}
        for question, texts in enumerate(waiting):
            if not texts:
                continue
            founder, left = texts[0], []
            # Every unfinished question founds one cluster a wave: the wave is the cluster's id.
            cluster_of[question][founder] = wave
            for text in texts[1:]:
                if queries[PairQuery(contexts[question], founder, text)]:
                    cluster_of[question][text] = wave
                else:
                    left.append(text)
            waiting[question] = left
        wave += 1
    return [[cluster_of[q][text] for text in texts] for q, texts in enumerate(answers)]


# --- other rules ---------------------------------------------------------------------------------
#
# All questions at once. A *link* says that two answers mean the same; links need not be transitive,
# so there are several ways to turn them into meanings. K is the number of answers of a question.


CONTRADICTION, NEUTRAL, ENTAILMENT = 0, 1, 2


def verdicts(judgements: np.ndarray) -> np.ndarray:
    """The likeliest label of every ordered pair, `[..., K, K]`, from `[..., K, K, 3]`.

    0 contradiction, 1 neutral, 2 entailment; the first of equally likely ones, as everywhere.
    Raises ValueError for another shape or a probability that is not a number.
    """
    judgements = np.asarray(judgements)
    if judgements.ndim < 3 or judgements.shape[-1] != 3 or len({*judgements.shape[-3:-1]}) != 1:
        raise ValueError(f"judgements: shape {judgements.shape}, expected [..., K, K, 3]")
    if not np.isfinite(judgements).all():
        raise ValueError("judgements: a probability is not a finite number")
    return judgements.argmax(-1)


def mutual_entailment(labels: np.ndarray) -> np.ndarray:
    """Both answers entail each other: the rule called strict. `[..., K, K]` to the same."""
    return (labels == ENTAILMENT) & (_reverse(labels) == ENTAILMENT)


def no_contradiction(labels: np.ndarray) -> np.ndarray:
    """Neither contradicts the other, and they are not both neutral."""
    return nothing_contradicts(labels) & ~((labels == NEUTRAL) & (_reverse(labels) == NEUTRAL))


def nothing_contradicts(labels: np.ndarray) -> np.ndarray:
    """Neither contradicts the other, were they about different things."""
    return (labels != CONTRADICTION) & (_reverse(labels) != CONTRADICTION)


def either_entails(labels: np.ndarray) -> np.ndarray:
    """At least one of the two entails the other."""
    return (labels == ENTAILMENT) | (_reverse(labels) == ENTAILMENT)


def by_founder(links: np.ndarray, *, steal: bool = False) -> np.ndarray:
    """Greedy clustering against founders, `[n, K]` ids from links `[n, K, K]`.

    Gives `clustering.cluster_naive`'s ids for the same symmetric verdicts. With `steal`, a founder
    also takes the later answers that it is linked to out of the clusters they already are in.

    >>> a_c, b_c = (0, 2), (1, 2)
    >>> links = np.eye(3, dtype=bool)[None]
    >>> for a, b in (a_c, b_c): links[0, a, b] = links[0, b, a] = True
    >>> by_founder(links).tolist(), by_founder(links, steal=True).tolist()
    ([[0, 1, 0]], [[0, 1, 1]])
    """
    n, k = _sizes(links)
    ids = np.full((n, k), -1)
    founded = np.zeros(n, dtype=int)
    for i in range(k):
        founds = ids[:, i] < 0
        ids[founds, i] = founded[founds]
        joins = founds[:, None] & links[:, i, i + 1 :]
        if not steal:
            joins &= ids[:, i + 1 :] < 0
        ids[:, i + 1 :] = np.where(joins, founded[:, None], ids[:, i + 1 :])
        founded += founds
    return ids


def by_all_members(links: np.ndarray) -> np.ndarray:
    """Each answer joins the first cluster all of whose members it is linked to, `[n, K]`.

    Complete linkage in the order of sampling: no cluster holds a pair without a link.
    """
    n, k = _sizes(links)
    ids = np.full((n, k), -1)
    for j in range(k):
        for cluster in range(j + 1):  # the first that is still empty takes whoever fits nowhere
            members = ids[:, :j] == cluster
            joins = (links[:, j, :j] | ~members).all(1) & (ids[:, j] < 0)
            ids[joins, j] = cluster
    return ids


def by_connection(links: np.ndarray) -> np.ndarray:
    """Connected components, `[n, K]`: single linkage, the smallest transitive relation."""
    k = _sizes(links)[1]
    reached = links | np.eye(k, dtype=bool)
    for _ in range(max(k - 1, 1).bit_length()):
        reached = np.matmul(reached.astype(np.float32), reached.astype(np.float32)) > 0
    first = reached.argmax(-1)  # the first answer of each one's component
    founders = first == np.arange(k)
    return np.take_along_axis(np.cumsum(founders, axis=1) - 1, first, axis=1)


def by_text(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """One cluster a distinct text, white space and case aside, `[n, longest]`; -1 pads.

    The clusters behind `entropies.lexical_entropy`.
    """
    return from_rows([[" ".join(t.split()).casefold() for t in row] for row in texts])


def from_rows(rows: Sequence[Sequence[object]]) -> np.ndarray:
    """Any labels, one list a question, as ids in order of appearance, `[n, longest]`; -1 pads."""
    ids = np.full((len(rows), max(map(len, rows), default=0)), -1)
    for row, labels in zip(ids, rows, strict=True):
        known: dict[object, int] = {}
        row[: len(labels)] = [known.setdefault(label, len(known)) for label in labels]
    return ids


def adjusted_rand(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Adjusted Rand index of two partitions of each question's answers, `[n]`; 1 when equal.

    Takes ids `[n, K]` with -1 for no answer. Hubert & Arabie 1985.
    """
    upper = np.triu_indices(a.shape[1], 1)
    present = ((a >= 0)[:, :, None] & (a >= 0)[:, None, :])[:, *upper]
    in_a = (a[:, :, None] == a[:, None, :])[:, *upper] & present
    in_b = (b[:, :, None] == b[:, None, :])[:, *upper] & present
    pairs, of_a, of_b = (x.sum(1) for x in (present, in_a, in_b))
    expected = of_a * of_b / np.maximum(pairs, 1)
    best = (of_a + of_b) / 2
    # No room between chance and agreement: both put all together, or both keep all apart.
    room = best - expected
    index = ((in_a & in_b).sum(1) - expected) / np.where(room > 0, room, 1)
    return np.where(room > 0, index, 1.0)


def _reverse(labels: np.ndarray) -> np.ndarray:
    return np.swapaxes(labels, -1, -2)


def _sizes(links: np.ndarray) -> tuple[int, int]:
    """Number of questions and of answers; the links must be mutual."""
    if links.ndim != 3 or links.shape[1] != links.shape[2]:
        raise ValueError(f"links: shape {links.shape}, expected [n, K, K]")
    if not np.array_equal(links, np.swapaxes(links, 1, 2)):
        raise ValueError("links: an answer is linked to one that is not linked to it")
    return links.shape[0], links.shape[1]
