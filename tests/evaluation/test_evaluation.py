"""Metrics, intervals and p-values: against references, plain loops, and what they must mean."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from helpers.evaluation import metrics, resampling
from helpers.evaluation.metrics import CLASSIFIER_METRICS, REGRESSION_METRICS, auroc, ece, spearman
from helpers.evaluation.resampling import (
    group_count,
    group_index,
    permutations,
    resamples,
    unit_resamples,
)
from helpers.evaluation.scores import (
    Score,
    best_split_threshold,
    correlation,
    evaluate_classifier,
    evaluate_regression,
    format_score,
    paired_difference,
    permutation_p_value,
    reliability,
    risk_coverage,
    roc_curve,
    score_metric,
)
from helpers.probes.tripwires import (
    constant_input_tripwire,
    memorisation_tripwire,
    shuffled_scores_tripwire,
)


@st.composite
def scored_labels(draw):
    """Scores with many ties and 0/1 labels, both classes present."""
    n = draw(st.integers(2, 30))
    scores = np.array(draw(st.lists(st.integers(-5, 5), min_size=n, max_size=n))) / 5
    labels = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    labels[0], labels[1] = 0, 1
    return scores, labels


def noisy(n: int, seed: int, signal: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores that separate 0/1 labels with a given strength; rounded, so that some tie."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    labels[:2] = 0, 1
    return np.round(rng.normal(size=n) + signal * labels, 1), labels


# ---------------------------------------------------------------- values against references


@given(scored_labels())
def test_classifier_metrics_equal_sklearn_with_ties(data):
    scores, labels = data
    p = (scores + 1) / 2
    found = evaluate_classifier(scores, labels, probabilities=p, n_boot=10, n_perm=10)
    assert found["auroc"].value == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores))
    assert found["average_precision"].value == pytest.approx(
        sklearn.metrics.average_precision_score(labels, scores)
    )
    assert found["brier"].value == pytest.approx(sklearn.metrics.brier_score_loss(labels, p))
    naive_ece = sum(
        abs(labels[rows].mean() - p[rows].mean()) * len(rows) / len(p)
        for k in range(10)
        if len(rows := np.flatnonzero(np.minimum((p * 10).astype(int), 9) == k))
    )
    assert found["ece"].value == pytest.approx(naive_ece, abs=1e-12)


def test_regression_metrics_equal_numpy_and_scipy():
    rng = np.random.default_rng(0)
    true = np.round(rng.normal(size=60), 1)
    predicted = np.round(true + rng.normal(size=60), 1)
    found = evaluate_regression(predicted, true, n_boot=50, n_perm=50)
    assert found["rmse"].value == pytest.approx(np.sqrt(np.mean((predicted - true) ** 2)))
    assert found["mae"].value == pytest.approx(np.mean(np.abs(predicted - true)))
    reference = scipy.stats.spearmanr(predicted, true).statistic
    assert found["spearman"].value == pytest.approx(reference, abs=1e-12)


@given(scored_labels())
def test_auroc_turns_round_with_the_scores_and_ignores_monotone_maps(data):
    scores, labels = data
    area = auroc(scores, labels).value()
    assert auroc(-scores, labels).value() == pytest.approx(1 - area, abs=1e-12)
    assert auroc(np.exp(3 * scores) - 7, labels).value() == area


def test_constant_scores_give_exactly_one_half():
    score = evaluate_classifier(np.ones(20), np.arange(20) % 2, n_boot=100, n_perm=100)["auroc"]
    assert (score.value, score.low, score.high, score.p_value) == (0.5, 0.5, 0.5, 1.0)
    assert "same value" in score.note


# ------------------------------------------------------------- resamples against plain loops


@pytest.mark.parametrize("name", [*CLASSIFIER_METRICS, *REGRESSION_METRICS])
def test_resamples_and_permutations_equal_a_loop_over_repeated_rows(name):
    scores, labels = noisy(25, seed=3)
    bind = (CLASSIFIER_METRICS | REGRESSION_METRICS)[name]
    if name in ("brier", "ece"):
        scores = 1 / (1 + np.exp(-scores))
    metric = bind(scores, labels)
    (weights,) = resamples(25, 200, seed=1)
    looped = []
    for row in weights.astype(int):
        drawn = np.repeat(np.arange(25), row)
        looped.append(bind(scores[drawn], labels[drawn]).value())
    np.testing.assert_allclose(metric.weighted(weights), looped, rtol=0, atol=1e-12)

    if metric.permuted is not None:
        (indices,) = permutations(25, 200, seed=1)
        looped = [bind(scores, labels[row]).value() for row in indices]
        np.testing.assert_allclose(metric.permuted(indices), looped, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [*CLASSIFIER_METRICS, *REGRESSION_METRICS])
@pytest.mark.parametrize("way", ["a table of pairs", "in parts", "by rows"])
def test_metrics_of_whole_groups_equal_those_of_their_rows(name, way, monkeypatch):
    """Group weights alone give what giving every row its group's weight gives."""
    monkeypatch.setattr(metrics, "PAIRS_A_ROW", 0 if way == "by rows" else 200)
    monkeypatch.setattr(metrics, "TABLE_CELLS", 300 if way == "in parts" else 1_000_000)
    scores, labels = noisy(80, seed=3)
    if name in ("brier", "ece"):
        scores = 1 / (1 + np.exp(-scores))
    groups = np.random.default_rng(1).integers(0, 12, 80)
    labels[groups == 2] = 1  # groups of one class, and no group of number 5
    labels[groups == 3] = 0
    groups[groups == 5] = 6
    metric = (CLASSIFIER_METRICS | REGRESSION_METRICS)[name](scores, labels)
    of_group = group_index(groups, 80)
    counts = np.concatenate(list(unit_resamples(80, group_count(of_group), 200, seed=1)))
    rows = np.concatenate(list(resamples(80, 200, 1, groups)))
    np.testing.assert_array_equal(counts[:, of_group], rows)
    found = metric.of_groups(of_group)(counts)
    np.testing.assert_allclose(found, metric.weighted(rows), rtol=0, atol=1e-12)


def test_group_permutations_move_whole_groups_and_keep_their_rows_in_order():
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(9), [1, 2, 2, 2, 3, 3, 4, 4, 4]))
    for moved in np.concatenate(list(permutations(len(groups), 50, 0, groups))):
        assert (np.sort(moved) == np.arange(len(groups))).all()
        for group in range(9):
            source = moved[groups == group]
            assert len(set(groups[source])) == 1
            assert (np.diff(source) > 0).all()


def test_draws_have_the_right_margins_and_small_chunks_change_no_shape(monkeypatch):
    monkeypatch.setattr(resampling, "MATRIX_CELLS", 1000)
    chunks = list(resamples(40, 1010, seed=0))
    assert [len(chunk) for chunk in chunks] == [25] * 40 + [10]
    weights = np.concatenate(chunks)
    assert (weights.sum(axis=1) == 40).all()
    assert weights.var() == pytest.approx(1 - 1 / 40, abs=0.05)  # multinomial
    indices = np.concatenate(list(permutations(40, 1010, seed=0)))
    assert (np.sort(indices, axis=1) == np.arange(40)).all()
    assert len(np.unique(indices, axis=0)) == 1010


def test_copies_of_a_question_add_no_certainty_when_grouped():
    scores, labels = noisy(40, seed=5)
    single = evaluate_classifier(scores, labels, seed=2)["auroc"]
    copies = np.repeat(np.arange(40), 5)
    grouped = evaluate_classifier(scores[copies], labels[copies], seed=2, groups=copies)["auroc"]
    naive = evaluate_classifier(scores[copies], labels[copies], seed=2)["auroc"]
    assert grouped.low == pytest.approx(single.low, abs=1e-12)
    assert grouped.high == pytest.approx(single.high, abs=1e-12)
    assert grouped.p_value == pytest.approx(single.p_value)
    assert naive.high - naive.low < 0.6 * (single.high - single.low)


def test_groups_trade_labels_only_with_groups_of_their_size():
    groups = ["a", "b", "b", "c", "d", "d"]
    indices = np.concatenate(list(permutations(6, 100, 0, groups)))
    assert set(indices[:, 0]) == {0, 3}
    assert {tuple(row) for row in indices[:, [1, 2]]} == {(1, 2), (4, 5)}


def test_groups_of_different_sizes_leave_no_p_value_and_say_so():
    scores, labels = noisy(36, seed=0)
    sizes = np.repeat(np.arange(1, 9), np.arange(1, 9))
    found = evaluate_classifier(scores, labels, groups=sizes, n_boot=200)["auroc"]
    assert found.p_value is None
    assert found.low < found.value < found.high
    assert found.note == "no p-value: no two groups are of equal size"


# -------------------------------------------------------------- what the numbers must mean


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    truth = scipy.stats.norm.cdf(1 / np.sqrt(2))
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = np.arange(100) % 2
        scores = rng.normal(size=100) + labels
        score = score_metric(auroc(scores, labels), n_boot=300, n_perm=1, seed=seed)
        covered += score.low <= truth <= score.high
    assert 0.89 <= covered / 200 <= 0.99


@pytest.mark.parametrize("name", ["auroc", "average_precision", "spearman"])
def test_p_values_are_uniform_when_there_is_nothing_to_find(name):
    bind = (CLASSIFIER_METRICS | REGRESSION_METRICS)[name]
    p_values = [
        permutation_p_value(bind(*noisy(40, seed, signal=0.0)), 199, seed) for seed in range(300)
    ]
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 0.001
    assert np.mean(np.array(p_values) <= 0.05) < 0.1


def test_p_values_are_small_for_signal_and_never_zero():
    scores, labels = noisy(100, seed=0, signal=3.0)
    found = evaluate_classifier(scores, labels, probabilities=1 / (1 + np.exp(1.5 - scores)))
    for name in ("auroc", "average_precision", "brier"):
        assert found[name].p_value == 1 / 2001
    assert found["ece"].p_value is None
    errors = evaluate_regression(scores, 3.0 * labels)
    assert {score.p_value for score in errors.values()} == {1 / 2001}
    # One-sided where a direction is claimed, two-sided where none is.
    assert evaluate_classifier(-scores, labels)["auroc"].p_value == 1.0
    assert correlation(-scores, labels).p_value == 1 / 2001


def test_identical_methods_differ_by_exactly_nothing():
    scores, labels = noisy(60, seed=1)
    for metric in ("auroc", "average_precision", "spearman", "rmse", "mae"):
        score = paired_difference(scores, scores.copy(), labels, metric, n_boot=200)
        assert (score.value, score.low, score.high, score.p_value) == (0, 0, 0, 1)


def test_a_paired_difference_is_sharper_than_two_intervals_and_has_a_sign():
    good, labels = noisy(200, seed=1, signal=1.5)
    worse = good + np.random.default_rng(0).normal(scale=1.0, size=200)
    score = paired_difference(good, worse, labels)
    value_good, value_worse = auroc(good, labels).value(), auroc(worse, labels).value()
    assert score.value == pytest.approx(value_good - value_worse)
    assert score.low > 0
    assert score.p_value < 0.05
    reverse = paired_difference(worse, good, labels)
    assert (reverse.value, reverse.low) == pytest.approx((-score.value, -score.high))
    assert reverse.p_value == score.p_value


def test_the_paired_p_value_counts_resamples_on_the_other_side_twice():
    a, labels = noisy(60, seed=2)
    b = a + np.random.default_rng(1).normal(scale=0.5, size=60)
    score = paired_difference(a, b, labels, n_boot=400, seed=3)
    weights = np.concatenate(list(resamples(60, 400, seed=3)))
    draws = auroc(a, labels).weighted(weights) - auroc(b, labels).weighted(weights)
    other_side = min((draws <= 0).sum(), (draws >= 0).sum())
    assert 0 < other_side < 200  # so that neither the 1 nor the doubling is lost in a clip
    assert score.p_value == 2 * (1 + other_side) / 401
    assert (score.low, score.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))


def test_paired_differences_of_equally_good_methods_seldom_look_significant():
    significant = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        labels = np.arange(80) % 2
        a, b = rng.normal(size=(2, 80)) + labels
        significant += paired_difference(a, b, labels, n_boot=300, seed=seed).p_value <= 0.05
    assert significant <= 12


# ------------------------------------------------------------------- undefined and malformed


def test_one_class_is_undefined_in_words_and_nothing_is_nan():
    p = np.linspace(0.1, 0.6, 160)
    found = evaluate_classifier(p, np.zeros(160), probabilities=p, positive="correct", n_boot=50)
    for name in ("auroc", "average_precision"):
        assert found[name].value is None
        assert found[name].low is None
        assert format_score(found[name]) == "undefined: only one class (0 of 160 correct)"
    assert found["brier"].value == pytest.approx(np.mean(p**2))
    for score in found.values():
        json.dumps(score.as_dict(), allow_nan=False)
    difference = paired_difference(p, -p, np.ones(160))
    assert difference.undefined == "only one class (160 of 160 positive)"
    assert difference.p_value is None


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_rows_are_undefined(n):
    values = np.full(n, 0.5)
    found = evaluate_classifier(values, np.zeros(n), probabilities=values)
    found |= evaluate_regression(values, values)
    assert len(found) == 7
    assert {score.undefined for score in found.values()} == {f"fewer than 2 rows (n = {n})"}


def test_constant_predictions_have_no_rank_correlation():
    found = evaluate_regression(np.ones(9), np.arange(9.0), n_boot=50, n_perm=50)
    assert found["spearman"].undefined == "all 9 predicted values are equal"
    assert found["rmse"].value is not None
    assert correlation(np.arange(9.0), np.zeros(9)).undefined == "all 9 true values are equal"


def test_a_rare_class_leaves_no_interval_and_says_so():
    labels = np.zeros(50)
    labels[7] = 1
    score = evaluate_classifier(np.arange(50.0), labels)["auroc"]
    assert score.value == pytest.approx(7 / 49)
    assert score.low is None
    assert score.note.startswith("undefined in 3")  # (1 - 1/50)^50 = 36 % of the resamples
    assert format_score(score).startswith("0.143 (no interval: undefined in 3")
    labels[11:15] = 1
    kept = evaluate_classifier(np.arange(50.0), labels)["auroc"]
    assert kept.low is not None
    assert kept.note.endswith("of 2000 resamples undefined, left out")


def test_rows_of_one_group_leave_no_interval():
    scores, labels = noisy(20, seed=0)
    score = evaluate_classifier(scores, labels, groups=["q"] * 20)["auroc"]
    assert score.low is None
    assert score.note == "all rows belong to one group"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluate_classifier([0.1, np.nan], [0, 1]), "scores: row 1 is nan"),
        (lambda: evaluate_classifier([0.1, 0.2], [0, 2]), "labels: row 1 is 2, expected 0 or 1"),
        (lambda: evaluate_classifier([0.1, 0.2], [0, 1, 1]), "2 predictions for 3 labels"),
        (lambda: ece(np.array([0.1, 1.2]), np.array([0, 1])), "row 1 is 1.2, outside 0 to 1"),
        (lambda: evaluate_regression([0.1, np.inf], [0, 1]), "predicted: row 1 is inf"),
        (lambda: auroc(np.ones((2, 2)), np.ones(2)), "one value a row"),
        (lambda: evaluate_classifier([0.1, 0.2], [0, 1], groups=["a"]), "groups: 1 for 2 rows"),
        (lambda: paired_difference([1, 2], [1, 2], [0, 1], "f1"), "'f1' is not one of auroc"),
        (lambda: auroc(np.arange(3.0), np.ones(3)).value(), r"only one class \(3 of 3"),
        (lambda: roc_curve(np.arange(3.0), np.ones(3)), r"only one class \(3 of 3"),
        (lambda: risk_coverage(np.array([]), np.array([])), "no rows"),
        (lambda: best_split_threshold([0.0, np.nan]), "values: row 1 is nan"),
        (lambda: shuffled_scores_tripwire([0.5] * 9), "9 refits, expected at least 10"),
    ],
)
def test_malformed_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ------------------------------------------------------------------------ curves, thresholds


@given(scored_labels())
def test_the_area_under_the_roc_curve_is_the_auroc(data):
    scores, labels = data
    curve = roc_curve(scores, labels)
    area = np.trapezoid(curve.true_positive_rate, curve.false_positive_rate)
    assert area == pytest.approx(auroc(scores, labels).value(), abs=1e-12)
    for k, threshold in enumerate(curve.thresholds):
        called = scores >= threshold
        assert curve.true_positive_rate[k + 1] == pytest.approx(called[labels == 1].mean())
        assert curve.false_positive_rate[k + 1] == pytest.approx(called[labels == 0].mean())


def test_reliability_counts_every_row_once_and_draws_wilson_bands():
    rng = np.random.default_rng(0)
    p = np.r_[rng.uniform(0, 0.55, 300), 1.0]
    labels = (rng.uniform(size=301) < p).astype(int)
    curve = reliability(p, labels)
    assert curve.counts.sum() == 301
    assert len(curve.counts) == 7  # bins 0.6 to 0.9 are empty and left out
    assert (curve.low_edge <= curve.mean_predicted).all()
    assert (curve.mean_predicted <= curve.high_edge).all()
    in_first = p < 0.1
    hits, count = labels[in_first].sum(), in_first.sum()
    reference = scipy.stats.binomtest(int(hits), int(count)).proportion_ci(method="wilson")
    assert curve.observed[0] == pytest.approx(hits / count)
    assert (curve.observed_low[0], curve.observed_high[0]) == pytest.approx(tuple(reference))


def test_the_reliability_of_copies_is_as_certain_as_that_of_one_of_each():
    p = np.array([0.05, 0.06, 0.07, 0.31, 0.33, 0.34, 0.35, 0.9])
    labels = np.array([0, 0, 1, 0, 1, 1, 0, 1])
    copies = np.repeat(np.arange(8), 6)
    one, six = reliability(p, labels), reliability(p[copies], labels[copies], groups=copies)
    np.testing.assert_allclose(six.observed_low, one.observed_low)
    np.testing.assert_allclose(six.observed_high, one.observed_high)
    np.testing.assert_array_equal(six.counts, 6 * one.counts)
    apart = reliability(p[copies], labels[copies], groups=np.arange(48))
    plain = reliability(p[copies], labels[copies])
    np.testing.assert_array_equal(apart.observed_low, plain.observed_low)


def test_the_risk_band_of_copies_is_that_of_one_of_each():
    rng = np.random.default_rng(0)
    scores, wrong = rng.permutation(40) / 40, rng.integers(0, 2, 40)
    copies = np.repeat(np.arange(40), 5)
    one = risk_coverage(scores, wrong, n_boot=300)
    five = risk_coverage(scores[copies], wrong[copies], n_boot=300, groups=copies)
    np.testing.assert_allclose(five.risk_low[4::5], one.risk_low)
    np.testing.assert_allclose(five.risk_high[4::5], one.risk_high)
    uneven = np.minimum(np.arange(200) // 5, 30)  # resamples hold more or fewer rows than there are
    drawn = risk_coverage(scores[copies], wrong[copies], n_boot=300, groups=uneven)
    assert (drawn.risk_low[-1], drawn.risk_high[-1]) == pytest.approx(
        np.quantile(
            [
                np.average(wrong[copies], weights=weights)
                for chunk in resamples(200, 300, 0, uneven)
                for weights in chunk
            ],
            [0.025, 0.975],
        )
    )


def test_risk_coverage_of_a_known_ranking():
    wrong = np.array([0, 0, 1, 1])
    perfect = risk_coverage(np.array([1.0, 2, 3, 4]), wrong)
    np.testing.assert_allclose(perfect.risk, [0, 0, 1 / 3, 1 / 2])
    np.testing.assert_allclose(perfect.coverage, [0.25, 0.5, 0.75, 1])
    assert perfect.aurc == perfect.best_aurc == pytest.approx(5 / 24)
    tied = risk_coverage(np.zeros(4), wrong)
    np.testing.assert_allclose(tied.risk, 0.5)
    assert tied.aurc == tied.error_rate == 0.5
    partly = risk_coverage(np.array([5.0, 2, 2, 2]), np.array([1, 1, 0, 0]))
    np.testing.assert_allclose(partly.risk, [1 / 3, 1 / 3, 1 / 3, 1 / 2])


@given(scored_labels())
def test_risk_within_ties_lies_between_the_luckiest_and_the_unluckiest_order(data):
    scores, wrong = data
    curve = risk_coverage(scores, wrong)
    orders = [np.lexsort((sign * wrong, scores)) for sign in (-1, 1)]
    risks = [np.cumsum(wrong[order]) / np.arange(1, len(wrong) + 1) for order in orders]
    assert (curve.risk <= risks[0] + 1e-12).all()
    assert (curve.risk >= risks[1] - 1e-12).all()
    assert curve.best_aurc <= curve.aurc + 1e-12


@given(hnp.arrays(float, st.integers(1, 25), elements=st.sampled_from(np.arange(9) / 4)))
def test_best_split_is_as_good_as_the_best_of_all_splits(values):
    def spread(gamma: float) -> float:
        parts = [values[values <= gamma], values[values > gamma]]
        return sum(((part - part.mean()) ** 2).sum() for part in parts if len(part))

    distinct = np.unique(values)
    gamma = best_split_threshold(values)
    if len(distinct) == 1:
        assert gamma is None
        return
    midpoints = (distinct[1:] + distinct[:-1]) / 2
    assert gamma in midpoints
    assert spread(gamma) == pytest.approx(min(map(spread, midpoints)), abs=1e-9)


def test_best_split_between_neighbouring_floats_still_parts_them():
    low, high = 1.0, np.nextafter(1.0, 2.0)
    gamma = best_split_threshold([low, high])
    assert low <= gamma < high
    assert best_split_threshold([]) is None


# ---------------------------------------------------------------------------------- tripwires


def test_shuffled_labels_pass_for_an_honest_probe_and_trip_for_a_leak():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(120, 10))
    labels = (2 * features[:, 0] + rng.normal(size=120) > 0).astype(int)
    train = np.arange(120) < 60

    def honest(shuffled: np.ndarray) -> float:
        weights = np.linalg.lstsq(features[train], shuffled[train] - 0.5, rcond=None)[0]
        return auroc(features[~train] @ weights, labels[~train]).value()

    def leaky(shuffled: np.ndarray) -> float:  # fitted on the rows it is tested on
        weights = np.linalg.lstsq(features, shuffled - 0.5, rcond=None)[0]
        return auroc(features @ weights, shuffled).value()

    def refits(fit_and_score: Callable[[np.ndarray], float]) -> list[float]:
        return [fit_and_score(rng.permutation(labels)) for _ in range(20)]

    assert honest(labels) > 0.7
    assert shuffled_scores_tripwire(refits(honest)).passed is True
    tripped = shuffled_scores_tripwire(refits(leaky))
    assert tripped.passed is False
    assert tripped.value > 0.55
    judged = shuffled_scores_tripwire(np.linspace(0.4, 0.6, 20), real_score=0.9)
    assert "0 of 20 reached the real score 0.900" in judged.detail


def test_memorisation_and_constant_input_tripwires():
    assert memorisation_tripwire(1.0).passed
    assert not memorisation_tripwire(0.98).passed
    labels = np.arange(30) % 2
    constant = score_metric(auroc(np.full(30, 3.0), labels), 50, 50)
    assert constant_input_tripwire(constant).passed is True
    lengths = score_metric(auroc(np.arange(30.0) ** 2, labels), 50, 50)
    assert constant_input_tripwire(lengths).passed is False
    undefined = Score("auroc", None, None, None, None, 5, "only one class (0 of 5 positive)")
    assert constant_input_tripwire(undefined).passed is None


def test_spearman_intervals_are_reranked_and_contain_the_value():
    x, y = noisy(80, seed=4)
    score = score_metric(spearman(x, y), n_boot=500, n_perm=200)
    assert score.low < score.value < score.high
