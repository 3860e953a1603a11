"""Grouping a stored run anew: exact where nothing changes, and true to naive code where it does."""

from __future__ import annotations

import copy
import re
import shlex
from dataclasses import replace
from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.analyses.run import Pending
from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.evaluation.scores import best_split_threshold
from helpers.meanings.clustering import (
    PairQuery,
    by_founder,
    cluster_naive,
    mutual_entailment,
    no_contradiction,
    verdicts,
)
from helpers.meanings.judges import final_answer_equivalence
from helpers.studies.registry import config_from_arguments, make_config
from helpers.studies.semantic_entropy.analyses.sample_budget import sample_budget
from helpers.studies.semantic_entropy.open_run import open_run
from helpers.studies.semantic_entropy.run_files import StoredRun
from helpers.studies.semantic_entropy.what_if import (
    GROUPERS,
    LINKAGES,
    RULES,
    WhatIf,
    as_stored,
    budget_curve,
    links,
    possible,
    regroup,
    subset_entropies,
)
from helpers.studies.semantic_entropy.what_if_views import (
    another_run,
    budget,
    chosen_place,
    examples,
    histogram,
    probe_at,
    probe_table,
    r_squared,
    reliability_at,
    summary_table,
    temperature_figure,
    temperature_runs,
    temperature_table,
)
from helpers.uncertainty.entropies import semantic_entropy
from support.made_up_runs import assemble, made_up_run
from support.planted_runs import planted

SEEDS = st.integers(0, 10_000)
THRESHOLDS = st.one_of(st.none(), st.floats(0, 1))


def of_other_judge(run: StoredRun, judge: str) -> StoredRun:
    """The same answers as another judge would have grouped them, without any verdicts."""
    pairs = {
        "final-answer": lambda a, b: final_answer_equivalence([PairQuery("", a, b)])[0],
        "cosine": lambda a, b: len(a) == len(b),
    }
    rows = [[s.text for s in row] for row in run.answers.samples]
    ids = tuple(tuple(cluster_naive(row, pairs[judge])) for row in rows)
    return assemble(run.answers, ids, None, judge=judge)


def lenient(run: StoredRun) -> StoredRun:
    """The same answers and verdicts, grouped by the rule no-contradiction."""
    assert run.judgements is not None
    ids = by_founder(no_contradiction(verdicts(run.judgements[:, :-1, :-1])))
    clusters = tuple(map(tuple, ids.tolist()))
    return assemble(run.answers, clusters, run.judgements, entailment="no-contradiction")


def truncated(run: StoredRun, k: int) -> StoredRun:
    """The run that had sampled k answers a question."""
    assert run.judgements is not None
    answers = replace(run.answers, samples=tuple(row[:k] for row in run.answers.samples))
    kept = [*range(k), len(run.answers.samples[0])]
    judgements = run.judgements[:, kept][:, :, kept]
    ids = by_founder(mutual_entailment(verdicts(judgements[:, :k, :k])))
    return assemble(answers, tuple(map(tuple, ids.tolist())), judgements)


def judged_run() -> StoredRun:
    """A run whose judge often contradicts itself, with a probe that foresees its entropy."""
    run = made_up_run(80, 6, seed=3, error=0.3)
    noise = np.random.default_rng(0).normal(size=80)
    return replace(run, predicted={"high_semantic_entropy": run.targets.semantic_entropy + noise})


# --- as stored ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "rule"),
    [
        (made_up_run(60, 6, seed=1, error=0.3), "strict"),
        (lenient(made_up_run(60, 6, seed=2, error=0.3)), "no-contradiction"),
        (of_other_judge(made_up_run(60, 6, seed=3), "final-answer"), "final-answer"),
        (of_other_judge(made_up_run(60, 6, seed=4), "cosine"), "as-stored"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_run_s_own_options_give_the_run_again_exactly(run, rule):
    options = as_stored(run)
    assert options.rule == rule
    found = regroup(run, options)
    np.testing.assert_array_equal(found.clusters, run.meanings.clusters)
    np.testing.assert_array_equal(found.semantic_entropy, run.uncertainty["semantic_entropy"])
    assert found.gamma == run.targets.threshold
    assert not found.changed.any()
    assert replace(found.now.wrong_answer, p_value=None) == found.stored.wrong_answer
    assert found.differences["wrong_answer"].value == 0


def test_a_run_of_the_lab_comes_out_as_it_was_assessed(tiny_run: RunConfig):
    run = open_run(tiny_run.run_folder)
    found = regroup(run, as_stored(run))
    np.testing.assert_array_equal(found.clusters, run.meanings.clusters)
    np.testing.assert_array_equal(found.semantic_entropy, run.targets.semantic_entropy)
    own = run.assessment.wrong_answer["semantic_entropy"]["auroc"]
    assert found.now.wrong_answer.value == pytest.approx(own.value, abs=1e-12)
    probe = run.assessment.high_entropy["high_semantic_entropy"]["auroc"]
    assert found.now.probe.value == pytest.approx(probe.value, abs=1e-12)
    under_way = regroup(replace(run, assessment=Pending("evaluation")), as_stored(run))
    assert "still to come" in under_way.now.probe.undefined
    assert under_way.now.wrong_answer == found.now.wrong_answer


def test_exact_texts_are_the_clusters_of_lexical_entropy():
    run = made_up_run(50, 6)
    found = regroup(run, WhatIf("exact-text", 6))
    np.testing.assert_array_equal(found.semantic_entropy, run.uncertainty["lexical_entropy"])


def test_nothing_of_the_run_is_changed():
    run = judged_run()
    before = copy.deepcopy(run)
    found = regroup(run, WhatIf("either", 4, 0.7, "any", 0.5))
    for drawn in (histogram(found, run, 12), budget(found, run)):
        assert drawn.data
    examples(found, run)
    assert run.meanings == before.meanings
    np.testing.assert_array_equal(run.judgements, before.judgements)
    np.testing.assert_array_equal(run.targets.semantic_entropy, before.targets.semantic_entropy)
    np.testing.assert_array_equal(run.targets.high, before.targets.high)


# --- against naive code ---------------------------------------------------------------------------


def naive_link(rule: str, forth: np.ndarray, back: np.ndarray, threshold: float | None) -> bool:
    """Whether two answers are linked by the judge's probabilities in either direction."""
    first, second = int(forth.argmax()), int(back.argmax())
    if rule == "no-contradiction":
        return first != 0 and second != 0 and (first, second) != (1, 1)
    if threshold is None:
        entailed = [first == 2, second == 2]
    else:
        entailed = [forth[2] >= np.float32(threshold), back[2] >= np.float32(threshold)]
    return all(entailed) if rule == "strict" else any(entailed)


def naive_groups(linked: np.ndarray, linkage: str) -> list[set[int]]:
    """One question's groups, each answer in turn."""
    groups: list[list[int]] = []
    for j in range(len(linked)):
        ask = {"founder": lambda g, j=j: linked[g[0], j], "any": lambda g, j=j: linked[g, j].any(),
               "all": lambda g, j=j: linked[g, j].all()}[linkage]  # fmt: skip
        fits = [g for g in groups if ask(g)]
        if linkage == "any":  # an answer may join groups that were apart
            groups = [g for g in groups if g not in fits] + [[*chain(*fits), j]]
        elif fits:
            fits[0].append(j)
        else:
            groups.append([j])
    return [set(g) for g in groups]


def as_sets(ids: np.ndarray) -> list[set[int]]:
    return [set(np.flatnonzero(ids == g).tolist()) for g in np.unique(ids)]


def grouped(run: StoredRun, options: WhatIf) -> np.ndarray:
    return GROUPERS[options.linkage](links(run, options))


@given(SEEDS, st.sampled_from(["strict", "no-contradiction", "either"]), THRESHOLDS)
@settings(max_examples=25)
def test_links_and_groups_are_the_naive_ones(seed, rule, threshold):
    run = made_up_run(5, 5, seed=seed, error=0.5)
    for linkage in ("founder", "any", "all"):
        options = WhatIf(rule, 5, threshold, linkage)
        found = grouped(run, options)
        for q, (p, ids) in enumerate(zip(run.judgements, found, strict=True)):
            naive = np.array([[i == j or naive_link(rule, p[i, j], p[j, i], threshold)
                               for j in range(5)] for i in range(5)])  # fmt: skip
            np.testing.assert_array_equal(links(run, options)[q], naive)
            expected = naive_groups(naive, linkage)
            assert sorted(map(sorted, as_sets(ids))) == sorted(map(sorted, expected))
            assert list(dict.fromkeys(ids.tolist())) == list(range(len(expected)))


@given(SEEDS, st.sampled_from(list(LINKAGES)), st.integers(1, 5))
@settings(max_examples=25)
def test_entropies_of_subsets_are_those_of_runs_that_sampled_no_more(seed, linkage, size):
    run = made_up_run(4, 5, seed=seed, error=0.5)
    linked = links(run, WhatIf("strict", 5))
    subsets = np.array(list(combinations(range(5), size)))
    found = subset_entropies(linked, linkage, subsets)
    for q, row in enumerate(found):
        for subset, entropy in zip(subsets, row, strict=True):
            alone = linked[q : q + 1][:, subset][:, :, subset]
            naive = semantic_entropy(GROUPERS[linkage](alone)[0].tolist())
            assert entropy == pytest.approx(naive, abs=1e-11)


# --- what must hold ------------------------------------------------------------------------------


@given(SEEDS, st.sampled_from(["strict", "no-contradiction", "either"]), THRESHOLDS)
@settings(max_examples=40)
def test_complete_linkage_holds_no_pair_without_a_link(seed, rule, threshold):
    run = made_up_run(6, 6, seed=seed, error=0.6)
    options = WhatIf(rule, 6, threshold, "all")
    complete, single = (grouped(run, replace(options, linkage=name)) for name in ("all", "any"))
    together = complete[:, :, None] == complete[:, None, :]
    assert not (together & ~links(run, options)).any()
    apart = single[:, :, None] != single[:, None, :]
    assert not (apart & links(run, options)).any()


@given(SEEDS, st.sampled_from(["strict", "either"]), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=40)
def test_raising_the_threshold_never_merges(seed, rule, one, other):
    run = made_up_run(8, 5, seed=seed, error=0.5)
    low, high = (WhatIf(rule, 5, t, "any") for t in sorted((one, other)))
    assert not (links(run, high) & ~links(run, low)).any()
    for coarse, fine in zip(grouped(run, low), grouped(run, high), strict=True):
        assert len({(f, c) for f, c in zip(fine, coarse, strict=True)}) == len(set(fine))


def test_the_first_k_samples_are_grouped_as_a_run_of_k_samples():
    run = made_up_run(60, 7, seed=5, error=0.3)
    for k in (2, 4, 6):
        shorter = truncated(run, k)
        ours, theirs = regroup(run, WhatIf("strict", k)), regroup(shorter, as_stored(shorter))
        np.testing.assert_array_equal(ours.clusters, theirs.clusters)
        np.testing.assert_array_equal(ours.clusters, shorter.meanings.clusters)
        assert ours.now.wrong_answer == theirs.now.wrong_answer
        assert ours.gamma == theirs.gamma
        assert ours.budget == theirs.budget
        assert not ours.changed.any()  # the same samples, grouped as the run grouped them


def test_gamma_is_learnt_on_train_and_makes_the_labels():
    run = judged_run()
    found = regroup(run, WhatIf("exact-text", 6))
    train = run.targets.splits == "train"
    assert found.gamma == best_split_threshold(found.semantic_entropy[train])
    assert found.gamma != run.targets.threshold
    test = run.targets.rows("test")
    for gamma in (0.4, found.gamma):
        own = regroup(run, WhatIf("exact-text", 6, gamma=gamma))
        assert own.now.high.value == pytest.approx((own.semantic_entropy[test] > gamma).mean())
    assert own.now == found.now
    everything = regroup(run, WhatIf("strict", 6, gamma=float(np.log(6))))
    assert everything.now.probe.value is None
    assert "only one class (0 of 40 high)" in everything.now.probe.undefined


def test_means_of_a_grouping_are_those_of_its_test_questions():
    run = judged_run()
    found = regroup(run, WhatIf("exact-text", 5))
    test = run.targets.rows("test")
    texts = [[s.text for s in row[:5]] for row in run.answers.samples]
    meanings = np.array([len(set(row)) for row in texts])
    entropy = np.array([semantic_entropy([row.index(t) for t in row]) for row in texts])
    assert found.now.meanings.value == pytest.approx(meanings[test].mean())
    assert found.now.entropy.value == pytest.approx(entropy[test].mean())
    moved = [
        any((row[i] == row[j]) != (own[i] == own[j]) for i in range(5) for j in range(i))
        for row, own in zip(texts, run.meanings.clusters, strict=True)
    ]
    assert found.changed.tolist() == moved
    assert 0 < sum(moved) < len(moved)


# --- the budget curve ----------------------------------------------------------------------------


def test_the_budget_curve_is_that_of_the_analysis_where_all_subsets_are_taken():
    run = made_up_run(60, 5, seed=1, error=0.3)
    found = regroup(run, as_stored(run)).budget
    expected = sample_budget(run).curves["semantic_entropy"]
    assert [level.subsets for level in found] == [point.subsets for point in expected]
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("value", "low", "high", "n"):
            assert getattr(ours.auroc, name) == pytest.approx(getattr(theirs.auroc, name))


def test_fewer_subsets_give_the_same_curve_within_their_sampling_error():
    run = made_up_run(120, 9, seed=2, error=0.3)
    linked = links(run, as_stored(run))
    rows = run.targets.rows("test", run.targets.wrong)
    wrong = run.targets.wrong[rows]
    few = budget_curve(linked[rows], "founder", wrong)
    every = budget_curve(linked[rows], "founder", wrong, most_subsets=200)
    assert few[4].subsets == 16
    assert every[4].subsets == 126
    np.testing.assert_allclose([a.auroc.value for a in few], [a.auroc.value for a in every],
                               atol=0.03)  # fmt: skip
    assert few[0].auroc.value == 0.5
    assert few[-1] == every[-1]


# --- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (WhatIf("stern", 5), "rule is 'stern': choose one of strict, no-contradiction"),
        (WhatIf("strict", 5, linkage="ward"), "linkage is 'ward': choose one of founder, any"),
        (WhatIf("strict", 1), "k is 1: choose a whole number from 2 to 5"),
        (WhatIf("strict", 6), "k is 6: choose a whole number from 2 to 5"),
        (WhatIf("strict", 2.5), "k is 2.5"),  # type: ignore[arg-type]
        (WhatIf("strict", 5, 1.01), "threshold is 1.01: choose a probability from 0 to 1"),
        (WhatIf("either", 5, float("nan")), "threshold is nan"),
        (WhatIf("strict", 5, "0.5"), "threshold is '0.5'"),  # type: ignore[arg-type]
        (WhatIf("strict", 5, gamma=-0.1), "gamma is -0.1: choose from 0 to ln 5 = 1.61 nats"),
        (WhatIf("strict", 5, gamma=float("inf")), "gamma is inf"),
    ],
)
def test_options_out_of_range_are_refused_with_the_range(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        regroup(made_up_run(12, 5), options)


def test_rules_that_a_run_does_not_allow_say_why():
    run = made_up_run(12, 5)
    assert set(possible(run).items()) == {(rule, "") for rule in RULES if rule != "as-stored"}
    without = of_other_judge(run, "cosine")
    reasons = possible(without)
    assert [rule for rule, why in reasons.items() if not why] == [
        "final-answer", "exact-text", "as-stored",
    ]  # fmt: skip
    with pytest.raises(UserError, match="'strict' is not possible: the run keeps no judge's"):
        regroup(without, WhatIf("strict", 5))
    binary = np.array(run.judgements)
    binary[..., 1] += binary[..., 0]
    binary[..., 0] = 0
    assert "no label" in possible(replace(run, judgements=binary))["no-contradiction"]
    with pytest.raises(UserError, match="same number of samples"):
        possible(lopsided(run))


def lopsided(run: StoredRun) -> StoredRun:
    """A run of which one question lacks an answer."""
    samples = (run.answers.samples[0][:3], *run.answers.samples[1:])
    return replace(run, answers=replace(run.answers, samples=samples))


def test_an_option_without_effect_is_said_to_have_none():
    run = made_up_run(30, 5)
    found = regroup(run, WhatIf("final-answer", 5, 0.9, "any"))
    assert "threshold is not used" in " ".join(found.notes)
    assert "linkage makes no difference" in " ".join(found.notes)
    plain = regroup(run, WhatIf("final-answer", 5))
    np.testing.assert_array_equal(found.clusters, plain.clusters)
    assert plain.notes == ()


# --- figures and tables --------------------------------------------------------------------------


def test_figures_follow_the_options():
    run = judged_run()
    found = regroup(run, WhatIf("exact-text", 5))
    fig = histogram(found, run, 12)
    bars, outline = fig.data
    assert len(bars.y) == 12
    assert sum(bars.y) == len(run.answers.questions)
    assert sum(outline.y[1:-1:2]) == len(run.answers.questions)
    assert found.gamma in [shape.x0 for shape in fig.layout.shapes]
    curve = next(trace for trace in budget(found, run).data if "now" in (trace.name or ""))
    assert list(curve.x) == [1, 2, 3, 4, 5]
    for bins in (1, 201, 7.5):
        with pytest.raises(UserError, match="whole number from 2 to 200"):
            histogram(found, run, bins)  # type: ignore[arg-type]


def test_tables_say_what_changed_and_never_nan():
    run = judged_run()
    same, other = (regroup(run, WhatIf(rule, 6)) for rule in ("strict", "exact-text"))
    assert "grouped otherwise" in examples(same, run)
    assert ">0<" in summary_table(same, run)
    table = summary_table(other, run)
    assert f"In {int(other.changed.sum())} of 80 questions" in table
    assert "not trained again" in table
    flat = regroup(run, WhatIf("strict", 6, threshold=0.0))
    assert flat.gamma is None
    for shown in (summary_table(flat, run), table):
        assert "nan" not in shown.lower()
    assert "every train question has the same semantic entropy" in summary_table(flat, run)
    assert "every train question" in histogram(flat, run).layout.title.text
    assert not np.isnan([level.auroc.value for level in flat.budget]).any()


def test_answers_that_hold_markup_are_shown_as_text():
    run = made_up_run(30, 5, error=0.3)
    bad = "<img src=x onerror=alert(1)>"
    samples = tuple(
        tuple(replace(s, text=f"{bad} {i}") for i, s in enumerate(row))
        for row in run.answers.samples
    )
    questions = tuple(replace(q, question=bad) for q in run.answers.questions)
    run = replace(run, answers=replace(run.answers, samples=samples, questions=questions))
    shown = examples(regroup(run, WhatIf("exact-text", 5)), run)
    assert "<img" not in shown
    assert "&lt;img" in shown


def test_a_wrong_answer_of_one_class_is_undefined_in_words():
    run = judged_run()
    right = replace(run, targets=replace(run.targets, wrong=np.zeros(80)))
    found = regroup(right, as_stored(right))
    assert "only one class" in found.now.wrong_answer.undefined
    assert "only one class" in budget(found, right).layout.annotations[0].text
    assert "only one class" in summary_table(found, right)


# --- another place for the probe ------------------------------------------------------------------


def test_at_the_place_that_validation_chose_the_probe_is_the_run_s_own(tiny_run: RunConfig):
    run = open_run(tiny_run.run_folder)
    test = run.targets.rows("test")
    for target in ("semantic_entropy", "high_semantic_entropy", "wrong_answer"):
        place = chosen_place(run, target)
        if place is None:
            assert target in run.trained.undefined
            continue
        found = probe_at(run, run.states.hidden, target, *place)
        rows = test if target != "wrong_answer" else run.targets.rows("test", run.targets.wrong)
        np.testing.assert_allclose(found.predicted, run.assessment.predicted[target][rows])
        assert found.here.validation_score == pytest.approx(run.trained.sweeps[target].best_score)
        assert "This is the place that validation chose" in probe_table(found)


@pytest.fixture
def signal(tmp_path, monkeypatch) -> StoredRun:
    """A run whose signal stands in layer 1 at tbg, which validation is said to have chosen."""
    run = planted(tmp_path, 200)
    place = {"position": "tbg", "layer": 1}
    chosen = dict.fromkeys(("semantic_entropy", "high_semantic_entropy", "wrong_answer"), place)
    monkeypatch.setattr(StoredRun, "metrics", lambda self: {"chosen": chosen})
    return run


def hidden_of(run: StoredRun) -> dict[str, np.ndarray]:
    return {position: run.hidden(position) for position in run.positions}


@pytest.mark.parametrize("target", ["semantic_entropy", "high_semantic_entropy", "wrong_answer"])
def test_a_place_without_the_signal_scores_worse_and_the_words_warn(signal, target):
    states = hidden_of(signal)
    found = probe_at(signal, states, target, "answer_last", 2)
    assert found.chosen is not None
    assert found.here.test.value < found.chosen.test.value - 0.2
    assert found.here.validation_score < found.chosen.validation_score
    table = probe_table(found)
    assert "chosen by the test questions" in table
    assert found.score_name in table


def test_test_labels_choose_nothing_at_any_place(signal):
    states, test = hidden_of(signal), signal.targets.splits == "test"
    turned = replace(signal, targets=replace(
        signal.targets, wrong=np.where(test, 1 - signal.targets.wrong, signal.targets.wrong)
    ))  # fmt: skip
    ours, theirs = (probe_at(r, states, "wrong_answer", "tbg", 1).here for r in (signal, turned))
    np.testing.assert_array_equal(ours.probe.weight, theirs.probe.weight)
    assert ours.validation_score == theirs.validation_score
    assert ours.test.value == pytest.approx(1 - theirs.test.value)


def test_gamma_makes_the_probe_s_labels(signal):
    entropy, test = signal.targets.semantic_entropy, signal.targets.rows("test")
    states = hidden_of(signal)
    found = probe_at(signal, states, "high_semantic_entropy", "tbg", 1, 1.7)
    np.testing.assert_array_equal(found.labels, entropy[test] > 1.7)
    assert found.gamma == 1.7
    nothing = probe_at(signal, states, "high_semantic_entropy", "tbg", 1, 9.0)
    assert "only one class" in nothing.here.test.undefined
    assert "only one class" in probe_table(nothing)
    assert "only one class" in reliability_at(nothing, 10).layout.annotations[0].text


def test_r_squared_is_the_share_of_the_squared_error_taken_away():
    rng = np.random.default_rng(0)
    true = rng.normal(size=50)
    predicted = true + rng.normal(size=50)
    naive = 1 - ((true - predicted) ** 2).mean() / ((true - 0.3) ** 2).mean()
    metric = r_squared(predicted, true, 0.3)
    assert metric.value() == pytest.approx(naive)
    doubled = metric.weighted(np.repeat([[2.0, 1.0]], 25, axis=0).reshape(1, 50))[0]
    again = np.repeat(np.arange(50), np.tile([2, 1], 25))
    assert doubled == pytest.approx(r_squared(predicted[again], true[again], 0.3).value())


def test_reliability_has_as_many_bins_as_asked_for(signal):
    states = hidden_of(signal)
    found = probe_at(signal, states, "wrong_answer", "tbg", 1)
    for bins in (3, 10):
        counts = reliability_at(found, bins).data[-1].y
        assert len(counts) <= bins
        assert sum(counts) == found.here.test.n
    ridge = probe_at(signal, states, "semantic_entropy", "tbg", 1)
    assert "nats, not probabilities" in reliability_at(ridge, 10).layout.annotations[0].text


@pytest.mark.parametrize(
    ("target", "position", "layer", "gamma", "message"),
    [
        ("entropy", "tbg", 1, None, "target is 'entropy': choose one of semantic_entropy"),
        ("wrong_answer", "nose", 1, None, "position 'nose': not captured: choose one of tbg"),
        ("wrong_answer", "tbg", 3, None, "choose 0 (the embedding) to 2"),
        ("high_semantic_entropy", "tbg", 1, -1.0, "gamma is -1.0: choose a number of nats"),
    ],
)
def test_places_that_are_not_there_are_refused(signal, target, position, layer, gamma, message):
    with pytest.raises(UserError, match=re.escape(message)):
        probe_at(signal, hidden_of(signal), target, position, layer, gamma)


# --- temperature ----------------------------------------------------------------------------------


def at(temperature: float, answers: int = 0, **changes: object) -> StoredRun:
    """A run of made-up answers whose manifest says that they have this temperature."""
    run = made_up_run(60, 5, seed=answers, error=0.1)
    fields = make_config(k=5, temperature=temperature, **changes).results_fields()
    return replace(run, manifest={"config": fields, "hashes": {"model_hash": "m"}})


def test_runs_are_compared_where_they_differ_in_temperature_only():
    runs = [at(1.0, 1), at(0.5, 2), at(1.5, 3), at(0.7, 4, top_p=0.9), at(0.2, 5, seed=1)]
    runs.append(replace(at(0.3, 6), manifest=runs[0].manifest | {"hashes": {"model_hash": "o"}}))
    runs.append(at(0.5, 7))
    rows = temperature_runs(runs)
    assert [row.temperature for row in rows] == [0.5, 1.0, 1.5]
    for row, run in zip(rows, (runs[1], runs[0], runs[2]), strict=True):
        test = run.targets.rows("test")
        assert row.entropy.value == pytest.approx(run.targets.semantic_entropy[test].mean())
        right = [np.mean([g.correct for g in grades if g.correct is not None])
                 for grades, q in zip(run.meanings.grades, test, strict=True) if q]  # fmt: skip
        assert row.accuracy.value == pytest.approx(np.mean(right))
        assert row.wrong_answer == regroup(run, WhatIf("strict", 5)).now.wrong_answer
    entropies = temperature_figure(rows).data[0]
    assert list(entropies.x) == [0.5, 1.0, 1.5]
    assert list(entropies.y) == [row.entropy.value for row in rows]
    assert temperature_table(rows).count("<tr>") == 4
    assert temperature_runs([]) == ()


def test_one_run_alone_says_which_command_makes_another():
    (row,) = temperature_runs([at(1.0)])
    words = " ".join(note.text for note in temperature_figure([row]).layout.annotations)
    assert "There is one run of these settings" in words
    assert "--temperature 0.7" in temperature_table([row])
    assert "uv run sep run" in temperature_figure([]).layout.annotations[0].text


@pytest.mark.parametrize(
    "config",
    [
        make_config(),
        make_config("gpt2-gsm8k", limit=50, stop=("\nQ: a b", "x'y"), chat=True),
        make_config(k=4, positions=("tbg",), cosine_threshold=0.8, judge="cosine"),
    ],
    ids=["lab", "gsm8k", "cosine"],
)
def test_the_command_makes_the_same_run_but_for_its_temperature(config):
    command = shlex.split(another_run(config, 0.4))
    assert command[:4] == ["uv", "run", "sep", "run"]
    again = config_from_arguments(command[4:])
    assert again.results_fields() == config.results_fields() | {"temperature": 0.4}


def test_the_command_names_folders_of_one_s_own_but_none_of_this_machine(tmp_path):
    relative = make_config(out="results of mine", cache_dir="cache")
    again = config_from_arguments(shlex.split(another_run(relative, 0.4))[4:])
    assert (again.out, again.cache_dir) == (relative.out, relative.cache_dir)
    words = another_run(make_config(out=tmp_path, cache_dir=tmp_path / "c"), 0.4)
    assert words == another_run(make_config(), 0.4)
    usual = make_config()
    assert another_run(make_config(out=usual.out.resolve()), 0.4) == another_run(usual, 0.4)
    elsewhere = replace(at(1.0), folder=tmp_path / "run")
    page = temperature_table(temperature_runs([elsewhere]))
    assert str(tmp_path) not in page
    assert "with the --out and --cache-dir of this one" in page
