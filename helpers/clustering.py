"""From pairwise verdicts to meanings: which of a question's sampled answers say the same thing.

Greedy clustering against each cluster's founder (Farquhar et al. 2024, Nature 630, Methods): the
answers are taken in the order in which they were sampled; each joins the first cluster whose
founder it is equivalent to, or else founds a cluster of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


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
        queries = _ask(judge_equivalent, list(queries))
        for question, texts in enumerate(waiting):
            if not texts:
                continue
            founder = texts[0]
            left = []
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


def _ask(
    judge_equivalent: Callable[[list[PairQuery]], Sequence[bool]], queries: list[PairQuery]
) -> dict[PairQuery, bool]:
    """Put one wave's distinct pairs to the judge and check that each got a verdict."""
    if not queries:
        return {}
    verdicts = judge_equivalent(queries)
    if len(verdicts) != len(queries):
        raise ValueError(f"the judge gave {len(verdicts)} verdicts for {len(queries)} pairs")
    return {query: bool(verdict) for query, verdict in zip(queries, verdicts, strict=True)}
