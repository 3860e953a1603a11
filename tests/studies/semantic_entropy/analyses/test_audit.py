"""The cluster audit: fast rules against naive ones, and what the audit says of made-up judges."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import adjusted_rand_score

from helpers.config import RunConfig
from helpers.meanings.clustering import (
    PairQuery,
    adjusted_rand,
    by_all_members,
    by_connection,
    by_founder,
    by_text,
    cluster_naive,
    either_entails,
    from_rows,
    mutual_entailment,
    no_contradiction,
    verdicts,
)
from helpers.meanings.judges import JudgeCounts, NliJudge
from helpers.studies.semantic_entropy.analyses.audit import (
    OWN,
    ClusterAudit,
    RuleAudit,
    audit,
    broken_triples,
    describe_audit,
    mean_score,
)
from helpers.studies.semantic_entropy.run_files import read_run
from helpers.uncertainty.entropies import (
    lexical_entropy,
    n_meanings,
    semantic_entropies,
    semantic_entropy,
)
from support.made_up_runs import assemble, made_up_run

QUICK = {"n_boot": 200, "n_perm": 200}
SEEDS = st.integers(0, 10_000)
few = settings(max_examples=50)


def random_links(seed: int, n: int = 6) -> np.ndarray:
    """Mutual links of any kind, transitive or not, `[n, K, K]`."""
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 9))
    half = rng.random((n, k, k)) < rng.random((n, 1, 1))
    return half | np.swapaxes(half, 1, 2) | np.eye(k, dtype=bool)


def random_judgements(seed: int, n: int, k: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet([0.4, 0.3, 0.6], (n, k, k)).astype(np.float32)


class TableJudge(NliJudge):
    """An NLI judge that reads its probabilities from a table; texts are row numbers."""

    table: np.ndarray

    def probabilities(self, pairs):
        return np.array([self.table[int(a), int(b)] for a, b in pairs]).reshape(-1, 3)


@pytest.mark.parametrize(
    ("rule", "links"), [("strict", mutual_entailment), ("no-contradiction", no_contradiction)]
)
@given(seed=SEEDS)
def test_clusters_from_arrays_are_those_of_the_judge_and_the_naive_algorithm(rule, links, seed):
    judgements = random_judgements(seed, 3, 7)
    texts = [str(i) for i in np.random.default_rng(seed).integers(0, 7, 7)]
    at = np.array([int(text) for text in texts])
    tables = judgements[:, at[:, None], at]
    tables[:, at[:, None] == at] = (0, 0, 1)
    found = by_founder(links(verdicts(tables)))
    for table, ids in zip(judgements, found.tolist(), strict=True):
        judge = TableJudge(None, rule, False, "cpu", 8, None, JudgeCounts())  # type: ignore[arg-type]
        object.__setattr__(judge, "table", table)

        def asked(a: str, b: str, judge: NliJudge = judge) -> bool:
            return judge.equivalent([PairQuery("", a, b)])[0]

        assert cluster_naive(texts, asked) == ids


def naive_stealing(links: np.ndarray) -> list[int]:
    ids = [-1] * len(links)
    founded = 0
    for i in range(len(links)):
        if ids[i] == -1:
            ids[i] = founded
            for j in range(i + 1, len(links)):
                if links[i, j]:
                    ids[j] = founded
            founded += 1
    return ids


def naive_all_members(links: np.ndarray) -> list[int]:
    clusters: list[list[int]] = []
    ids = []
    for i in range(len(links)):
        fits = [c for c, members in enumerate(clusters) if all(links[i, m] for m in members)]
        if not fits:
            clusters.append([])
        chosen = fits[0] if fits else len(clusters) - 1
        clusters[chosen].append(i)
        ids.append(chosen)
    return ids


@given(SEEDS)
def test_vectorised_rules_are_the_naive_ones(seed):
    links = random_links(seed)
    stolen, complete, single = (
        by_founder(links, steal=True), by_all_members(links), by_connection(links),
    )  # fmt: skip
    for q, linked in enumerate(links):
        assert stolen[q].tolist() == naive_stealing(linked)
        assert complete[q].tolist() == naive_all_members(linked)
        components = connected_components(linked, directed=False)[1]
        assert single[q].tolist() == from_rows([components.tolist()])[0].tolist()
        same = complete[q][:, None] == complete[q]
        assert linked[same].all()


def test_links_that_are_not_mutual_are_refused():
    links = np.eye(3, dtype=bool)[None].repeat(2, 0)
    links[0, 0, 1] = True
    with pytest.raises(ValueError, match="not linked to it"):
        by_founder(links)
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        by_all_members(links[0, :2])
    with pytest.raises(ValueError, match="K, K, 3"):
        verdicts(np.zeros((2, 4, 3, 3)))
    with pytest.raises(ValueError, match="finite"):
        verdicts(np.full((1, 2, 2, 3), np.nan))


@given(SEEDS)
def test_adjusted_rand_index_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, rng.integers(1, 7), (8, 6)) for _ in range(2))
    a[0], b[0], b[1] = 0, 0, np.arange(6)
    expected = [adjusted_rand_score(x, y) for x, y in zip(a, b, strict=True)]
    assert adjusted_rand(a, b) == pytest.approx(expected)
    padded = np.hstack([a, np.full((8, 2), -1)]), np.hstack([b, np.full((8, 2), -1)])
    assert adjusted_rand(*padded) == pytest.approx(expected)
    assert (adjusted_rand(a, from_rows(a.tolist())) == 1).all()


def test_entropies_are_those_of_the_estimator_to_the_last_bit():
    rows = [np.random.default_rng(s).integers(0, 5, s % 9 + 1).tolist() for s in range(60)]
    assert semantic_entropies(from_rows(rows)).tolist() == [semantic_entropy(row) for row in rows]


def test_exact_text_is_lexical_entropy():
    texts = [["Four.", " four. ", "5"], ["a"], ["x  y", "x y"]]
    assert by_text(texts).tolist() == [[0, 0, 1], [0, -1, -1], [0, 0, -1]]
    assert semantic_entropies(by_text(texts)).tolist() == [lexical_entropy(row) for row in texts]


@given(SEEDS)
def test_broken_triples_are_counted_as_one_would_by_hand(seed):
    links = random_links(seed, n=3)
    # Directed relations too: break the symmetry.
    links = links & (np.random.default_rng(seed).random(links.shape) < 0.8)
    distinct = np.random.default_rng(seed + 1).random(links.shape[:2]) < 0.8
    paths, broken = broken_triples(links, distinct)
    for q, linked in enumerate(links):
        triples = [
            (a, b, c)
            for a, b, c in itertools.permutations(np.flatnonzero(distinct[q]), 3)
            if linked[a, b] and linked[b, c]
        ]
        assert paths[q] == len(triples)
        assert broken[q] == sum(not linked[a, c] for a, _, c in triples)


def by_name(found: ClusterAudit) -> dict[str, RuleAudit]:
    return {rule.name: rule for rule in found.rules}


def test_every_rule_is_compared_with_the_runs_own():
    run = made_up_run(60, 6, error=0.3)
    found = audit(run, **QUICK)
    rules = by_name(found)
    own = rules[OWN]
    assert own.changed.value == 0
    assert own.adjusted_rand.value == 1
    assert own.difference is None
    assert own.entropy.value == pytest.approx(run.uncertainty["semantic_entropy"].mean())
    assert own.meanings.value == pytest.approx(run.uncertainty["n_meanings"].mean())

    labels = verdicts(run.judgements[:, :-1, :-1])
    naive = [naive_stealing(x) for x in mutual_entailment(labels)]
    changed = [n != list(ids) for n, ids in zip(naive, run.meanings.clusters, strict=True)]
    stealing = rules["member stealing"]
    assert stealing.changed.value == pytest.approx(np.mean(changed))
    assert stealing.entropy.value == pytest.approx(np.mean([semantic_entropy(x) for x in naive]))
    assert stealing.meanings.value == pytest.approx(np.mean([n_meanings(x) for x in naive]))
    assert stealing.changed.low < stealing.changed.value < stealing.changed.high

    test = run.targets.rows("test", run.targets.wrong)
    assert all(r.auroc.n == test.sum() for r in found.rules if not r.missing)
    exact = rules["exact text"]
    assert exact.difference.value == pytest.approx(exact.auroc.value - own.auroc.value)
    # A stricter rule never gives fewer meanings, a laxer one never more.
    assert rules["all members"].meanings.value >= own.meanings.value
    assert rules["single linkage"].meanings.value <= own.meanings.value
    assert rules["either direction"].meanings.value < own.meanings.value
    assert rules["strict"].changed.value == 0
    assert not found.notes


def test_a_perfect_judge_is_transitive_and_agrees_with_the_final_answers():
    found = audit(made_up_run(40, 6, error=0.0), **QUICK)
    assert [row.triples.value for row in found.intransitivity] == [0, 0, 0, 0]
    assert all(row.paths > 0 for row in found.intransitivity)
    answers = found.final_answers
    assert answers.agreement.value == answers.precision.value == answers.recall.value == 1
    assert answers.pairs > answers.same > 0
    for name in ("member stealing", "all members", "single linkage", "either direction"):
        assert by_name(found)[name].changed.value == 0
    assert by_name(found)["exact text"].changed.value > 0


def test_agreement_with_final_answers_counts_pairs_of_distinct_texts():
    run = made_up_run(1, 5)
    texts = ["4", "4 apples", "5", "4", "none"]
    judged = np.tile(np.array([1.0, 0, 0], np.float32), (1, 6, 6, 1))
    same = np.eye(6, dtype=bool)
    for a, b in ((0, 1), (0, 3), (1, 3), (0, 2), (2, 3)):  # 4 and 5 are the same, says the judge
        same[a, b] = same[b, a] = True
    judged[0, same] = (0, 0, 1)
    samples = tuple(replace(s, text=t) for s, t in zip(run.answers.samples[0], texts, strict=True))
    answers = replace(run.answers, samples=(samples,))
    found = audit(assemble(answers, ((0, 0, 0, 0, 1),), judged), **QUICK).final_answers
    # 4 with "4 apples", 4 with 5, "4 apples" with 5; the other 4 and "none" do not count.
    assert (found.pairs, found.same) == (3, 1)
    assert found.agreement.value == pytest.approx(2 / 3)
    assert found.precision.value == pytest.approx(1 / 2)
    assert found.recall.value == 1


def test_an_intransitive_judge_is_found_out():
    run = made_up_run(60, 8, error=0.3)
    strict = audit(run, **QUICK).intransitivity[1]
    assert strict.relation == "mutual entailment"
    links = mutual_entailment(verdicts(run.judgements[:, :-1, :-1]))
    broken = 0
    paths = 0
    for row, linked in zip(run.answers.samples, links, strict=True):
        first = [i for i, s in enumerate(row) if s.text not in [t.text for t in row[:i]]]
        for a, b, c in itertools.permutations(first, 3):
            paths += linked[a, b] and linked[b, c]
            broken += linked[a, b] and linked[b, c] and not linked[a, c]
    assert strict.paths == paths
    assert strict.triples.value == pytest.approx(broken / paths)
    assert 0 < strict.triples.low < strict.triples.value < strict.triples.high < 1


def test_verdicts_with_the_question_are_grouped_by_the_own_rule():
    run = made_up_run(40, 5, error=0.2)
    row = by_name(audit(run, **QUICK))["question in front"]
    assert row.missing == "not asked of the judge yet: `sep audit` does"
    same = by_name(audit(run, with_question=run.judgements, **QUICK))["question in front"]
    assert same.changed.value == 0
    assert same.difference.value == 0
    other = made_up_run(40, 5, seed=1, error=0.9).judgements
    assert by_name(audit(run, with_question=other, **QUICK))["question in front"].changed.value > 0
    with pytest.raises(ValueError, match="with_question: shape"):
        audit(run, with_question=other[:, :-1, :-1], **QUICK)
    conditioned = replace(
        run, manifest={"config": run.manifest["config"] | {"condition_on_question": True}}
    )
    assert "own verdicts" in by_name(audit(conditioned, **QUICK))["question in front"].missing


def test_a_judge_of_two_labels_cannot_say_that_nothing_contradicts():
    run = made_up_run(20, 4, error=0.2)
    judged = run.judgements.copy()
    judged[..., 1] += judged[..., 0]
    judged[..., 0] = 0
    row = by_name(audit(replace(run, judgements=judged), **QUICK))["no contradiction"]
    assert row.missing == "the judge has no label for contradiction"
    assert row.auroc is None


def test_verdicts_that_are_not_those_of_the_clusters_are_noted():
    run = made_up_run(40, 5, error=0.2)
    found = audit(replace(run, judgements=made_up_run(40, 5, seed=9).judgements), **QUICK)
    assert "give other meanings than the run's" in found.notes[0]


def test_a_finished_run_without_an_nli_judge_says_what_it_lacks(tiny_run: RunConfig):
    run = read_run(tiny_run.run_folder)
    found = audit(run, **QUICK)
    assert {r.name for r in found.rules if not r.missing} == {OWN, "exact text"}
    assert found.intransitivity == ()
    assert found.final_answers is None
    assert "cannot be intransitive" in found.notes[0]
    text = describe_audit(found)
    assert "needs an NLI judge's verdict" in text
    assert "nan" not in text.lower()


def test_clusters_of_a_judge_without_verdicts_still_meet_the_final_answers():
    run = replace(made_up_run(40, 6, error=0.0), judgements=None)
    run.manifest["config"]["judge"] = "cosine"
    found = audit(run, **QUICK)
    assert found.final_answers.agreement.value == 1
    assert "keeps no verdicts" in found.notes[0]


def test_an_undefined_score_says_why_and_nothing_is_nan():
    run = made_up_run(40, 5)
    right = replace(run.targets, wrong=np.zeros(40))
    found = audit(replace(run, targets=right), **QUICK)
    assert "only one class" in by_name(found)[OWN].auroc.undefined
    json.dumps(found.as_dict(), allow_nan=False)
    assert "undefined" in describe_audit(found)
    assert max(map(len, describe_audit(found).splitlines())) <= 100
    assert mean_score("share", [0, 0], [0, 0]).undefined
    ungraded = audit(replace(run, targets=replace(run.targets, wrong=np.full(40, np.nan))), **QUICK)
    json.dumps(ungraded.as_dict(), allow_nan=False)


def test_the_same_seed_gives_the_same_audit():
    run = made_up_run(40, 5, error=0.3)
    assert audit(run, **QUICK, seed=3) == audit(run, **QUICK, seed=3)
    assert either_entails(np.array([[2, 2], [0, 2]])).all()
