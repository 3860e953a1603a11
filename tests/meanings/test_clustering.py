"""Meanings: the batched clustering against the plain pairwise one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.meanings.clustering import PairQuery, cluster_many, cluster_naive

LETTERS = st.sampled_from("abcdefg")
ANSWERS = st.lists(st.lists(LETTERS, max_size=9), max_size=5)
# Any relation at all: intransitive ones, and ones that depend on the order of the pair.
RELATION = st.sets(st.tuples(LETTERS, LETTERS))


@given(ANSWERS, RELATION)
def test_waves_give_the_ids_and_the_verdicts_of_the_naive_algorithm(answers, relation):
    naive_asked: list[set[tuple[str, str]]] = []
    expected = []
    for texts in answers:
        asked: set[tuple[str, str]] = set()

        def equivalent(a: str, b: str, asked: set[tuple[str, str]] = asked) -> bool:
            asked.add((a, b))
            return (a, b) in relation

        expected.append(cluster_naive(texts, equivalent))
        naive_asked.append(asked)

    calls: list[list[PairQuery]] = []

    def judge(queries: list[PairQuery]) -> list[bool]:
        calls.append(queries)
        return [(query.a, query.b) in relation for query in queries]

    contexts = [f"question {q}" for q in range(len(answers))]
    assert cluster_many(answers, judge, contexts) == expected
    asked_pairs = [query for call in calls for query in call]
    assert len(set(asked_pairs)) == len(asked_pairs)
    assert set(asked_pairs) == {
        PairQuery(contexts[q], a, b) for q, pairs in enumerate(naive_asked) for a, b in pairs
    }
    assert len(calls) <= max((max(ids, default=-1) + 1 for ids in expected), default=0)


@given(ANSWERS, RELATION)
def test_ids_count_up_in_order_of_first_appearance(answers, relation):
    for ids in cluster_many(answers, lambda qs: [(q.a, q.b) in relation for q in qs]):
        first_seen = list(dict.fromkeys(ids))
        assert first_seen == list(range(len(first_seen)))


def test_a_pair_shared_by_questions_without_context_is_asked_once():
    calls: list[list[PairQuery]] = []

    def judge(queries: list[PairQuery]) -> list[bool]:
        calls.append(queries)
        return [True] * len(queries)

    assert cluster_many([["a", "b"], ["a", "b", "b"]], judge) == [[0, 0], [0, 0, 0]]
    assert calls == [[PairQuery("", "a", "b")]]


def test_a_judge_that_loses_a_verdict_is_an_error():
    with pytest.raises(ValueError, match="1 verdicts for 2 pairs"):
        cluster_many([["a", "b", "c"]], lambda queries: [True])
    with pytest.raises(ValueError, match="1 for 2 questions"):
        cluster_many([["a"], ["b"]], lambda queries: [], contexts=["only one"])
