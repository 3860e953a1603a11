"""AUROC from fewer samples: subsets, their clusters and entropies, costs, and the whole curve."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.evaluation.metrics import auroc
from helpers.evaluation.scores import paired_difference
from helpers.meanings.clustering import PairQuery, cluster_many, cluster_naive
from helpers.studies.semantic_entropy.analyses import sample_budget as sample_budget_module
from helpers.studies.semantic_entropy.analyses.sample_budget import (
    choose_subsets,
    equivalent_answers,
    same_entries,
    sample_budget,
    subset_entropies,
    subset_means,
    subset_scores,
    unit_costs,
)
from helpers.uncertainty.entropies import semantic_entropy
from support.made_up_runs import made_up_run

LETTERS = "abcd"


@st.composite
def judged_answers(draw):
    """A question's texts, and any mutual verdicts about pairs of different texts."""
    texts = draw(st.lists(st.sampled_from(LETTERS), min_size=1, max_size=6))
    pairs = [{a, b} for i, a in enumerate(LETTERS) for b in LETTERS[i + 1 :]]
    same = draw(st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs)))
    return texts, [pair for pair, yes in zip(pairs, same, strict=True) if yes]


@given(judged_answers())
def test_each_subset_is_clustered_as_if_no_other_sample_had_been_drawn(data):
    texts, same = data
    linked = np.array([[a == b or {a, b} in same for b in texts] for a in texts])
    for size in range(1, len(texts) + 1):
        subsets = choose_subsets(len(texts), size)
        found = subset_entropies(linked[None], same_entries([texts]), subsets)
        for s, subset in enumerate(subsets):
            asked: list[PairQuery] = []

            def judge(queries: list[PairQuery], asked: list[PairQuery] = asked) -> list[bool]:
                asked += queries
                return [{q.a, q.b} in same for q in queries]

            drawn = [texts[i] for i in subset]
            (ids,) = cluster_many([drawn], judge)
            assert ids == cluster_naive(drawn, lambda a, b: {a, b} in same)
            assert found.entropy[0, s] == pytest.approx(semantic_entropy(ids), abs=1e-11)
            assert found.comparisons[0, s] == len(asked)


def test_stored_clusters_are_only_restricted():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 4, (7, 6))
    same = same_entries(ids)
    for size in range(1, 7):
        subsets = choose_subsets(6, size)
        found = subset_entropies(same, same, subsets).entropy
        naive = [[semantic_entropy(row[subset]) for subset in subsets] for row in ids]
        np.testing.assert_allclose(found, naive, atol=1e-11)


def test_equal_entropies_tie_to_the_last_bit_whatever_the_order():
    # Meanings of 1, 1, 3 and 4 answers, in every order in which they can come up.
    orders = [np.repeat(np.arange(4), sizes) for sizes in permutations([1, 1, 3, 4])]
    # Five pairs, and one of four with a pair and four alone, are both 10 ln 2 below 10 ln 10.
    twins = [np.repeat(np.arange(5), 2), np.repeat(np.arange(6), [4, 2, 1, 1, 1, 1])]
    for rows in (orders, twins):
        size = len(rows[0])
        same = same_entries(rows)
        found = subset_entropies(same, same, choose_subsets(size, size)).entropy
        assert len(set(found.ravel().tolist())) == 1


def test_questions_in_parts_change_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    same = same_entries(rng.integers(0, 3, (23, 5)))
    subsets = choose_subsets(5, 3)
    whole = subset_entropies(same, same, subsets)
    monkeypatch.setattr(sample_budget_module, "CELLS", 1)
    parts = subset_entropies(same, same, subsets)
    np.testing.assert_array_equal(whole.entropy, parts.entropy)
    np.testing.assert_array_equal(whole.comparisons, parts.comparisons)


def test_subsets_are_all_or_many_and_in_the_order_of_sampling():
    for size in range(1, 11):
        every = choose_subsets(10, size)
        assert len({tuple(row) for row in every}) == len(every) == comb(10, size)
    some = choose_subsets(20, 6, limit=300, seed=1)
    assert some.shape == (300, 6)
    assert (np.diff(some, axis=1) > 0).all()
    assert np.bincount(some.ravel(), minlength=20).min() > 60  # of 90 expected
    np.testing.assert_array_equal(some, choose_subsets(20, 6, limit=300, seed=1))
    values = np.random.default_rng(0).normal(size=(4, 20))
    np.testing.assert_allclose(subset_means(values, some), values[:, some].mean(axis=2))
    with pytest.raises(ValueError, match="size: 4, expected 1 to 3"):
        choose_subsets(3, 4)


def test_the_rule_of_the_judge_decides_what_is_equivalent():
    entails, neutral, denies = (0.1, 0.1, 0.8), (0.1, 0.8, 0.1), (0.8, 0.1, 0.1)
    judged = np.tile(np.array([0.0, 0, 1], dtype=np.float32), (1, 5, 5, 1))
    judged[0, 0, 1], judged[0, 1, 0] = entails, neutral
    judged[0, 0, 2], judged[0, 2, 0] = neutral, neutral
    judged[0, 1, 2], judged[0, 2, 1] = entails, denies
    judged[0, :, 4] = judged[0, 4, :] = denies  # the most likely answer has no say
    strict, lenient = (
        equivalent_answers(judged, rule)[0] for rule in ("strict", "no-contradiction")
    )
    assert not strict[0, 1]
    assert lenient[0, 1]
    assert not lenient[0, 2]
    assert not lenient[1, 2]
    assert strict[0, 3]
    assert strict.shape == (4, 4)
    with pytest.raises(ValueError, match="rule: 'loose' is not one of strict, no-contradiction"):
        equivalent_answers(judged, "loose")
    with pytest.raises(ValueError, match="different numbers of samples"):
        same_entries([["a"], ["a", "b"]])


# ---------------------------------------------------------------------------------- a whole run


def test_all_samples_give_the_auroc_of_the_run_and_one_gives_a_half():
    run = made_up_run(n=120, k=5)
    rows = run.targets.rows("test", run.targets.wrong)
    wrong = run.targets.wrong[rows]
    budget = sample_budget(run, n_boot=200)
    assert budget.clusters_from.startswith("the stored judgements, clustered anew")
    assert (budget.k, budget.n) == (5, rows.sum())
    for name, points in budget.curves.items():
        assert [p.n_samples for p in points] == [1, 2, 3, 4, 5]
        assert [p.subsets for p in points] == [5, 10, 10, 5, 1]
        if name != "mean_token_entropy":  # the made-up run has none
            whole = auroc(run.uncertainty[name][rows], wrong).value()
            assert points[-1].auroc.value == pytest.approx(whole)
        assert all(p.auroc.p_value is None for p in points)
        assert all(p.auroc.low <= p.auroc.value <= p.auroc.high for p in points)
    first = budget.curves["semantic_entropy"][0].auroc
    assert (first.value, first.low, first.high) == (0.5, 0.5, 0.5)
    assert "by construction" in first.note


def test_a_point_is_the_mean_auroc_of_its_subsets():
    run = made_up_run(n=80, k=4, error=0.3)
    rows = np.flatnonzero(run.targets.rows("test", run.targets.wrong))
    linked = equivalent_answers(run.judgements[rows], "strict")
    by_hand = []
    for subset in choose_subsets(4, 2):
        pairs = [
            ["same" if linked[i][tuple(subset)] else s for s in subset] for i in range(len(rows))
        ]
        entropies = np.array([semantic_entropy(pair) for pair in pairs])
        by_hand.append(auroc(entropies, run.targets.wrong[rows]).value())
    point = sample_budget(run, n_boot=50).curves["semantic_entropy"][1]
    assert point.auroc.value == pytest.approx(np.mean(by_hand))
    assert len(set(by_hand)) > 1


def test_without_judgements_the_stored_meanings_are_restricted_and_it_says_so():
    run = made_up_run(n=80, k=4, error=0.0)  # a judge that is never wrong is transitive
    judged = sample_budget(run, n_boot=50)
    stored = sample_budget(replace(run, judgements=None), n_boot=50)
    assert "restricted" in stored.clusters_from
    assert stored.curves == judged.curves


def test_probes_stand_beside_the_samples_on_the_same_questions(monkeypatch):
    run = made_up_run(n=160, k=5)
    wrong = np.nan_to_num(run.targets.wrong)
    noise = np.random.default_rng(0).normal(size=(2, 160))
    predicted = {"wrong_answer": 3 * wrong + noise[0], "wrong_answer_prompt": -wrong + noise[1]}
    run = replace(run, predicted=predicted)
    chosen = {"chosen": {"wrong_answer": {"position": "answer_last"}}}
    monkeypatch.setattr(type(run), "metrics", lambda self: chosen)
    budget = sample_budget(run, n_boot=200, seed=3)
    singles = {single.name: single for single in budget.singles}
    good, bad = singles["wrong_answer"], singles["wrong_answer_prompt"]
    assert (good.reads, bad.reads) == ("most likely answer", "prompt")
    assert good.first_better is None
    assert bad.first_level == 1
    assert bad.first_better == min(n for n, d in enumerate(bad.sampled_minus_this, 1) if d.low > 0)
    rows = run.targets.rows("test", run.targets.wrong)
    by_hand = paired_difference(
        run.uncertainty["semantic_entropy"][rows], predicted["wrong_answer"][rows], wrong[rows],
        n_boot=200, seed=3,
    )  # fmt: skip
    last = good.sampled_minus_this[-1]
    assert (last.value, last.low, last.p_value) == pytest.approx(
        (by_hand.value, by_hand.low, by_hand.p_value)
    )
    middling = replace(run, predicted={"wrong_answer": wrong + noise[0]})
    probe = sample_budget(middling, n_boot=200).singles[0]
    ahead = [n for n, d in enumerate(probe.sampled_minus_this, 1) if d.value >= 0]
    assert probe.first_level == ahead[0]
    assert probe.first_better != ahead[0]
    # Where the best place is in the prompt, the probe costs no answer.
    chosen["chosen"]["wrong_answer"]["position"] = "tbg"
    singles = {s.name: s for s in sample_budget(run, n_boot=20).singles}
    assert (singles["wrong_answer"].reads, singles["wrong_answer"].cost.tokens) == ("prompt", 0)
    assert singles["greedy_negative_logprob"].cost.tokens > 0


@pytest.mark.parametrize(
    ("value", "reason"),
    [(0.0, "test: only one class (0 of 30 wrong)"), (np.nan, "test: fewer than 2 rows (n = 0)")],
)
def test_one_class_or_no_grades_leave_no_curve_but_a_reason(value, reason):
    run = made_up_run(n=60, k=3)
    run = replace(run, targets=replace(run.targets, wrong=np.full(60, value)))
    budget = sample_budget(run, n_boot=50)
    assert (budget.curves, budget.singles, budget.undefined) == ({}, (), reason)


# ---------------------------------------------------------------------------------------- costs


def test_costs_count_forwards_tokens_comparisons_and_the_time_that_the_run_took():
    run = made_up_run(n=20, k=4)
    samples, greedy = run.answers.samples, run.answers.greedy
    work = {
        "samples": {"generated": 100, "seconds": 50.0},
        "meanings": {"pairs": 80, "stored": 20, "seconds": 6.0},
        "hidden": {"seconds": 4.0},
    }
    costs = unit_costs({"config": {"judge": "nli"}, "work": work}, samples, greedy)
    length = np.mean([len(s.token_ids) for row in samples for s in row])
    assert costs.unknown_seconds == ""
    three = costs.judged_samples(3, comparisons=2.0, of_all=4.0)
    assert three.tokens == pytest.approx(3 * length)
    assert three.forwards == pytest.approx(1 + 3 * (length - 1))
    assert three.seconds == pytest.approx(3 * 0.5 + 0.5 * (6 * 80 / 60) / 20)
    assert costs.samples(3).seconds == pytest.approx(1.5)
    assert costs.samples(3).comparisons == 0
    assert (costs.probe(False).forwards, costs.probe(False).tokens) == (1, 0)
    assert costs.probe(True).seconds == pytest.approx(4 / 20 + 0.5)
    assert costs.probe(True).forwards == costs.greedy_answer().forwards
    assert costs.greedy_answer().tokens == np.mean([len(s.token_ids) for s in greedy])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": {"generated": 99, "seconds": 50.0}}, "not all of the answers were made"),
        ({"samples": {}}, "not all of the answers were made"),
        ({"meanings": {"pairs": 80, "stored": 60, "seconds": 6.0}}, "most of the judge's"),
    ],
)
def test_time_is_unknown_where_work_had_been_stored(change, words):
    run = made_up_run(n=20, k=4)
    work = {
        "samples": {"generated": 100, "seconds": 50.0},
        "meanings": {"pairs": 80, "stored": 0, "seconds": 6.0},
    }
    manifest = {"config": {"judge": "nli"}, "work": work | change}
    costs = unit_costs(manifest, run.answers.samples, run.answers.greedy)
    assert words in costs.unknown_seconds
    assert costs.judged_samples(2, 1.0, 2.0).seconds is None
    assert costs.probe(False).seconds is None


def test_scores_of_subsets_are_the_estimators_of_those_samples():
    run = made_up_run(n=6, k=4)
    found = subset_scores(equivalent_answers(run.judgements, "strict"), run.answers.samples)
    surprise = [[-np.mean(s.token_logprobs) for s in row] for row in run.answers.samples]
    spread = [[np.mean(s.token_entropies) for s in row] for row in run.answers.samples]
    subset = choose_subsets(4, 3)[1]
    third = found[2].scores
    np.testing.assert_allclose(
        third["predictive_entropy_normalised"][:, 1], np.array(surprise)[:, subset].mean(axis=1)
    )
    np.testing.assert_allclose(
        third["mean_token_entropy"][:, 1], np.array(spread)[:, subset].mean(axis=1)
    )
